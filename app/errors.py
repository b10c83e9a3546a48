"""Every error the gateway raises on purpose.

::

    GatewayError                    500  api_error
    ├── ConfigError                      the configuration cannot be used; start-up stops
    ├── InvalidRequest              400  invalid_request_error
    │   ├── PayloadTooLarge         413
    │   ├── BodyTimeout             408
    │   └── KeyReused               422
    ├── Unauthorized                401  unauthorized
    │   └── TooManyFailures         429  rate_limited
    ├── Forbidden                   403  who asks is known, and may not
    ├── NotFound                    404  invalid_request_error
    │   ├── AgentNotFound                model_not_found
    │   └── EndpointDisabled             endpoint_disabled
    ├── MethodNotAllowed            405  invalid_request_error
    ├── Gone                        410  what a run has said is not kept any more
    │   └── EventsLost
    ├── RunUnderWay                 409  invalid_request_error
    ├── RunInterrupted              409  the gateway stopped before the run was over
    ├── Unavailable                 503  service_unavailable
    │   ├── GatewayBusy             503  too many runs are waiting
    │   └── GatewayDraining         503  the process is going away
    ├── SessionBusy                 429  too many runs wait for one session
    ├── RunTimeout                  504  timeout
    ├── RunAborted                  499  the run was cancelled before its end
    ├── ProviderError               by reason, see ``_PROVIDER_WIRE``
    ├── InvalidAnswer           502  the model did not answer as the request demands
    └── StoreError                  500  state could not be read or written
        ├── StoreUnavailable    503  the database cannot be reached now
        └── Fenced                       the run was given up by the others meanwhile

A class carries its wire data; each channel has one renderer. Messages are written for
the person who reads them and never hold a secret, a traceback or a path of this machine
(a :class:`ConfigError` is for the operator and may name the file).
"""

from __future__ import annotations

from enum import StrEnum
from math import ceil
from pathlib import Path


class GatewayError(Exception):
    """Base of the tree. ``str(error)`` is the text a client may see.

    :ivar status: HTTP status before the first byte of the answer.
    :ivar type: OpenAI's ``error.type``.
    :ivar code: OpenAI's ``error.code`` or None.
    :ivar param: the request parameter at fault or None.
    :ivar retry_after: seconds after which a retry makes sense, or None.
    """

    status: int = 500
    type: str = "api_error"
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None

    @property
    def message(self) -> str:
        """The text a client may see."""
        return str(self)

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that belong to this error."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(max(1, ceil(self.retry_after)))}


