"""The handshake: who is let in, with which scopes, and what everybody else is told."""

from __future__ import annotations

import json
import logging
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from app.channels.auth import Guard
from app.channels.caller import CALLER, Caller
from app.channels.ws.handshake import Accepted, Handshake, Rejected, challenge, reason_of
from app.channels.ws.hello import Server, Snapshot, hello
from app.channels.ws.protocol import Client, Limits, Method, Refusal, Scope, Version
from app.channels.ws.scopes import allows, granted, method_for
from app.config import AuthConfig
from app.wire import dumps

SECRET = "s3cret-token-of-the-gateway"
WRONG = "wr0ng-token-of-a-stranger"
NONCE = "6e1c2d7c-0000-4000-8000-000000000001"
NOW = 1_795_399_380_722
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
RAW = KEY.public_key().public_bytes_raw()

HINT = "(give the client the gateway's token)"
NOT_ALLOWED = (
    "origin not allowed (open the Control UI from the gateway host "
    "or allow it in gateway.controlUi.allowedOrigins)"
)


def params(**changed: Any) -> dict[str, Any]:
    client = {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"}
    return {"minProtocol": 3, "maxProtocol": 4, "client": client, "auth": {"token": SECRET}} | changed


def frame(**changed: Any) -> bytes:
    return dumps({"type": "req", "id": "c1", "method": "connect", "params": params(**changed)})


def with_device(token: str = SECRET, **changed: Any) -> dict[str, Any]:
    """The parameters of a client whose device signs the older text."""
    name = sha256(RAW).hexdigest()
    text = f"v2|{name}|cli|cli|operator||{NOW}|{token}|{NONCE}"
    device = {
        "id": name,
        "publicKey": _base64(RAW),
        "signature": _base64(KEY.sign(text.encode())),
        "signedAt": NOW,
        "nonce": NONCE,
    }
    return {"auth": {"token": token}, "device": device | changed}


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def handshake(*origins: str, **auth: Any) -> Handshake:
    # One wrong secret locks an address out, and this machine is like any other.
    limits = {"maxAttempts": 1, "exemptLoopback": False}
    config = AuthConfig.model_validate({"token": SECRET, "rateLimit": limits} | auth)
    return Handshake(Guard(config, monotonic=lambda: 1_000.0), origins)


def environ(peer: str = "127.0.0.1", host: str = "localhost:18789", **more: str) -> dict[str, Any]:
    return {"REMOTE_ADDR": peer, "HTTP_HOST": host} | more


def judge(
    data: bytes | str, door: Handshake | None = None, where: Mapping[str, str] | None = None
) -> Accepted | Rejected:
    door, where = door or handshake(), where or environ()
    try:
        return door.accept(data, environ=where, nonce=NONCE, now_ms=NOW)
    except Rejected as rejected:
        return rejected


def let_in(data: bytes, door: Handshake | None = None, where: Mapping[str, Any] | None = None) -> Accepted:
    outcome = judge(data, door, where)
    assert isinstance(outcome, Accepted), outcome
    return outcome


def told(
    data: bytes, door: Handshake | None = None, where: Mapping[str, str] | None = None, *, close: int = 1008
) -> dict[str, Any]:
    """The error a refused client gets. The close says the same as far as it can."""
    outcome = judge(data, door, where)
    assert isinstance(outcome, Rejected), outcome
    answer = json.loads(outcome.frame or b"null")
    assert {name: answer[name] for name in ("type", "id", "ok")} == {"type": "res", "id": "c1", "ok": False}
    assert answer["error"]["code"] == "INVALID_REQUEST"
    assert (outcome.code, outcome.reason) == (close, reason_of(answer["error"]["message"]))
    error: dict[str, Any] = answer["error"]
    return error


# the first frames


def test_the_challenge_is_an_event_that_is_not_counted() -> None:
    assert json.loads(challenge(NONCE, NOW)) == {
        "type": "event",
        "event": "connect.challenge",
        "payload": {"nonce": NONCE, "ts": NOW},
    }


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        ("hello", 1000, ""),
        (b"\xff\xfe", 1000, ""),
        ("[" * 100_000, 1000, ""),
        ("[]", 1008, "invalid request frame"),
        ('{"id":"1","method":"connect"}', 1008, "invalid request frame"),
        ('{"jsonrpc":"2.0","id":"1","method":"connect"}', 1008, "invalid request frame"),
        ('{"type":"req","id":"","method":"connect"}', 1008, "invalid request frame"),
    ],
)
def test_what_is_no_request_ends_the_connection_without_an_answer(
    data: bytes | str, code: int, reason: str
) -> None:
    outcome = judge(data)

    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.reason, outcome.frame) == (code, reason, None)


