"""OpenClaw's keys that this gateway does not serve: accepted, left out and named once.

A file written for OpenClaw loads, a misspelt key is still refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .schema import served_keys

_API_KINDS = {
    "azure-openai-responses",
    "bedrock-converse-stream",
    "github-copilot",
    "google-generative-ai",
    "google-vertex",
    "ollama",
    "openai-chatgpt-responses",
    "openai-codex-responses",
    "openai-responses",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PARAMS = _words(
    """cacheRetention chat_template_kwargs context1m extraBody extra_body fastMode openaiWsWarmup
    parallel_tool_calls responsesServerCompaction serviceTier streaming textVerbosity thinking transport"""
)
_TOOLS = _words(
    """agentToAgent byProvider codeMode elevated exec experimental fs github links loopDetection media
    message sandbox sessions sessions_spawn subagents swarm toolSearch toolsBySender web"""
)
_AGENT = _words(
    """agentDir agentRuntime bootstrapMaxChars bootstrapTotalMaxChars contextInjection contextLimits
    contextTokens description embeddedAgent embeddedPi experimental fastModeDefault groupChat heartbeat
    humanDelay identity memory memorySearch modelPolicy models plugins reasoningDefault runtime sandbox
    skills skillsLimits subagents thinkingDefault toolProgressDetail tts typingIntervalSeconds typingMode
    utilityModel verboseDefault"""
)
_COMPAT = _words(
    """nativeWebSearchTool requiresAssistantAfterToolResult requiresMistralToolIds
    requiresOpenAiAnthropicToolPayload requiresStringContent requiresThinkingAsText requiresToolResultName
    supportedReasoningEfforts supportsPromptCacheKey supportsReasoningEffort supportsStrictMode
    thinkingFormat toolCallArgumentsEncoding toolSchemaProfile"""
)

UNSERVED: Mapping[str, frozenset[str]] = {
    "": _words(
        """$schema accessGroups acp approvals audio auth bindings broadcast browser canvasHost channels cli
        cloudWorkers commands crestodian cron diagnostics discovery hooks logging mcp media memory messages
        meta multiAgent nodeHost plugins proxy secrets skills surfaces talk tts ui update web wizard"""
    ),
    "env": _words("shellEnv"),
    "gateway": _words(
        """allowRealIpFallback channelHealthCheckMinutes channelMaxRestartsPerHour
        channelStaleEventThresholdMinutes cliAgents controlUi handshakeTimeoutMs mode nodes publicOrigin
        push reload remote roles tailscale terminal tls tools webchat"""
    ),
    "gateway.auth": _words("allowTailscale identityScopes trustedProxy"),
    "gateway.http": _words("securityHeaders"),
    "gateway.http.endpoints": _words("embeddings responses"),
    "gateway.http.endpoints.chatCompletions": _words("images maxBodyBytes maxImageParts maxTotalImageBytes"),
    "agents.defaults": _words(
        """additionalSystemPrompt agentRuntime blockStreamingBreak blockStreamingChunk
        blockStreamingCoalesce blockStreamingDefault bootstrapPromptTruncationWarning cliBackends compaction
        contextInjection contextLimits contextPruning contextTokens elevatedDefault embeddedAgent embeddedPi
        envelopeElapsed envelopeTimestamp envelopeTimezone experimental fastModeDefault heartbeat humanDelay
        imageGenerationModel imageMaxDimensionPx imageModel imageQuality mediaMaxMb memorySearch modelPolicy
        models musicGenerationModel pdfMaxBytesMb pdfMaxPages pdfModel reasoningDefault repoRoot sandbox
        silentReply skills skipBootstrap skipOptionalBootstrapFiles startupContext subagents
        systemPromptOverride timeFormat toolProgressDetail typingIntervalSeconds typingMode userTimezone
        utilityModel verboseDefault videoGenerationModel"""
    ),
    "agents.defaults.params": _PARAMS,
    "agents.defaults.model": _words("timeoutMs"),
    "agents.list[]": _AGENT,
    "agents.list[].model": _words("timeoutMs"),
    "agents.list[].params": _PARAMS,
    "agents.list[].tools": _TOOLS,
    "agents.entries.*": _AGENT,
    "agents.entries.*.model": _words("timeoutMs"),
    "agents.entries.*.params": _PARAMS,
    "agents.entries.*.tools": _TOOLS,
    "models": _words("bedrockDiscovery mode pricing proxy"),
    "models.providers.*": _words(
        """agentRuntime auth contextTokens contextWindow injectNumCtxForOpenAICompat localService maxTokens
        params region request timeoutSeconds"""
    ),
    "models.providers.*.compat": _COMPAT,
    "models.providers.*.models[]": _words(
        """agentRuntime api baseUrl compat contextTokens cost headers mediaInput metadataSource name params
        reasoning thinkingLevelMap"""
    ),
    "session": _words(
        """agentToAgent dmScope idleMinutes identityLinks maintenance maxRecentTurns parentForkMaxTokens reset
        resetByChannel resetByType resetTriggers scope sendPolicy store threadBindings
        transcriptRetentionDays typingIntervalSeconds typingMode writeLock"""
    ),
    "tools": _TOOLS,
}


def pattern_of(steps: Iterable[str | int]) -> str:
    """The way to a value with the names people choose as `*`: `models.providers.*.models[]`."""
    served = served_keys()
    pattern = ""
    for step in steps:
        pattern = _below(pattern, step, served)
    return pattern


def without_unserved(document: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """``document`` without keys and providers that are not served; ``warnings`` names them."""
    names: set[str] = set()
    pruned: dict[str, Any] = _prune(document, "", served_keys(), names)
    if names:
        warnings.append(f"not served by this gateway and ignored: {', '.join(sorted(names))}")
    return _without_foreign_providers(pruned, warnings)


def _prune(value: Any, pattern: str, served: tuple[str, ...], names: set[str]) -> Any:
    if isinstance(value, list):
        return [_prune(item, f"{pattern}[]", served, names) for item in value]
    if not isinstance(value, dict):
        return value
    ignored = UNSERVED.get(pattern, frozenset()) & value.keys()
    names.update(f"{pattern}.{key}".removeprefix(".") for key in ignored)
    return {
        key: _prune(item, _below(pattern, key, served), served, names)
        for key, item in value.items()
        if key not in ignored
    }


def _below(pattern: str, step: str | int, served: tuple[str, ...]) -> str:
    if isinstance(step, int):
        return f"{pattern}[]"
    path = f"{pattern}.{step}".removeprefix(".")
    return path if path in served or not pattern else f"{pattern}.*"


def _without_foreign_providers(document: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    models = document.get("models")
    providers = models.get("providers") if isinstance(models, dict) else None
    if not isinstance(models, dict) or not isinstance(providers, dict):
        return document
    kept = {}
    for name, provider in providers.items():
        kind = provider.get("api") if isinstance(provider, dict) else None
        if isinstance(kind, str) and kind in _API_KINDS:
            warnings.append(
                f'models.providers.{name}: api "{kind}" is not served yet; the provider is ignored'
            )
        else:
            kept[name] = provider
    return {**document, "models": {**models, "providers": kept}}
