"""What a model API's refusal means: one reading for every provider and both phases.

A refusal is an HTTP status with a body, or an error object inside a stream that began
well. Only a request that the provider calls wrong is explained in the provider's words,
redacted and shortened; everything else gets a sentence of our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ..errors import ProviderError, ProviderReason
from ..messages import JsonValue
from ..wire import InvalidJson, loads

_SHOWN = 300

_SENTENCES = {
    ProviderReason.AUTH: "refused the configured credentials",
    ProviderReason.BILLING: "reports that the account has no credit or quota left",
    ProviderReason.RATE_LIMIT: "limits the rate of requests",
    ProviderReason.OVERLOADED: "is overloaded",
    ProviderReason.SERVER_ERROR: "failed with an internal error",
    ProviderReason.TIMEOUT: "did not finish in time",
    ProviderReason.PROTOCOL: "answered with something that is not a chat completion; check its base URL",
    ProviderReason.CONTEXT_OVERFLOW: "reports that the conversation does not fit into the model's context",
    ProviderReason.MODEL_NOT_FOUND: "does not serve this model or address",
}

_BY_STATUS = {
    401: ProviderReason.AUTH,
    402: ProviderReason.BILLING,
    403: ProviderReason.AUTH,
    404: ProviderReason.MODEL_NOT_FOUND,
    408: ProviderReason.TIMEOUT,
    429: ProviderReason.RATE_LIMIT,
    503: ProviderReason.OVERLOADED,
    504: ProviderReason.TIMEOUT,
    524: ProviderReason.TIMEOUT,  # Cloudflare: the origin was too slow
    529: ProviderReason.OVERLOADED,  # Anthropic
}

# An error object inside a stream often has a name but no number.
_STATUS_BY_NAME = {
    "authentication_error": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "unauthenticated": 401,
    "insufficient_quota": 402,
    "billing_error": 402,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "resource_exhausted": 429,
    "overloaded_error": 529,
    "unavailable": 503,
    "timeout": 504,
    "timeout_error": 504,
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "request_too_large": 413,
}

_OVERFLOW = re.compile(
    r"context_length_exceeded|exceed_context_size|context_window_exceeded|model_max_prompt_tokens"
    r"|maximum context length|exceeds? the (?:available |model'?s? )?(?:maximum )?context"
    r"|(?:context|prompt|input)\b.{0,40}\b(?:too long|too large)|too many (?:input )?tokens"
    r"|input token count.{0,40}exceeds|exceeds? .{0,40}(?:context window|context size|context length)"
    r"|exceeds? context limit"
)
_BILLING = re.compile(
    r"insufficient[_ ](?:quota|credits?|balance|funds)|credit balance|exceeded your current quota"
    r"|billing[_ ](?:hard[_ ]limit|not[_ ]active)|payment required|out of credits"
    r"|reached your specified api usage limits"
)
_AUTH = re.compile(r"(?:invalid|incorrect|missing)[_ ](?:x-)?api[_ -]?key|api key not valid|invalid_api_key")
_NO_MODEL = re.compile(
    r"model_not_found|model not (?:found|exist)|not a valid model|unknown model"
    r"|model\b.{0,80}\b(?:does not exist|not found)"
)
_OVERLOADED = re.compile(r"overloaded|at capacity|over capacity")

_SECRETS = (
    (re.compile(r"\b([a-z][a-z0-9+.-]{0,20}://)[^/\s@]{1,400}@", re.IGNORECASE), r"\1[redacted]@"),
    (re.compile(r"\b(bearer|basic)\s+[^\s,;\"']{4,}", re.IGNORECASE), r"\1 [redacted]"),
    (re.compile(r"\b(?:sk|pk|rk|gsk|xai|csk|key|tok|r8|hf)[-_][\w*.-]{6,}", re.IGNORECASE), "[redacted]"),
    (re.compile(r"\bAIza[\w-]{20,}"), "[redacted]"),
    (re.compile(r"((?:api[-_]?key|access[-_]?token|token|secret|key)[\"']?\s?[=:]\s?[\"']?)[^\s&\"',;]{6,}",
                re.IGNORECASE), r"\1[redacted]"),
    (re.compile(r"(?<![\w.:/])/(?:home|root|Users|var|tmp|opt|usr|etc|srv|mnt|data|workspace|app)/[^\s\"',;)]*"),
     "[path]"),
)  # fmt: skip


def classify_response(
    provider: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
    secrets: Sequence[str] = (),
) -> ProviderError:
    """The error that a response with an unexpected ``status`` stands for.

    :param now: for a ``Retry-After`` that is a date; with a time zone.
    :param secrets: values that must not be shown even if the provider repeats them.
    """
    details = _parse(body)
    return ProviderError(
        reason := _reason(status, details.text),
        _message(provider, reason, details, status, secrets),
        provider=provider,
        upstream_status=status,
        retry_after=_retry_after(headers, now),
    )


def classify_event(provider: str, error: JsonValue, *, secrets: Sequence[str] = ()) -> ProviderError:
    """The error that an ``error`` value inside a stream of status 200 stands for."""
    details = _details(error)
    status = details.status or _STATUS_BY_NAME.get(details.name, 500)
    reason = _reason(status, details.text)
    return ProviderError(reason, _message(provider, reason, details, status, secrets), provider=provider)


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """``text`` in one line without ``secrets`` and whatever else looks like a credential or a path."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "[redacted]")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@dataclass(frozen=True, slots=True)
class _Details:
    """What an error body says; ``text`` is all of it in lower case, for the patterns."""

    message: str = ""
    name: str = ""
    status: int = 0
    text: str = ""


