"""The error tree and what it looks like on the wire."""

from __future__ import annotations

import json

import pytest

from app.channels.openai.chunks import error_body
from app.errors import (
    AgentNotFound,
    BodyTimeout,
    ConfigError,
    EndpointDisabled,
    Forbidden,
    GatewayBusy,
    GatewayDraining,
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    ProviderError,
    ProviderReason,
    RunAborted,
    RunTimeout,
    SessionBusy,
    StoreError,
    TooManyFailures,
    Unauthorized,
)

WIRE = [
    (GatewayError("x"), 500, "api_error", None, {}),
    (InvalidRequest("x"), 400, "invalid_request_error", None, {}),
    (PayloadTooLarge("x"), 413, "invalid_request_error", None, {}),
    (BodyTimeout("x"), 408, "invalid_request_error", None, {}),
    (Unauthorized(), 401, "unauthorized", None, {"WWW-Authenticate": "Bearer"}),
    (TooManyFailures(12.1), 429, "rate_limited", "auth_locked", {"Retry-After": "13"}),
    (Forbidden("x"), 403, "invalid_request_error", "forbidden", {}),
    (NotFound("x"), 404, "invalid_request_error", "not_found", {}),
    (AgentNotFound("a"), 404, "invalid_request_error", "model_not_found", {}),
    (EndpointDisabled("a.b"), 404, "invalid_request_error", "endpoint_disabled", {}),
    (MethodNotAllowed(("PUT",)), 405, "invalid_request_error", "method_not_allowed", {"Allow": "PUT"}),
    (GatewayBusy(), 503, "service_unavailable", "gateway_busy", {"Retry-After": "1"}),
    (GatewayDraining(), 503, "service_unavailable", "gateway_unavailable", {"Retry-After": "1"}),
    (SessionBusy(3), 429, "rate_limit_error", "session_busy", {"Retry-After": "1"}),
    (RunTimeout(1.5), 504, "timeout", "run_timeout", {}),
    (RunAborted("user"), 499, "api_error", "run_cancelled", {}),
    (StoreError("x"), 500, "api_error", "store_error", {}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "status", "kind", "code", "headers"), WIRE, ids=lambda v: type(v).__name__)
def test_an_error_carries_its_wire_data(
    error: GatewayError, status: int, kind: str, code: str | None, headers: dict[str, str]
) -> None:
    assert (error.status, error.type, error.code, error.headers) == (status, kind, code, headers)
    assert error.message


@pytest.mark.parametrize("reason", ProviderReason)
def test_no_provider_failure_looks_like_the_callers_own_secret_was_wrong(reason: ProviderReason) -> None:
    error = ProviderError(reason, "It failed.")

    assert error.status not in (401, 403)
    assert 400 <= error.status < 600
    assert error.code


@pytest.mark.parametrize(
    ("reason", "status", "kind", "code"),
    [
        (ProviderReason.AUTH, 502, "api_error", "provider_auth"),
        (ProviderReason.BILLING, 402, "insufficient_quota", "insufficient_quota"),
        (ProviderReason.RATE_LIMIT, 429, "rate_limit_error", "rate_limit_exceeded"),
        (ProviderReason.OVERLOADED, 503, "api_error", "provider_overloaded"),
        (ProviderReason.TIMEOUT, 504, "timeout", "provider_timeout"),
        (ProviderReason.CONTEXT_OVERFLOW, 400, "invalid_request_error", "context_length_exceeded"),
        (ProviderReason.MODEL_NOT_FOUND, 404, "invalid_request_error", "model_not_found"),
    ],
)
def test_a_provider_failure_is_shown_by_its_reason(
    reason: ProviderReason, status: int, kind: str, code: str
) -> None:
    error = ProviderError(reason, "x")

    assert (error.status, error.type, error.code) == (status, kind, code)


def test_what_may_go_better_a_little_later_is_retryable_and_nothing_else() -> None:
    retryable = {reason.value for reason in ProviderReason if ProviderError(reason, "x").retryable}

    assert retryable == {"rate_limit", "overloaded", "server_error", "connection", "truncated"}


@pytest.mark.parametrize(
    ("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (59.5, "60")]
)
def test_retry_after_is_whole_seconds_and_at_least_one(seconds: float, header: str) -> None:
    error = ProviderError(ProviderReason.RATE_LIMIT, "x", retry_after=seconds)

    assert error.headers == {"Retry-After": header}


def test_a_configuration_error_lists_every_problem() -> None:
    error = ConfigError("It cannot be used:", ("a is wrong", "b is missing"))

    assert str(error) == "It cannot be used:\n- a is wrong\n- b is missing"
    assert error.problems == ("a is wrong", "b is missing")


@pytest.mark.parametrize("error", [row[0] for row in WIRE], ids=lambda e: type(e).__name__)
def test_every_error_is_an_object_with_the_four_keys_of_openai(error: GatewayError) -> None:
    body = json.loads(json.dumps(error_body(error)))

    assert set(body) == {"error"}
    assert list(body["error"]) == ["message", "type", "param", "code"]


def test_an_error_names_the_parameter_at_fault() -> None:
    error = InvalidRequest("no", param="messages[0].role", code="invalid_value")

    assert error_body(error)["error"] == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "messages[0].role",
        "code": "invalid_value",
    }