def test_the_first_request_has_to_be_connect() -> None:
    error = told(b'{"type":"req","id":"c1","method":"health"}')

    assert error["message"] == "invalid handshake: first request must be connect"


@given(st.binary(max_size=100) | st.text(max_size=100))
def test_no_first_message_breaks_the_handshake(data: bytes | str) -> None:
    assert isinstance(judge(data), Rejected)


# parameters


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"minProtocol": None}, "must have required property 'minProtocol'"),
        ({"maxProtocol": None}, "must have required property 'maxProtocol'"),
        ({"minProtocol": "3"}, "at /minProtocol: must be integer"),
        ({"minProtocol": True}, "at /minProtocol: must be integer"),
        ({"maxProtocol": 3.5}, "at /maxProtocol: must be integer"),
        ({"maxProtocol": 0}, "at /maxProtocol: must be >= 1"),
        ({"client": None}, "at /client: must have required property 'id'"),
        ({"client": "cli"}, "at /client: must be object"),
        ({"client": {"id": "cli"}}, "at /client: must have required property 'version'"),
        ({"client": {"id": 7}}, "at /client/id: must be string"),
        ({"client": {"id": " "}}, "at /client/id: must NOT be blank"),
        ({"client": params()["client"] | {"displayName": 7}}, "at /client/displayName: must be string"),
        ({"role": 7}, "at /role: must be string"),
        ({"scopes": "operator.read"}, "at /scopes: must be array of string"),
        ({"scopes": ["operator.read", 7]}, "at /scopes: must be array of string"),
        ({"caps": {}}, "at /caps: must be array of string"),
        ({"auth": SECRET}, "at /auth: must be object"),
        ({"auth": {"token": 7}}, "at /auth/token: must be string"),
        ({"auth": {"password": [SECRET]}}, "at /auth/password: must be string"),
        ({"device": []}, "at /device: must be object"),
        ({"device": {}}, "at /device: must have required property 'id'"),
        (with_device(signature=""), "at /device/signature: must NOT be blank"),
        (with_device(signedAt="now"), "at /device/signedAt: must be integer"),
        (with_device(nonce=7), "at /device/nonce: must be string"),
    ],
)
def test_bad_parameters_are_named_and_not_repeated(changed: dict[str, Any], problem: str) -> None:
    assert told(frame(**changed)) == {
        "code": "INVALID_REQUEST",
        "message": f"invalid connect params: {problem}",
    }


@pytest.mark.parametrize("sent", [b"null", b"[]", b'"x"'])
def test_parameters_that_are_no_object_lack_everything(sent: bytes) -> None:
    error = told(b'{"type":"req","id":"c1","method":"connect","params":%b}' % sent)

    assert error["message"] == "invalid connect params: must have required property 'minProtocol'"


def test_what_a_newer_client_says_beside_is_ignored() -> None:
    newer: dict[str, Any] = {
        "locale": 7,
        "userAgent": None,
        "modelCatalog": {},
        "commands": "x",
        "pathEnv": [],
    }
    client = params()["client"] | {"buildId": 7, "timeZone": None, "deviceFamily": None}

    assert let_in(frame(**newer, client=client, role=None, scopes=None, caps=None, device=None))


def test_a_client_is_known_by_what_it_says_of_itself() -> None:
    client = params()["client"] | {"displayName": "x" * 1000, "instanceId": "i1"}

    assert let_in(frame(client=client, caps=["tool-events", "tool-events"])).client == Client(
        "cli", "1", "linux", "cli", display_name="x" * 256, instance_id="i1", caps=frozenset({"tool-events"})
    )


@pytest.mark.parametrize("role", ["node", "worker", "Operator", "admin"])
def test_only_operators_are_served(role: str) -> None:
    assert told(frame(role=role))["message"] == "invalid role"


# versions