def _parse(body: bytes) -> _Details:
    try:
        value = loads(body)
    except InvalidJson:
        text = body.decode(errors="replace").strip()
        return _Details() if text.startswith("<") else _Details(message=text, text=text.lower())
    if isinstance(value, list) and value:  # Google wraps the object in a list
        value = value[0]
    if isinstance(value, dict):
        value = value.get("error") or value
    return _details(value)


def _details(error: JsonValue) -> _Details:
    if isinstance(error, str):
        return _Details(message=error, text=error.lower())
    if not isinstance(error, dict):
        return _Details()
    message = _first_text(error, "message", "detail", "error")
    names = [str(error[key]).lower() for key in ("code", "type", "status") if isinstance(error.get(key), str)]
    numbers = [error.get(key) for key in ("code", "status", "status_code")]
    return _Details(
        message=message,
        name=next((name for name in names if name in _STATUS_BY_NAME), ""),
        status=next((n for n in numbers if isinstance(n, int) and 400 <= n < 600), 0),
        text="\n".join((*names, message.lower())),
    )


def _first_text(error: Mapping[str, JsonValue], *keys: str) -> str:
    return next((text for key in keys if isinstance(text := error.get(key), str) and text), "")


def _reason(status: int, text: str) -> ProviderReason:
    """The table of reasons. What the text says beats the status within its family."""
    if not 400 <= status < 600:
        return ProviderReason.PROTOCOL
    if status in {400, 413, 422, 500} and _OVERFLOW.search(text):
        return ProviderReason.CONTEXT_OVERFLOW
    if status == 413 and "token" in text:  # Groq: one request over the tokens of a minute
        return ProviderReason.CONTEXT_OVERFLOW
    if status in {400, 403, 429} and _BILLING.search(text):
        return ProviderReason.BILLING
    if status == 400 and _AUTH.search(text):
        return ProviderReason.AUTH
    if status in {400, 422} and _NO_MODEL.search(text):
        return ProviderReason.MODEL_NOT_FOUND
    if status >= 500 and _OVERLOADED.search(text):
        return ProviderReason.OVERLOADED
    fallback = ProviderReason.SERVER_ERROR if status >= 500 else ProviderReason.FORMAT
    return _BY_STATUS.get(status, fallback)


def _message(
    provider: str, reason: ProviderReason, details: _Details, status: int, secrets: Sequence[str]
) -> str:
    if reason is not ProviderReason.FORMAT:
        return f"Provider {provider!r} {_SENTENCES[reason]}."
    said = redact(details.message, secrets)
    if not said:
        return f"Provider {provider!r} rejected the request (HTTP {status})."
    shown = said if len(said) <= _SHOWN else said[: _SHOWN - 1] + "…"
    return f"Provider {provider!r} rejected the request: {shown}"


def _retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    if (milliseconds := _seconds(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _seconds(value)
    return seconds if seconds is not None or value is None else _seconds_until(value, now)


def _seconds(value: str | None) -> float | None:
    return float(value) if value and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value.strip()) else None


def _seconds_until(date: str, now: datetime) -> float | None:
    try:
        then = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - now).total_seconds())
