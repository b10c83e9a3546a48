"""Coming in over WebSocket, through gunicorn and gevent: the first frames and the reasons of every close."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from contextlib import suppress
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import TOKEN, GatewayProcess

WRONG = "wr0ng-token-of-a-stranger"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture(scope="module")
def listed(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway that allows the pages of one site."""
    return start_gateway(gateway={"controlUi": {"allowedOrigins": ["https://ui.example"]}})


def opened(gateway: GatewayProcess, path: str = "/", **options: Any) -> ClientConnection:
    client: ClientConnection = connect(f"ws://127.0.0.1:{gateway.port}{path}", proxy=None, **options)
    return client


def told(client: ClientConnection) -> dict[str, Any]:
    """The next frame."""
    frame: dict[str, Any] = json.loads(client.recv(timeout=10))
    return frame


def nonce_of(client: ClientConnection) -> str:
    challenge = told(client)
    assert challenge.keys() == {"type", "event", "payload"}
    assert challenge["event"] == "connect.challenge"
    assert abs(challenge["payload"]["ts"] - time.time() * 1000) < 10_000
    return str(challenge["payload"]["nonce"])


def request(method: str, params: Any = None, **more: Any) -> str:
    return json.dumps({"type": "req", "id": "c1", "method": method, "params": params} | more)


def introduction(**changed: Any) -> str:
    params = {
        "minProtocol": 3,
        "maxProtocol": 4,
        "client": {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"},
        "auth": {"token": TOKEN},
    }
    return request("connect", params | changed)


def with_device(nonce: str) -> str:
    raw = KEY.public_key().public_bytes_raw()
    name, now = sha256(raw).hexdigest(), int(time.time() * 1000)
    text = f"v3|{name}|cli|cli|operator||{now}|{TOKEN}|{nonce}|linux|"
    device = {
        "id": name,
        "publicKey": urlsafe_b64encode(raw).decode().rstrip("="),
        "signature": urlsafe_b64encode(KEY.sign(text.encode())).decode().rstrip("="),
        "signedAt": now,
        "nonce": nonce,
    }
    return introduction(device=device)


def rest(client: ClientConnection) -> tuple[list[dict[str, Any]], int | None, str | None]:
    """All frames until the gateway closes, and the code and the reason of the close."""
    frames = []
    with suppress(ConnectionClosed):
        while True:
            frames.append(told(client))
    return frames, client.close_code, client.close_reason


def refused(client: ClientConnection) -> tuple[str, int | None, str | None]:
    """The message of the only frame that is left, and the code and the reason of the close."""
    (frame,), code, reason = rest(client)
    assert (frame["type"], frame["id"], frame["ok"]) == ("res", "c1", False)
    assert frame["error"]["code"] == "INVALID_REQUEST"
    return frame["error"]["message"], code, reason


# coming in


@pytest.mark.parametrize("path", ["/", "/gateway", "/v1/chat/completions", "/a/b?c=d"])
@pytest.mark.parametrize("protocol", [3, 4])
def test_a_client_with_the_token_is_greeted_at_any_path(
    gateway: GatewayProcess, path: str, protocol: int
) -> None:
    with opened(gateway, path) as client:
        nonce_of(client)
        client.send(introduction(minProtocol=protocol, maxProtocol=protocol))
        hello = told(client)

    assert hello.keys() == {"type", "id", "ok", "payload"}
    assert (hello["type"], hello["id"], hello["ok"]) == ("res", "c1", True)
    payload = hello["payload"]
    assert (payload["type"], payload["protocol"]) == ("hello-ok", protocol)
    assert {"health", "status", "agent", "chat.send"} <= {*payload["features"]["methods"]}
    assert {"agent", "chat", "tick", "shutdown"} <= {*payload["features"]["events"]}
    assert payload["snapshot"]["sessionDefaults"]["mainSessionKey"] == "agent:main:main"
    assert payload["policy"]["maxPayload"] == 25 * 2**20
    assert payload.get("auth") == (
        None if protocol == 3 else {"role": "operator", "scopes": ["operator.read"]}
    )
    assert str(gateway.state_dir.parent) not in json.dumps(payload)


def test_a_binary_message_is_read_as_well(gateway: GatewayProcess) -> None:
    with opened(gateway) as client:
        nonce_of(client)
        client.send(introduction().encode())
        assert told(client)["ok"] is True


def test_a_device_that_signs_the_challenge_gets_in_and_a_replay_does_not(gateway: GatewayProcess) -> None:
    with opened(gateway) as client:
        recorded = with_device(nonce_of(client))
        client.send(recorded)
        assert told(client)["ok"] is True
    with opened(gateway) as client:
        nonce_of(client)
        client.send(recorded)
        assert refused(client) == ("device nonce mismatch", 1008, "device nonce mismatch")


# being refused


@pytest.mark.parametrize(
    ("sent", "message", "code"),
    [
        (request("health"), "invalid handshake: first request must be connect", 1008),
        (request("connect"), "invalid connect params: must have required property 'minProtocol'", 1008),
        (introduction(minProtocol=5, maxProtocol=9), "protocol mismatch", 1002),
        (introduction(role="node"), "invalid role", 1008),
        (introduction(device={"id": 7}), "invalid connect params: at /device/id: must be string", 1008),
        (
            introduction(auth=None),
            "unauthorized: gateway token missing (give the client the gateway's token)",
            1008,
        ),
        (
            introduction(auth={"token": WRONG}),
            "unauthorized: gateway token mismatch (give the client the gateway's token)",
            1008,
        ),
    ],
)
def test_a_refused_client_reads_why_before_the_connection_closes(
    gateway: GatewayProcess, sent: str, message: str, code: int
) -> None:
    with opened(gateway) as client:
        nonce_of(client)
        client.send(sent)
        assert refused(client) == (message, code, message[:120])


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        ("hello", 1000, ""),
        ("[" * 30_000, 1000, ""),
        ("[]", 1008, "invalid request frame"),
        ('{"jsonrpc":"2.0","id":1,"method":"connect"}', 1008, "invalid request frame"),
    ],
)
def test_who_does_not_speak_the_protocol_gets_no_answer(
    gateway: GatewayProcess, sent: str, code: int, reason: str
) -> None:
    with opened(gateway) as client:
        nonce_of(client)
        client.send(sent)
        assert rest(client) == ([], code, reason)