@pytest.mark.parametrize(
    ("least", "most", "protocol"),
    [(3, 3, 3), (4, 4, 4), (3, 4, 4), (1, 99, 4), (1, 3, 3), (4, 10**30, 4), (3.0, 3.0, 3)],
)
def test_the_newest_version_both_know_is_spoken(least: float, most: float, protocol: int) -> None:
    assert let_in(frame(minProtocol=least, maxProtocol=most)).protocol == protocol


@pytest.mark.parametrize(("least", "most"), [(1, 2), (5, 5), (5, 99), (4, 3)])
def test_a_client_of_other_versions_is_told_ours(least: int, most: int) -> None:
    error = told(frame(minProtocol=least, maxProtocol=most, role="node", auth=None), close=1002)

    assert error["message"] == "protocol mismatch"
    assert error["details"] == {
        "code": "PROTOCOL_MISMATCH",
        "clientMinProtocol": least,
        "clientMaxProtocol": most,
        "expectedProtocol": 4,
        "minimumProbeProtocol": 3,
    }


# the secret


def details(code: str, reason: str, step: str) -> dict[str, Any]:
    return {
        "code": code,
        "authReason": reason,
        "canRetryWithDeviceToken": False,
        "recommendedNextStep": step,
    }


@pytest.mark.parametrize("mode", ["token", "password"])
@pytest.mark.parametrize(
    "auth",
    [{"token": SECRET}, {"password": SECRET}, {"token": WRONG, "password": SECRET, "deviceToken": "x"}],
)
def test_the_secret_may_come_in_either_field(mode: str, auth: dict[str, str]) -> None:
    assert let_in(frame(auth=auth), handshake(mode=mode, password=SECRET))


@pytest.mark.parametrize("mode", ["token", "password"])
@pytest.mark.parametrize(
    "auth", [None, {}, {"token": None}, {"token": "", "password": ""}, {"deviceToken": SECRET}]
)
def test_a_missing_secret_is_not_a_wrong_one(mode: str, auth: Any) -> None:
    door = handshake(mode=mode, password=SECRET)

    for _ in range(3):  # and it is no attempt
        error = told(frame(auth=auth), door)
        assert (
            error["message"] == f"unauthorized: gateway {mode} missing (give the client the gateway's {mode})"
        )
        assert error["details"] == details(
            f"AUTH_{mode.upper()}_MISSING", f"{mode}_missing", "update_auth_configuration"
        )


@pytest.mark.parametrize(
    "auth", [{"token": WRONG}, {"password": WRONG}, {"token": SECRET + " "}, {"token": "é\ud800"}]
)
def test_a_wrong_secret_is_refused(auth: dict[str, str]) -> None:
    error = told(frame(auth=auth))

    assert error["message"] == f"unauthorized: gateway token mismatch {HINT}"
    assert error["details"] == details("AUTH_TOKEN_MISMATCH", "token_mismatch", "update_auth_credentials")


def test_a_client_with_a_device_may_have_sent_the_token_of_another_gateway() -> None:
    error = told(frame(**with_device(token=WRONG)))

    assert error["message"].startswith("unauthorized: gateway token mismatch (run the command again; ")
    assert error["details"]["canRetryWithDeviceToken"] is False


def test_after_too_many_wrong_secrets_the_right_one_has_to_wait() -> None:
    door = handshake(rateLimit={"maxAttempts": 2, "lockoutMs": 4_500, "exemptLoopback": False})
    for _ in range(2):
        told(frame(auth={"token": WRONG, "password": WRONG}), door)

    error = told(frame(), door)
    assert error["message"] == "unauthorized: too many failed authentication attempts (retry later)"
    assert error["details"] == details("AUTH_RATE_LIMITED", "rate_limited", "wait_then_retry")
    assert (error["retryable"], error["retryAfterMs"]) == (True, 4_500)
    assert let_in(frame(), door, environ(peer="203.0.113.7"))


def test_wrong_secrets_over_http_and_here_are_counted_together() -> None:
    guard = Guard(AuthConfig.model_validate({"token": SECRET, "rateLimit": {"maxAttempts": 1}}))
    where = environ(peer="203.0.113.7")
    told(frame(auth={"token": WRONG}), Handshake(guard), where)

    with pytest.raises(Exception, match="Too many failed"):
        guard.check(where | {"HTTP_AUTHORIZATION": f"Bearer {SECRET}"})


