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
    "openai-chatgpt-responses",
    "openai-codex-responses",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PARAMS = _words(
    """cacheRetention chat_template_kwargs context1m extraBody extra_body fastMode openaiWsWarmup
    parallel_tool_calls responsesServerCompaction serviceTier streaming textVerbosity thinking transport"""
)
_TOOLS = _words(
    """agentToAgent codeMode elevated experimental fs github links loopDetection media
    message sandbox sessions sessions_spawn subagents swarm toolSearch toolsBySender"""
)
_AGENT = _words(
    """agentDir agentRuntime bootstrapMaxChars bootstrapTotalMaxChars contextInjection contextLimits
    contextTokens description embeddedAgent embeddedPi experimental fastModeDefault groupChat heartbeat
    humanDelay identity memory memorySearch modelPolicy models plugins reasoningDefault runtime sandbox
    skills skillsLimits subagents toolProgressDetail tts typingIntervalSeconds typingMode
    utilityModel verboseDefault"""
)
_COMPAT = _words(
    """nativeWebSearchTool requiresAssistantAfterToolResult requiresMistralToolIds
    requiresOpenAiAnthropicToolPayload requiresStringContent requiresThinkingAsText requiresToolResultName
    supportedReasoningEfforts supportsPromptCacheKey supportsReasoningEffort supportsStrictMode
    thinkingFormat toolCallArgumentsEncoding toolSchemaProfile"""
)

_EXEC = _words(
    "applyPatch host node notifyOnExit notifyOnExitEmptySuccess pathPrepend safeBins strictInlineEval"
)

UNSERVED: Mapping[str, frozenset[str]] = {
    "": _words(
        """$schema accessGroups acp approvals audio auth bindings broadcast browser canvasHost channels cli
        cloudWorkers commands crestodian cron diagnostics discovery hooks media memory
        meta multiAgent nodeHost plugins proxy secrets surfaces talk tts ui update web wizard"""
    ),
    "env": _words("shellEnv"),
    "logging": _words("consoleLevel file maxFileBytes redactPatterns redactSensitive"),
    "gateway": _words(
        """allowRealIpFallback channelHealthCheckMinutes channelMaxRestartsPerHour
        channelStaleEventThresholdMinutes cliAgents handshakeTimeoutMs mode nodes publicOrigin
        push remote roles tailscale terminal tls tools webchat"""
    ),
    "gateway.auth": _words("allowTailscale identityScopes trustedProxy"),
    "gateway.controlUi": _words(
        """allowExternalEmbedUrls allowInsecureAuth automaticallyFetchFavicons basePath chatMessageMaxWidth
        dangerouslyAllowHostHeaderOriginFallback dangerouslyDisableDeviceAuth embedSandbox enabled github
        root sessionObserver"""
    ),
    "gateway.reload": _words("debounceMs deferralTimeoutMs"),
    "gateway.http": _words("securityHeaders"),
    "gateway.http.endpoints": _words("embeddings"),
    "gateway.http.endpoints.responses": _words("files images maxBodyBytes maxUrlParts"),
    "gateway.http.endpoints.chatCompletions": _words("maxBodyBytes maxImageParts maxTotalImageBytes"),
    "agents.defaults": _words(
        """additionalSystemPrompt agentRuntime blockStreamingBreak blockStreamingChunk
        blockStreamingCoalesce blockStreamingDefault bootstrapPromptTruncationWarning cliBackends
        contextInjection contextLimits contextPruning contextTokens elevatedDefault embeddedAgent embeddedPi
        envelopeElapsed envelopeTimestamp envelopeTimezone experimental fastModeDefault heartbeat humanDelay
        imageGenerationModel imageMaxDimensionPx imageModel imageQuality mediaMaxMb memorySearch modelPolicy
        musicGenerationModel pdfMaxBytesMb pdfMaxPages pdfModel reasoningDefault repoRoot sandbox
        silentReply skills skipBootstrap skipOptionalBootstrapFiles startupContext
        systemPromptOverride timeFormat toolProgressDetail typingIntervalSeconds typingMode
        utilityModel verboseDefault videoGenerationModel"""
    ),
    "agents.defaults.compaction": _words(
        """customInstructions identifierInstructions identifierPolicy maxHistoryShare memoryFlush mode model
        notifyUser postCompactionSections postIndexSync provider qualityGuard recentTurnsPreserve
        reserveTokensFloor timeoutSeconds truncateAfterCompaction"""
    ),
    "agents.defaults.subagents": _words(
        """allowAgents announceTimeoutMs archiveAfterMinutes delegationMode requireAgentId
        runTimeoutSeconds thinking"""
    ),
    "agents.defaults.subagents.model": _words("timeoutMs"),
    "agents.defaults.params": _PARAMS,
    "agents.defaults.model": _words("timeoutMs"),
    "agents.list[]": _AGENT,
    "agents.list[].model": _words("timeoutMs"),
    "agents.list[].params": _PARAMS,
    "agents.list[].tools": _TOOLS,
    "agents.list[].tools.exec": _EXEC | _words("backgroundMs cleanupMs timeoutSec"),
    "agents.entries.*": _AGENT,
    "agents.entries.*.model": _words("timeoutMs"),
    "agents.entries.*.params": _PARAMS,
    "agents.entries.*.tools": _TOOLS,
    "agents.entries.*.tools.exec": _EXEC | _words("backgroundMs cleanupMs timeoutSec"),
    "mcp": _words("sessionIdleTtlMs"),
    "mcp.servers.*": _words("connectionTimeoutMs workingDirectory"),
    "messages": _words(
        """ackReaction ackReactionScope groupChat inbound messagePrefix removeAckAfterReply responsePrefix
        statusReactions suppressToolErrors tts usageTemplate visibleReplies"""
    ),
    "messages.queue": _words("byChannel cap debounceMs debounceMsByChannel drop"),
    "models": _words("bedrockDiscovery mode pricing proxy"),
    "models.providers.*": _words(
        """agentRuntime auth contextTokens contextWindow injectNumCtxForOpenAICompat localService maxTokens
        params region request timeoutSeconds"""
    ),
    "models.providers.*.compat": _COMPAT,
    "models.providers.*.models[]": _words(
        """agentRuntime api baseUrl compat contextTokens headers mediaInput metadataSource name params
        thinkingLevelMap"""
    ),
    "models.providers.*.models[].cost": _words("tieredPricing"),
    "session": _words(
        """agentToAgent dmScope idleMinutes identityLinks maxRecentTurns parentForkMaxTokens
        resetByChannel resetByType resetTriggers scope sendPolicy store threadBindings
        transcriptRetentionDays typingIntervalSeconds typingMode writeLock"""
    ),
    "session.maintenance": _words("highWaterBytes maxDiskBytes maxEntries pruneDays rotateBytes"),
    "session.reset": _words("daily"),
    "skills": _words("allowBundled install limits"),
    "skills.load": _words("watch watchDebounceMs"),
    "skills.entries.*": _words("apiKey config"),
    "tools": _TOOLS,
    "tools.exec": _EXEC,
    "tools.web.fetch": _words("firecrawl maxCharsCap maxResponseBytes readability ssrfPolicy userAgent"),
    "tools.web.search": _words("cacheTtlMinutes brave gemini grok kimi openaiCodex perplexity"),
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