def test_an_introduction_of_more_than_64_kib_is_too_big(gateway: GatewayProcess) -> None:
    with opened(gateway) as client:
        nonce_of(client)
        client.send(introduction(pathEnv="x" * 2**16))
        frames, code, _ = rest(client)

    assert (frames, code) == ([], 1009)


def test_too_many_wrong_tokens_lock_the_address_out_of_every_channel(
    lockable: GatewayProcess, address: str
) -> None:
    def attempt(token: str) -> dict[str, Any]:
        with opened(lockable, source_address=(address, 0)) as client:
            nonce_of(client)
            client.send(introduction(auth={"token": token}))
            return told(client)

    for _ in range(3):
        assert attempt(WRONG)["error"]["details"]["code"] == "AUTH_TOKEN_MISMATCH"
    error = attempt(TOKEN)["error"]
    assert error["message"] == "unauthorized: too many failed authentication attempts (retry later)"
    assert 0 < error["retryAfterMs"] <= 1500


# pages


@pytest.mark.parametrize("origin", ["https://ui.example", "http://localhost:5173", "http://127.0.0.1:{port}"])
def test_a_page_of_this_machine_or_of_the_list_may_connect(listed: GatewayProcess, origin: str) -> None:
    with opened(listed, origin=origin.format(port=listed.port)) as client:
        nonce_of(client)
        client.send(introduction())
        assert told(client)["ok"] is True


def test_a_page_of_another_site_may_not_and_the_log_names_it(listed: GatewayProcess) -> None:
    with opened(listed, origin="https://evil.example") as client:
        nonce_of(client)
        client.send(introduction())
        message, code, _ = refused(client)

    assert message.startswith("origin not allowed (")
    assert code == 1008
    assert f"'https://evil.example'; the host asked for is '127.0.0.1:{listed.port}'" in listed.log


def test_a_token_in_the_url_or_in_a_header_opens_nothing_and_is_not_logged(gateway: GatewayProcess) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with opened(gateway, f"/?token={TOKEN}&password={WRONG}", additional_headers=headers) as client:
        nonce_of(client)
        client.send(introduction(auth=None))
        assert refused(client)[1] == 1008

    assert TOKEN not in gateway.log
    assert WRONG not in gateway.log


# after it


def test_a_connection_outlives_every_frame_that_cannot_be_served(gateway: GatewayProcess) -> None:
    with opened(gateway) as client:
        nonce_of(client)
        client.send(introduction(scopes=["operator.admin"]))
        assert told(client)["ok"] is True

        for sent, reply, message in [
            ("not JSON", None, ""),
            ("[" * 100_000, None, ""),
            ("[]", "invalid", "invalid request frame: must be object"),
            ('{"type":"req","id":"7"}', "7", "invalid request frame: must have required property 'method'"),
            (introduction(), "c1", "connect is only valid as the first request"),
            (request("nope"), "c1", "unknown method: nope"),
            (request("node.event"), "c1", "unauthorized role: operator"),
        ]:
            client.send(sent)
            if reply is not None:
                answer = answer_of(client)
                assert (answer["id"], answer["error"]["message"]) == (reply, message)
        client.send(request("health"))
        assert answer_of(client)["ok"] is True


@pytest.mark.parametrize(("protocol", "code"), [(3, "INVALID_REQUEST"), (4, "FORBIDDEN")])
def test_a_client_is_held_to_the_scopes_it_asked_for(
    gateway: GatewayProcess, protocol: int, code: str
) -> None:
    with opened(gateway) as client:
        nonce_of(client)
        client.send(introduction(minProtocol=protocol, maxProtocol=protocol, scopes=["operator.read"]))
        assert told(client)["ok"] is True

        for method, scope in [("chat.send", "operator.write"), ("nope", "operator.admin")]:
            client.send(request(method))
            error = answer_of(client)["error"]
            assert (error["code"], error["message"]) == (code, f"missing scope: {scope}")
        client.send(request("status"))
        assert answer_of(client)["ok"] is True


def answer_of(client: ClientConnection) -> dict[str, Any]:
    """The next answer; events may come between."""
    while (frame := told(client))["type"] == "event":
        pass
    return frame