@pytest.mark.parametrize(
    ("where", "served"),
    [
        (environ(), True),
        (environ(HTTP_ORIGIN="http://localhost:5173"), True),
        (environ(peer="203.0.113.7"), False),
        (environ(HTTP_X_FORWARDED_FOR="203.0.113.7"), False),
        (environ(host="evil.example"), False),
        (environ(host="evil.example", HTTP_ORIGIN="http://evil.example"), False),
    ],
)
def test_without_a_secret_only_this_machine_is_served(where: dict[str, str], served: bool) -> None:
    outcome = judge(frame(auth=None), handshake(mode="none"), where)

    assert isinstance(outcome, Accepted) is served
    if isinstance(outcome, Rejected):
        assert outcome.reason.startswith("unauthorized: this gateway has no secret")


# the origin


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://gw.example:18789", "gw.example:18789"),
        ("HTTPS://GW.example", "gw.EXAMPLE"),
        ("https://gw.example", "gw.example:443"),
        ("http://gw.example:80", "gw.example"),
        ("http://[2001:db8::7]:18789", "[2001:db8::7]:18789"),
        ("http://localhost:5173", "127.0.0.1:18789"),
        ("http://[::1]:1", "localhost"),
        ("https://ui.example:8443", "gw.example"),
        ("https://UI.example:8443/", "gw.example"),
        ("https://plain.example", "gw.example"),
    ],
)
def test_a_page_of_the_gateways_host_or_of_the_list_may_connect(origin: str, host: str) -> None:
    door = handshake("https://ui.example:8443", "https://plain.example:443/")

    assert let_in(frame(), door, environ(host=host, HTTP_ORIGIN=origin))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "gw.example"),
        ("https://gw.example.evil.example", "gw.example"),
        ("https://evil.example", "localhost:18789"),
        ("http://localhost:5173", "gw.example"),
        ("https://gw.example:8443", "gw.example"),
        ("http://gw.example:443", "gw.example"),
        ("https://ui.example", "gw.example"),
        ("http://ui.example:8443", "gw.example"),
        ("http://localhost.evil.example", "localhost"),
        ("null", "gw.example"),
        ("", "gw.example"),
        ("", ""),
        ("://", ""),
        ("http://", ""),
        ("http://[", "localhost"),
        ("\xff", "gw.example"),
    ],
)
def test_a_page_of_another_site_may_not(origin: str, host: str) -> None:
    door = handshake("https://ui.example:8443")
    error = told(frame(auth=None), door, environ(host=host, HTTP_ORIGIN=origin))

    assert error["message"] == NOT_ALLOWED
    assert error["details"] == {"code": "CONTROL_UI_ORIGIN_NOT_ALLOWED", "reason": "origin not allowed"}


def test_a_star_allows_every_site() -> None:
    for origin in ("https://evil.example", "null"):
        assert let_in(frame(), handshake("*"), environ(host="gw.example", HTTP_ORIGIN=origin))


def test_who_is_named_by_the_host_needs_no_secret_if_they_are_the_owner() -> None:
    where = environ() | {CALLER: Caller("root", scopes=frozenset({"operator.admin"}))}

    assert let_in(frame(auth=None), where=where).scopes == {"operator.read"}
    assert told(frame(auth={"token": "wrong"}), where=where)["details"]["code"] == "AUTH_TOKEN_MISMATCH"


def test_others_whom_the_host_names_are_refused_unless_they_have_the_secret() -> None:
    where = environ() | {CALLER: Caller("ann")}

    outcome = judge(frame(auth=None), where=where)
    assert isinstance(outcome, Rejected)
    assert json.loads(outcome.frame or b"")["error"]["code"] == "FORBIDDEN"
    assert let_in(frame(), where=where)


def test_a_star_does_not_let_a_page_of_another_site_use_a_cookie() -> None:
    owner = {CALLER: Caller("root", scopes=frozenset({"operator.admin"}))}
    where = environ(host="gw.example", HTTP_ORIGIN="https://evil.example") | owner

    assert told(frame(auth=None), handshake("*"), where)["message"] == NOT_ALLOWED
    assert let_in(frame(auth=None), handshake("https://evil.example"), where)
    assert let_in(frame(), handshake("*"), where), "with the secret, as everybody"


def test_the_log_says_which_origin_was_refused_at_which_host_on_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told(frame(), where=environ(host="gw.example", HTTP_ORIGIN="https://evil.example\nline"))

    assert "'https://evil.example\\nline'" in caplog.text
    assert "'gw.example'" in caplog.text