class ConfigError(GatewayError):
    """The configuration cannot be used. ``problems`` holds one line per mistake.

    :ivar files: where it was read; none if it does not come from files.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = (), files: tuple[Path, ...] = ()) -> None:
        super().__init__("\n".join((message, *(f"- {p}" for p in problems))))
        self.problems = problems
        self.files = files


class InvalidRequest(GatewayError):
    """The request cannot be understood or asks for something that is not served."""

    status, type = 400, "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class PayloadTooLarge(InvalidRequest):
    """The request body is over the limit."""

    status = 413


class BodyTimeout(InvalidRequest):
    """The request body did not arrive in time."""

    status = 408


class KeyReused(InvalidRequest):
    """An ``Idempotency-Key`` that came with another request before."""

    status = 422

    def __init__(self) -> None:
        super().__init__(
            "Another request was made with this Idempotency-Key. Use a new key for a new request.",
            param="Idempotency-Key",
            code="idempotency_key_reused",
        )


class RunUnderWay(GatewayError):
    """What is wanted of a run can be had when it is over."""

    status, type, code = 409, "invalid_request_error", "run_in_progress"
    retry_after: float | None = 1

    def __init__(self, message: str = "The run is still under way.") -> None:
        super().__init__(message)


class RunInterrupted(GatewayError):
    """The run that is asked for again ended because the gateway did; it is not begun a second time."""

    status, type, code = 409, "api_error", "interrupted"

    def __init__(self) -> None:
        super().__init__("The gateway stopped before the run was over. It was not begun again.")

    @property
    def headers(self) -> dict[str, str]:
        """Official SDKs retry a 409 unless they are told not to."""
        return {"x-should-retry": "false"}


class Unauthorized(GatewayError):
    """The shared secret is missing or wrong; which of the two is not said."""

    status, type = 401, "unauthorized"

    def __init__(self) -> None:
        super().__init__("Unauthorized")

    @property
    def headers(self) -> dict[str, str]:
        """RFC 9110 section 11.6.1 wants a challenge with every 401."""
        return {"WWW-Authenticate": "Bearer"}


class TooManyFailures(GatewayError):
    """This client address is locked out after too many wrong secrets."""

    status, type, code = 429, "rate_limited", "auth_locked"

    def __init__(self, retry_after: float) -> None:
        super().__init__("Too many failed authentication attempts. Please try again later.")
        self.retry_after = retry_after


class Forbidden(GatewayError):
    """Who asks is known, and may not do this."""

    status, type, code = 403, "invalid_request_error", "forbidden"


class NotFound(GatewayError):
    """Nothing is served at this path."""

    status, type, code = 404, "invalid_request_error", "not_found"


class AgentNotFound(NotFound):
    """The request names an agent that is not configured. Nothing is created for it."""

    code = "model_not_found"

    def __init__(self, name: str, *, param: str | None = "model") -> None:
        super().__init__(f"The agent {name!r} does not exist. GET /v1/models lists the agents.")
        self.param = param


class ModelNotFound(NotFound):
    """The request names a model of a provider that there is not."""

    code = "model_not_found"

    def __init__(self, message: str, *, param: str | None = "model") -> None:
        super().__init__(message)
        self.param = param


class EndpointDisabled(NotFound):
    """The endpoint exists but the operator has not switched it on."""

    code = "endpoint_disabled"

    def __init__(self, config_key: str) -> None:
        super().__init__(f"This endpoint is disabled. Set {config_key} to true in openclaw.json.")


class MethodNotAllowed(GatewayError):
    """The path exists, the method does not. ``allow`` lists the methods that do."""

    status, type, code = 405, "invalid_request_error", "method_not_allowed"

    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__(f"Method not allowed. Use {' or '.join(allow)}.")
        self.allow = allow

    @property
    def headers(self) -> dict[str, str]:
        """RFC 9110 section 15.5.6: a 405 names the allowed methods."""
        return {"Allow": ", ".join(self.allow)}


class Gone(GatewayError):
    """There was a run, but what it has said is not kept any more."""

    status, type, code = 410, "invalid_request_error", "answer_not_kept"


class EventsLost(Gone):
    """A reader of a run has fallen so far behind that what comes next is not kept any more."""

    code = "events_lost"

    def __init__(self) -> None:
        super().__init__("The stream cannot go on here: a part of it is not kept any more.")


class Unavailable(GatewayError):
    """The gateway cannot take this request now."""

    status, type, code = 503, "service_unavailable", "gateway_unavailable"
    retry_after: float | None = 1


class GatewayBusy(Unavailable):
    """The number of admitted runs is at its limit."""

    code = "gateway_busy"

    def __init__(self) -> None:
        super().__init__("The gateway is at its limit of concurrent runs. Please try again.")


class GatewayDraining(Unavailable):
    """The process is shutting down."""

    def __init__(self) -> None:
        super().__init__("The gateway is shutting down. Please try again.")


class SessionBusy(GatewayError):
    """Too many runs are waiting for this session."""

    status, type, code = 429, "rate_limit_error", "session_busy"
    retry_after: float | None = 1

    def __init__(self, limit: int) -> None:
        super().__init__(f"This session already has {limit} requests, waiting and running ones together.")


class RunTimeout(GatewayError):
    """The run did not end within its time budget."""

    status, type, code = 504, "timeout", "run_timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The run did not finish within {seconds:g} seconds.")


class RunAborted(GatewayError):
    """The run was cancelled before it had an answer; 499 is nginx's "client closed request"."""

    status, type, code = 499, "api_error", "run_cancelled"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The run was cancelled ({reason}).")


