"""What any WebSocket endpoint owes RFC 6455, and what a gateway owes its other clients, over raw sockets."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import CHECKOUT, TOKEN, GatewayProcess, free_port, gateway_config, wait_until
from tests.integration.ws_client import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    RawClient,
    close_frame,
    frame,
    request,
    upgrade_request,
)
from tests.scripted_provider import Reply, ScriptedProvider

HEALTH = request("1", "last-heartbeat")
CLI = {"id": "cli", "version": "1", "platform": "test", "mode": "cli"}


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[RawClient]:
    with RawClient.greeted(gateway.port, TOKEN, client=CLI) as client:
        yield client


def greeted(gateway: GatewayProcess, **options: object) -> RawClient:
    return greeted_at(gateway.port, **options)


def greeted_at(port: int, **options: object) -> RawClient:
    return RawClient.greeted(port, TOKEN, client=CLI, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("length", [100, 125, 126, 127, 65_535, 65_536, 1_000_000])
def test_a_message_may_have_any_length_and_come_as_text_or_bytes(
    client: RawClient, opcode: int, length: int
) -> None:
    empty = request("1", "last-heartbeat", {"x": ""})

    client.send(frame(empty.replace(b'""', b'"' + b"x" * (length - len(empty)) + b'"'), opcode))

    assert client.answer("1")["ok"]


def test_a_message_may_come_in_fragments_with_pings_between_them(client: RawClient) -> None:
    cut = [HEALTH[i : i + 7] for i in range(0, len(HEALTH), 7)]
    frames = [
        frame(cut[0], TEXT, fin=False),
        *(frame(piece, 0, fin=False) for piece in cut[1:]),
        frame(b"", 0),
    ]

    for number, piece in enumerate(frames):
        client.send(piece)
        if number < len(frames) - 1:
            client.send(frame(b"%d" % number, PING))

    for number in range(len(frames) - 1):
        assert client.frame() == (PONG, b"%d" % number)
    assert client.answer("1")["ok"]


def test_bytes_may_trickle_in_one_by_one(client: RawClient) -> None:
    for byte in frame(HEALTH):
        client.send(bytes((byte,)))

    assert client.answer("1")["ok"]


def test_a_mask_is_taken_off(client: RawClient) -> None:
    key = b"\x01\xfe\x80\x7f"
    masked = bytes(byte ^ key[i % 4] for i, byte in enumerate(HEALTH))

    client.send(struct.pack("!BB", 0x81, 0x80 | len(HEALTH)) + key + masked)

    assert client.answer("1")["ok"]


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00\xff\xfe", b"p" * 125])
def test_a_ping_is_answered_with_what_it_said(client: RawClient, payload: bytes) -> None:
    client.send(frame(payload, PING))

    assert client.frame() == (PONG, payload)


def test_pongs_that_nobody_asked_for_are_ignored(client: RawClient) -> None:
    client.send(frame(b"hello", PONG) + frame(HEALTH))

    assert client.answer("1")["ok"]


WRONG_FRAMES = {
    "reserved bit 1": frame(HEALTH, bits=0b100),
    "reserved bit 3": frame(HEALTH, bits=0b001),
    "reserved data opcode": frame(HEALTH, 0x3),
    "reserved control opcode": frame(b"", 0xB),
    "not masked": frame(HEALTH, mask=False),
    "ping of 126 bytes": frame(b"x" * 126, PING),
    "ping in fragments": frame(b"x", PING, fin=False),
    "continuation of nothing": frame(HEALTH, 0),
    "new message within a message": frame(b"{", fin=False) + frame(HEALTH),
    "length in too many bytes": struct.pack("!BBH", 0x81, 0x80 | 126, 5) + b"\0\0\0\0hello",
    "length over 63 bits": struct.pack("!BBQ", 0x81, 0x80 | 127, 1 << 63) + b"\0\0\0\0",
    "close of one byte": frame(b"\x03", CLOSE),
    "close with 999": close_frame(999),
    "close with 1005": close_frame(1005),
    "close with 5000": close_frame(5000),
}


@pytest.mark.parametrize("what", WRONG_FRAMES)
def test_what_is_no_frame_is_a_protocol_error(client: RawClient, what: str) -> None:
    client.send(WRONG_FRAMES[what])

    code, _ = client.end()
    assert code == 1002


@pytest.mark.parametrize(
    "data",
    [
        frame(b'{"x":"\xff"}'),
        frame(b"\xce\xba\xed\xa0\x80"),
        frame(b"\xf4\x90\x80\x80"),
        frame(b"\xe2\x82", fin=False) + frame(b"\x28", 0),
        frame(b"\xe2\x82", fin=False) + frame(b"", 0),
        close_frame(1000, b"\xff\xfe"),
    ],
)
def test_text_that_is_not_utf_8_ends_the_connection(client: RawClient, data: bytes) -> None:
    client.send(data)

    assert client.end()[0] == 1007


def test_a_character_may_be_cut_between_two_fragments(client: RawClient) -> None:
    message = request("1", "last-heartbeat", {"x": "κόσμε €"}).decode().encode()
    message = json.dumps(json.loads(message), ensure_ascii=False).encode()
    middle = message.index("€".encode()) + 1

    client.send(frame(message[:middle], fin=False) + frame(message[middle:], 0))

    assert client.answer("1")["ok"]


@pytest.mark.parametrize(
    ("goodbye", "answer"),
    [
        (frame(b"", CLOSE), None),
        (close_frame(1000, b"bye"), 1000),
        (close_frame(1001), 1001),
        (close_frame(3000), 3000),
        (close_frame(4000, b"tick timeout"), 4000),
        (close_frame(1000, b"x" * 123), 1000),
    ],
)
def test_a_goodbye_is_answered_in_kind(client: RawClient, goodbye: bytes, answer: int | None) -> None:
    client.send(goodbye)

    assert client.end() == (answer, "")


def test_what_comes_after_a_goodbye_is_not_answered(client: RawClient) -> None:
    client.send(close_frame(1000) + frame(HEALTH) + frame(b"", PING))

    opcode, _ = client.frame()
    assert opcode == CLOSE
    assert client.is_cut()


def test_twenty_six_megabytes_are_too_much_and_the_client_learns_it(client: RawClient) -> None:
    size = 26 * 2**20
    head = struct.pack("!BBQ", 0x81, 0x80 | 127, size) + b"\0\0\0\0"

    client.send(head)
    for _ in range(26):
        client.send(b"x" * 2**20)

    assert client.end() == (1009, "message is too big")


def test_twenty_megabytes_are_not_too_much(client: RawClient) -> None:
    empty = request("1", "last-heartbeat", {"x": ""})

    client.send(frame(empty.replace(b'""', b'"' + b"x" * 20 * 2**20 + b'"')))

    assert client.answer("1")["ok"]


@pytest.mark.parametrize("opening", [b"[", b'{"params":'])
def test_json_that_is_nested_a_hundred_thousand_deep_is_ignored(client: RawClient, opening: bytes) -> None:
    client.send(frame(opening * 100_000) + frame(HEALTH))

    assert client.message()["id"] == "1"


def test_ten_thousand_requests_at_once_are_all_answered_in_order(gateway: GatewayProcess) -> None:
    count = 10_000
    burst = b"".join(frame(request(str(number), "last-heartbeat")) for number in range(count))

    with greeted(gateway) as client:
        sender = threading.Thread(target=client.send, args=(burst,))
        sender.start()
        order = [answer["id"] for answer in client.answers(count)]
        sender.join()

    assert order == [str(number) for number in range(count)]


def test_a_client_that_asks_on_and_never_reads_costs_the_gateway_little(gateway: GatewayProcess) -> None:
    """Its requests stay in its own socket as soon as the answers to the first ones do not go out."""
    worker = psutil.Process(gateway.worker_pid)
    with greeted(gateway, receive_buffer=4_096) as deaf, greeted(gateway) as other:
        before = worker.memory_info().rss
        burst = frame(request("1", "config.schema")) * 1_000
        deaf.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            deaf.send(burst * 100)

        other.send(frame(HEALTH))
        assert other.answer("1")["ok"]
        assert worker.memory_info().rss - before < 40e6


def test_large_answers_and_pongs_do_not_cut_into_each_other(gateway: GatewayProcess) -> None:
    """A slow reader gets answers of many kilobytes whole, with pongs between them and never within."""
    count = 40
    with greeted(gateway, receive_buffer=4_096) as client:
        for number in range(count):
            client.ask(f"{number}", "config.schema")
            client.ask(f"waited-{number}", "agent.wait", {"runId": "nobody", "timeoutMs": 1})
            client.send(frame(b"%d" % number, PING))

        answers, pongs = set(), []
        while len(answers) + len(pongs) < 3 * count:
            opcode, payload = client.frame()
            if opcode == PONG:
                pongs.append(int(payload))
            else:
                answer = json.loads(payload)
                assert answer["ok"]
                answers.add(answer["id"])

    assert pongs == list(range(count))
    assert len(answers) == 2 * count


def test_many_clients_that_vanish_leave_nothing_behind(gateway: GatewayProcess) -> None:
    worker = psutil.Process(gateway.worker_pid)
    before = worker.num_fds()

    with ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(greeted(gateway))
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert worker.num_fds() >= before + 100

    wait_until(lambda: worker.num_fds() <= before + 2, what="the descriptors of 50 clients to be closed")


def test_an_upgrade_that_is_cut_off_leaves_nothing_behind(gateway: GatewayProcess) -> None:
    worker = psutil.Process(gateway.worker_pid)
    before = worker.num_fds()

    for _ in range(20):
        with socket.create_connection(("127.0.0.1", gateway.port)) as sock:
            sock.sendall(upgrade_request())

    wait_until(lambda: worker.num_fds() <= before + 2, what="the descriptors of 20 strangers to be closed")
    assert "Traceback" not in gateway.log


def test_a_connection_without_a_word_costs_no_cpu(gateway: GatewayProcess) -> None:
    worker = psutil.Process(gateway.worker_pid)
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(greeted(gateway))
        before = worker.cpu_times()
        started = time.monotonic()
        idle = stack.enter_context(greeted(gateway))
        idle.socket.settimeout(1)
        with pytest.raises(TimeoutError):
            idle.frame()
        after = worker.cpu_times()

    assert (after.user - before.user) / (time.monotonic() - started) < 0.1


def test_a_client_that_closes_only_its_own_half_is_let_go(client: RawClient) -> None:
    client.socket.shutdown(socket.SHUT_WR)

    assert client.is_cut()


def test_sigterm_lets_a_run_end_then_tells_everybody_and_leaves(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    gateway = start_gateway()
    gate = threading.Event()
    provider.script(Reply("Still here.", gate=gate))

    with greeted(gateway) as client, greeted(gateway) as idle:
        client.ask("1", "agent", {"message": "hi", "idempotencyKey": "last-words"})
        assert client.answer("1")["payload"]["status"] == "accepted"
        assert provider.wait_for_requests(1)
        gateway.terminate()
        wait_until(lambda: is_refused(gateway), what="the gateway to take nothing new")
        gate.set()

        assert client.answer("1")["payload"]["status"] == "ok"
        assert next(client.events("shutdown"))["payload"] == {"reason": "gateway stopping"}
        assert client.end() == (1012, "service restart")
        assert idle.end() == (1012, "service restart")
    gateway.stop()


def test_real_threads_serve_web_sockets_too(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "openclaw.json"
    config.write_text(json.dumps(gateway_config("http://127.0.0.1:9/v1")))
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "OPENCLAW_CONFIG_PATH": str(config),
        "OPENCLAW_STATE_DIR": str(tmp_path / "state"),
    }
    command = [sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--threads", "4"]
    command += ["--no-control-socket", "--bind", f"127.0.0.1:{port}"]
    command += ["--pythonpath", str(CHECKOUT), "wsgi:app"]

    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: is_open(port), 20, "the server to listen")
            with greeted_at(port, receive_buffer=4_096) as client:
                for number in range(20):
                    client.ask(f"{number}", "config.schema")

                assert [answer["ok"] for answer in client.answers(20)] == [True] * 20
        finally:
            server.terminate()


def is_refused(gateway: GatewayProcess) -> bool:
    """True once the gateway drains."""
    with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)) as connection:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 503


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