# the device


def test_a_device_that_proves_itself_is_named_and_needs_the_secret_all_the_same() -> None:
    assert let_in(frame(**with_device())).client.device_id == sha256(RAW).hexdigest()
    assert told(frame(**with_device(token="")))["details"]["code"] == "AUTH_TOKEN_MISSING"


@pytest.mark.parametrize("field", ["deviceToken", "bootstrapToken"])
def test_a_device_signs_the_token_it_has_and_never_the_password(field: str) -> None:
    signed = with_device(token="from-elsewhere")
    signed["auth"] = {field: "from-elsewhere", "password": SECRET}

    assert let_in(frame(**signed)).client.device_id


@pytest.mark.parametrize(
    ("changed", "problem", "reason"),
    [
        ({"id": "0" * 64}, "identity mismatch", "device-id-mismatch"),
        ({"publicKey": "x"}, "public key invalid", "device-public-key"),
        ({"signedAt": NOW - 600_001}, "signature expired", "device-signature-stale"),
        ({"signedAt": NOW - 1}, "signature invalid", "device-signature"),
        ({"signature": "x"}, "signature invalid", "device-signature"),
        ({"nonce": "another"}, "nonce mismatch", "device-nonce-mismatch"),
        ({"nonce": ""}, "nonce required", "device-nonce-missing"),
    ],
)
def test_a_device_that_proves_nothing_is_refused_before_its_secret_counts(
    changed: dict[str, Any], problem: str, reason: str
) -> None:
    door, where = handshake(), environ(peer="203.0.113.7")
    for _ in range(2):
        error = told(frame(**with_device(token=WRONG, **changed)), door, where)
        assert error["message"] == f"device {problem}"
        assert error["details"]["reason"] == reason


def test_only_a_direct_client_of_this_machine_may_connect_before_the_challenge() -> None:
    name = sha256(RAW).hexdigest()
    signature = _base64(KEY.sign(f"v1|{name}|cli|cli|operator||{NOW}|{SECRET}".encode()))
    early = frame(**with_device(signature=signature, nonce=None))

    assert let_in(early)
    assert (
        told(early, where=environ(HTTP_X_FORWARDED_FOR="203.0.113.7"))["message"] == "device nonce required"
    )


# secrets


def test_no_refusal_and_no_log_line_holds_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said = [
        judge(frame(**changed), where=environ(host="gw.example", **more))
        for changed in (
            {"auth": {"token": WRONG, "password": WRONG}},
            {"auth": {"token": [WRONG]}},
            {"auth": WRONG},
            with_device(token=WRONG),
            with_device(token=WRONG, signature="x"),
            {"minProtocol": 9, "auth": {"token": WRONG}},
        )
        for more in ({}, {"HTTP_ORIGIN": "https://evil.example", "QUERY_STRING": f"token={WRONG}"})
    ]

    everything = caplog.text + "".join(f"{r}{r.frame!r}{r.reason}" for r in said if isinstance(r, Rejected))
    assert len([r for r in said if isinstance(r, Rejected)]) == 12
    assert "wrong secret from 127.0.0.1" in everything
    assert WRONG not in everything
    assert SECRET not in everything


# close reasons


@given(st.text(max_size=300))
def test_a_close_reason_is_the_beginning_of_the_message_in_whole_characters(text: str) -> None:
    reason = reason_of(text)

    assert text.startswith(reason)
    assert len(reason.encode()) <= 120
    assert reason == text or len(reason.encode()) > 116


# scopes


@pytest.mark.parametrize(
    ("asked", "protocol", "scopes"),
    [
        ([], 3, {"operator.admin"}),
        ([], 4, {"operator.read"}),
        (["operator.write"], 3, {"operator.write"}),
        (["operator.admin", "operator.talk"], 4, {"operator.admin", "operator.talk"}),
    ],
)
def test_a_client_has_the_scopes_it_asks_for(asked: list[str], protocol: Version, scopes: set[str]) -> None:
    assert granted(asked, protocol) == scopes
    assert let_in(frame(minProtocol=protocol, maxProtocol=protocol, scopes=asked)).scopes == scopes