class InvalidAnswer(GatewayError):
    """The model was told what the request demands of the answer, and still did not do so."""

    status, code = 502, "invalid_answer"

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


class StoreError(GatewayError):
    """State could not be read or written: a full disk, a damaged file, a lock."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """The database cannot be reached, or takes nothing, at the moment."""

    status, type, code = 503, "service_unavailable", "store_unavailable"
    retry_after: float | None = 5


class Fenced(StoreError):
    """Other processes have taken the run for dead and closed it: it must not write any more."""

    code = "interrupted"

    def __init__(self) -> None:
        super().__init__("The run was given up: for too long nothing was heard of the process it was in.")


class ProviderReason(StrEnum):
    """Why a model provider failed; decides retry, fallback and HTTP status."""

    AUTH = "auth"
    BILLING = "billing"
    RATE_LIMIT = "rate_limit"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    TRUNCATED = "truncated"
    PROTOCOL = "protocol"
    CONTEXT_OVERFLOW = "context_overflow"
    FORMAT = "format"
    MODEL_NOT_FOUND = "model_not_found"
    EMPTY = "empty_response"
    UNAVAILABLE = "unavailable"


# reason -> (status, type, code). A provider's 401 is not the caller's 401: the caller's
# own secret was right, so it is shown as a bad gateway.
_PROVIDER_WIRE: dict[ProviderReason, tuple[int, str, str]] = {
    ProviderReason.AUTH: (502, "api_error", "provider_auth"),
    ProviderReason.BILLING: (402, "insufficient_quota", "insufficient_quota"),
    ProviderReason.RATE_LIMIT: (429, "rate_limit_error", "rate_limit_exceeded"),
    ProviderReason.OVERLOADED: (503, "api_error", "provider_overloaded"),
    ProviderReason.SERVER_ERROR: (502, "api_error", "provider_error"),
    ProviderReason.TIMEOUT: (504, "timeout", "provider_timeout"),
    ProviderReason.CONNECTION: (502, "api_error", "provider_unreachable"),
    ProviderReason.TRUNCATED: (502, "api_error", "provider_truncated"),
    ProviderReason.PROTOCOL: (502, "api_error", "provider_protocol"),
    ProviderReason.CONTEXT_OVERFLOW: (400, "invalid_request_error", "context_length_exceeded"),
    ProviderReason.FORMAT: (400, "invalid_request_error", "provider_rejected_request"),
    ProviderReason.MODEL_NOT_FOUND: (404, "invalid_request_error", "model_not_found"),
    ProviderReason.EMPTY: (502, "api_error", "empty_response"),
    ProviderReason.UNAVAILABLE: (503, "service_unavailable", "provider_unavailable"),
}

_RETRYABLE = frozenset(
    {
        ProviderReason.RATE_LIMIT,
        ProviderReason.OVERLOADED,
        ProviderReason.SERVER_ERROR,
        ProviderReason.CONNECTION,
        ProviderReason.TRUNCATED,
    }
)


class ProviderError(GatewayError):
    """A model provider failed or could not be reached.

    :param reason: the class of failure.
    :param message: text for the caller, already free of secrets.
    :param provider: id of the provider, for logs and the run's record.
    :param upstream_status: the provider's HTTP status, if it gave one.
    :param retry_after: the provider's own ``Retry-After`` in seconds, if it gave one.
    """

    def __init__(
        self,
        reason: ProviderReason,
        message: str,
        *,
        provider: str = "",
        upstream_status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.provider = provider
        self.upstream_status = upstream_status
        self.status, self.type, self.code = _PROVIDER_WIRE[reason]
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        """True if the same call may succeed a little later."""
        return self.reason in _RETRYABLE