@pytest.mark.parametrize(
    ("scopes", "needed", "allowed"),
    [
        ((), None, True),
        ((), "operator.read", False),
        (("operator.read",), "operator.read", True),
        (("operator.read",), "operator.write", False),
        (("operator.write",), "operator.read", True),
        (("operator.write",), "operator.admin", False),
        (("operator.write",), "operator.approvals", False),
        (("operator.approvals",), "operator.approvals", True),
        (("operator.approvals",), "operator.read", False),
        (("operator.admin",), "operator.pairing", True),
    ],
)
def test_admin_is_everything_and_write_includes_read(
    scopes: tuple[str, ...], needed: Scope | None, allowed: bool
) -> None:
    assert allows(frozenset(scopes), needed) is allowed


METHODS = {
    "health": Method(None, lambda call: None),
    "agent": Method("operator.write", lambda call: None),
}


def called(name: str, protocol: Version, *scopes: str) -> Refusal | Method:
    try:
        return method_for(name, METHODS, frozenset(scopes), protocol)
    except Refusal as refusal:
        return refusal


def test_a_method_is_found_by_those_whose_scopes_allow_it() -> None:
    assert called("health", 4) is METHODS["health"]
    assert called("agent", 3, "operator.write") is METHODS["agent"]


@pytest.mark.parametrize(
    ("name", "scopes", "message"),
    [
        ("agent", ["operator.read"], "missing scope: operator.write"),
        ("nope", ["operator.write"], "missing scope: operator.admin"),
        ("nope", ["operator.admin"], "unknown method: nope"),
        ("connect", ["operator.read"], "connect is only valid as the first request"),
        ("node.event", ["operator.admin"], "unauthorized role: operator"),
    ],
)
@pytest.mark.parametrize("protocol", [3, 4])
def test_a_method_is_refused_in_the_words_of_the_version(
    name: str, scopes: list[str], message: str, protocol: Version
) -> None:
    refusal = called(name, protocol, *scopes)

    assert isinstance(refusal, Refusal)
    assert str(refusal) == message
    missing = message.removeprefix("missing scope: ")
    if protocol == 4 and missing != message:
        assert refusal.code == "FORBIDDEN"
        assert refusal.details == {
            "code": "MISSING_SCOPE",
            "missingScope": missing,
            "requiredScopes": [missing],
        }
    else:
        assert (refusal.code, refusal.details) == ("INVALID_REQUEST", None)


# the hello


def said(protocol: Version) -> dict[str, Any]:
    client = Client("cli", "1", "linux", "cli")
    accepted = Accepted("c1", protocol, client, frozenset({"operator.write", "operator.read"}))
    server = Server(
        version="2026.11.0",
        host="vm",
        auth_mode="token",
        default_agent="main",
        main_key="agent:main:main",
        methods=("health", "agent"),
        events=("tick", "chat"),
        attachment_bytes=10 * 2**20,
        limits=Limits(message_bytes=1000, buffered_bytes=2000, tick_seconds=1.5),
    )
    snapshot = Snapshot(
        [{"mode": "gateway"}], {"ok": True}, presence_version=5, health_version=4, uptime_ms=17
    )
    payload: dict[str, Any] = json.loads(dumps(hello(accepted, server, snapshot, "k1")))
    return payload


def test_a_client_is_told_what_is_served_and_how_things_stand() -> None:
    assert said(3) == {
        "type": "hello-ok",
        "protocol": 3,
        "server": {"version": "2026.11.0", "host": "vm", "connId": "k1"},
        "features": {"methods": ["health", "agent"], "events": ["tick", "chat"], "capabilities": []},
        "snapshot": {
            "presence": [{"mode": "gateway"}],
            "health": {"ok": True},
            "stateVersion": {"presence": 5, "health": 4},
            "uptimeMs": 17,
            "authMode": "token",
            "sessionDefaults": {
                "defaultAgentId": "main",
                "mainKey": "main",
                "mainSessionKey": "agent:main:main",
                "scope": "per-sender",
                "modelConfigured": True,
                "ownership": "sole",
                "selectionRequired": False,
            },
        },
        "policy": {
            "maxPayload": 1000,
            "maxBufferedBytes": 2000,
            "tickIntervalMs": 1500,
            "attachments": {"maxBytes": 10_485_760, "maxImageBytes": 10_485_760},
        },
    }


def test_only_the_newer_version_is_told_what_it_was_granted_and_no_device_token_is_issued() -> None:
    assert said(4) == said(3) | {
        "protocol": 4,
        "auth": {"role": "operator", "scopes": ["operator.read", "operator.write"]},
    }
