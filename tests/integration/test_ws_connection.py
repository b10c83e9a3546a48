"""Connections under real threads: limits, order, slow readers, farewells, and a host around them."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from flask import Flask
from flask_sock import Sock
from werkzeug.serving import make_server

from app.channels.auth import Guard
from app.channels.ws.channel import create_blueprint, open_channel, open_desk
from app.channels.ws.context import Channel
from app.channels.ws.hub import Hub
from app.channels.ws.protocol import Limits
from app.runtime import Runtime
from app.wire import dumps
from tests.integration.runs import PATIENCE, wait_until
from tests.integration.ws_client import CLOSE, RawClient, connect_request, frame, upgrade_request

TOKEN = "a-token-of-tests"


class Served:
    """An application with a channel, on a port of its own."""

    def __init__(self, runtime: Runtime, limits: Limits, app: Flask, url_prefix: str) -> None:
        gateway = runtime.config.gateway
        self.channel: Channel = open_channel(runtime, Guard(gateway.auth, gateway.trusted_proxies), limits)
        desk = open_desk(self.channel)
        app.register_blueprint(
            create_blueprint(lambda: desk, lambda path: f"{path}/".startswith(f"{url_prefix}/"))
        )
        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.port: int = self._server.server_port

    @property
    def hub(self) -> Hub:
        return self.channel.hub

    def client(self, **options: object) -> RawClient:
        """One that has said hello and gets what is broadcast."""
        client = RawClient.greeted(self.port, TOKEN, **options)  # type: ignore[arg-type]
        wait_until(lambda: client.id in [peer.id for peer in self.hub.peers()])
        return client

    def answer_to(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to a raw HTTP request."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as sock:
            sock.sendall(data)
            response = http.client.HTTPResponse(sock)
            response.begin()
            return response.status, dict(response.headers), response.read()

    def stop(self) -> None:
        self.channel.hub.shutdown()
        self._server.shutdown()
        self._thread.join(PATIENCE)
        self._server.server_close()


Serve = Callable[..., Served]


@pytest.fixture
def serve(runtime: Runtime) -> Iterator[Serve]:
    """``serve(app=..., url_prefix=..., handshake_seconds=0.1, ...)``: keywords are limits."""
    with ExitStack() as stack:

        def serve(app: Flask | None = None, url_prefix: str = "", **limits: float) -> Served:
            served = Served(runtime, Limits(**limits), app or Flask("host"), url_prefix)  # type: ignore[arg-type]
            stack.callback(served.stop)
            return served

        yield serve


def says_nothing_for(seconds: float, client: RawClient) -> bool:
    client.socket.settimeout(seconds)
    try:
        client.frame()
    except TimeoutError:
        return True
    finally:
        client.socket.settimeout(PATIENCE)
    return False


def test_who_does_not_introduce_himself_is_shown_out(serve: Serve) -> None:
    served = serve(handshake_seconds=0.1)

    with RawClient(served.port) as client:
        assert client.end() == (1000, "handshake timeout")


def test_a_greeted_client_may_be_silent_for_as_long_as_it_likes(serve: Serve) -> None:
    served = serve(handshake_seconds=0.1)

    with served.client(client={"id": "cli", "version": "1", "platform": "t", "mode": "cli"}) as client:
        assert says_nothing_for(0.3, client)


def test_a_stranger_may_say_less_than_a_friend(serve: Serve) -> None:
    served = serve(handshake_bytes=1_000, message_bytes=10_000)
    long = frame(b'{"type":"req","id":"1","method":"health","params":{"x":"' + b"x" * 5_000 + b'"}}')

    with RawClient(served.port) as stranger, served.client() as friend:
        stranger.send(long)
        friend.send(long)

        assert stranger.end() == (1009, "message is too big")
        assert friend.answer("1")["ok"]


def test_a_message_over_the_limit_ends_its_own_connection_only(serve: Serve) -> None:
    served = serve(message_bytes=10_000)

    with served.client() as big, served.client() as other:
        big.send(frame(b"x" * 10_001))

        assert big.end() == (1009, "message is too big")
        other.ask("1", "health")
        assert other.answer("1")["ok"]


def test_a_message_in_ten_thousand_fragments_is_one_message(serve: Serve) -> None:
    served = serve()
    message = b'{"type":"req","id":"1","method":"health","params":{"x":"' + b"x" * 10_000 + b'"}}'
    pieces = [message[i : i + 1] for i in range(len(message))]

    with served.client() as client:
        client.send(
            frame(pieces[0], fin=False)
            + b"".join(frame(piece, 0, fin=False) for piece in pieces[1:])
            + frame(b"", 0)
        )

        assert client.answer("1")["ok"]


def test_every_client_hears_ticks_in_a_sequence_of_its_own(serve: Serve) -> None:
    served = serve(tick_seconds=0.05)

    with served.client() as first:
        ticks = first.events("tick")
        next(ticks)
        with served.client() as second:
            next(second.events("tick"))
            seen = [next(first.messages())["seq"] for _ in range(3)]

    assert seen == list(range(seen[0], seen[0] + 3))


def test_the_first_event_after_the_greeting_has_the_number_one(serve: Serve) -> None:
    served = serve(tick_seconds=0.05)

    with served.client() as client:
        assert [client.event()["seq"] for _ in range(4)] == [1, 2, 3, 4]


def test_health_is_told_with_its_version(serve: Serve) -> None:
    served = serve(tick_seconds=0.05)

    with served.client() as client:
        first, second = (next(client.events("health")) for _ in range(2))

    assert first["payload"]["ok"] is True
    assert second["stateVersion"]["health"] == first["stateVersion"]["health"] + 1


def test_who_comes_to_stay_is_announced_and_who_asks_one_question_is_not(serve: Serve) -> None:
    served = serve()
    passer_by = {"id": "cli", "version": "1", "platform": "test", "mode": "cli"}
    guest = {"id": "test", "displayName": "Guest", "version": "1", "platform": "test", "mode": "ui"}

    def names(event: dict) -> list[str]:  # type: ignore[type-arg]
        return [entry["host"] for entry in event["payload"]["presence"][1:]]

    with served.client() as watcher:
        assert names(next(watcher.events("presence"))) == ["test"]
        with served.client(client=passer_by), served.client(client=guest):
            came = next(watcher.events("presence"))
        left = next(watcher.events("presence"))

    assert names(came) == ["test", "Guest"]
    assert names(left) == ["test"]
    assert left["stateVersion"]["presence"] > came["stateVersion"]["presence"]


def test_a_client_that_vanishes_is_forgotten_at_once(serve: Serve) -> None:
    served = serve()
    client = served.client()
    client.ask("1", "agent.wait", {"runId": "nobody", "timeoutMs": 300})

    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()

    wait_until(lambda: served.hub.peers() == [])
    assert len(served.hub.presence()) == 1


def test_answers_that_take_long_do_not_hold_up_others(serve: Serve) -> None:
    served = serve()

    with served.client() as client:
        client.ask("slow", "agent.wait", {"runId": "nobody", "timeoutMs": 500})
        client.ask("quick", "health")
        order = [m["id"] for m in (client.message() for _ in range(3)) if m["type"] == "res"]

    assert order[0] == "quick"


def test_too_much_work_at_a_time_is_refused_and_may_be_asked_again(serve: Serve) -> None:
    served = serve(in_flight=2)

    with served.client() as client:
        for number in range(3):
            client.ask(f"{number}", "agent.wait", {"runId": "nobody", "timeoutMs": 300})
        refused = client.answer("2")
        client.answer("0")
        client.answer("1")
        client.ask("again", "agent.wait", {"runId": "nobody", "timeoutMs": 1})

        assert refused["error"]["code"] == "UNAVAILABLE"
        assert refused["error"]["retryable"] is True
        assert client.answer("again")["ok"]


def test_there_is_room_for_so_many_connections_and_then_again_when_one_has_left(serve: Serve) -> None:
    served = serve(connections=2)

    with served.client() as first, served.client():
        status, _, body = served.answer_to(upgrade_request())
        first.close()
        wait_until(lambda: served.hub.has_room)
        with served.client():
            pass

    assert status == 503
    assert json.loads(body)["error"]["code"] == "gateway_unavailable"


def test_those_who_say_nothing_take_no_place_from_those_who_have_said_hello(serve: Serve) -> None:
    served = serve(connections=2, strangers=1)

    with ExitStack() as stack:
        strangers = [stack.enter_context(RawClient(served.port))]
        assert strangers[0].event()["event"] == "connect.challenge"
        strangers.append(stack.enter_context(RawClient(served.port)))
        assert strangers[1].event()["event"] == "connect.challenge"
        first, second = (stack.enter_context(served.client()) for _ in range(2))

        assert [stranger.end() for stranger in strangers] == [(1013, "try again later")] * 2
        for client in (first, second):
            client.ask("1", "health")
            assert client.answer("1")["ok"]


def test_a_stranger_finds_no_place_if_others_have_said_hello_meanwhile(serve: Serve) -> None:
    served = serve(connections=1)

    with RawClient(served.port) as late, served.client() as first:
        assert late.event()["event"] == "connect.challenge"
        late.send(frame(connect_request(TOKEN)))

        assert late.answer("hello")["error"]["code"] == "UNAVAILABLE"
        assert late.end() == (1013, "try again later")
        first.ask("1", "health")
        assert first.answer("1")["ok"]


def test_everybody_is_told_when_the_gateway_stops(serve: Serve) -> None:
    served = serve()

    with served.client() as client, RawClient(served.port) as stranger:
        assert stranger.event()["event"] == "connect.challenge"
        threading.Thread(target=served.hub.shutdown).start()

        assert next(client.events("shutdown"))["payload"] == {"reason": "gateway stopping"}
        assert client.end() == (1012, "service restart")
        assert stranger.end() == (1012, "service restart")
        assert served.answer_to(upgrade_request())[0] == 503


def test_stopping_does_not_wait_long_for_a_client_that_reads_nothing(serve: Serve) -> None:
    served = serve(farewell_seconds=0.2)
    with served.client(receive_buffer=4_096):
        for _ in range(100):
            served.hub.broadcast("test", dumps("x" * 50_000))

        started = time.monotonic()
        served.hub.shutdown()

    assert time.monotonic() - started < 1.2
    assert served.hub.peers() == []


def test_a_slow_reader_is_let_go_and_neither_the_sender_nor_others_notice(serve: Serve) -> None:
    served = serve(buffered_bytes=1_000_000, farewell_seconds=0.2)
    payload = dumps("x" * 100_000)

    with served.client(receive_buffer=4_096) as slow, served.client() as quick:
        started = time.monotonic()
        for number in range(200):
            served.hub.broadcast("test", payload)
            assert next(quick.events("test"))["payload"] == "x" * 100_000, number
        took = time.monotonic() - started

        assert took < PATIENCE / 2
        wait_until(lambda: len(served.hub.peers()) == 1)
        assert slow.is_cut()


def test_a_slow_reader_that_reads_on_learns_why_it_was_let_go(serve: Serve) -> None:
    served = serve(buffered_bytes=1_000_000)
    payload = dumps("x" * 100_000)

    with served.client(receive_buffer=65_536) as slow:
        for _ in range(100):
            served.hub.broadcast("test", payload)

        assert slow.end() == (1008, "slow consumer")


def test_when_too_much_waits_for_all_together_the_slowest_is_let_go(serve: Serve) -> None:
    served = serve(buffered_bytes=50_000_000, all_buffered_bytes=12_000_000, farewell_seconds=0.2)
    payload = dumps("x" * 100_000)

    with ExitStack() as stack:
        slowest = stack.enter_context(served.client(receive_buffer=4_096))
        for _ in range(100):  # ten of twelve megabytes; some of them the kernel takes
            served.hub.broadcast("test", payload)
        later = [stack.enter_context(served.client(receive_buffer=4_096)) for _ in range(2)]
        for _ in range(60):
            served.hub.broadcast("test", payload)

        wait_until(lambda: slowest.id not in [peer.id for peer in served.hub.peers()])
        for client in later:
            assert [next(client.events("test"))["payload"] for _ in range(60)] == ["x" * 100_000] * 60


def test_many_slow_readers_at_once_hold_up_nobody(serve: Serve) -> None:
    """Four threads talk to eight who read nothing; whoever goes, the others are not in its way."""
    served = serve(buffered_bytes=50_000_000, all_buffered_bytes=2_000_000, farewell_seconds=0.1)
    payload = dumps("x" * 100_000)

    def talk() -> None:
        for _ in range(100):
            served.hub.broadcast("test", payload)

    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(served.client(receive_buffer=4_096))
        talkers = [threading.Thread(target=talk) for _ in range(4)]
        for talker in talkers:
            talker.start()
        for talker in talkers:
            talker.join(PATIENCE)

        assert not any(talker.is_alive() for talker in talkers)
        wait_until(lambda: len(served.hub.peers()) <= 2)
    wait_until(lambda: not served.hub.peers())


def test_what_a_slow_reader_has_taken_waits_no_more(serve: Serve) -> None:
    served = serve(buffered_bytes=50_000_000, all_buffered_bytes=8_000_000)
    payload = dumps("x" * 100_000)

    with served.client(receive_buffer=4_096) as slow:
        for _ in range(5):
            for _ in range(60):
                served.hub.broadcast("test", payload)
            assert [next(slow.events("test"))["payload"] for _ in range(60)] == ["x" * 100_000] * 60


def test_what_may_be_dropped_is_dropped_for_a_slow_reader_and_leaves_no_hole(serve: Serve) -> None:
    served = serve(buffered_bytes=2_000_000)
    payload = dumps("x" * 100_000)

    with served.client(receive_buffer=4_096) as slow:
        for _ in range(200):
            served.hub.broadcast("droppable", payload, droppable=True)
        served.hub.broadcast("last", b"1")

        numbers = []
        for message in slow.messages():
            numbers.append(message["seq"])
            if message["event"] == "last":
                break

    assert numbers == list(range(1, len(numbers) + 1))
    assert 2 < len(numbers) < 200


def test_frames_of_many_threads_are_whole_and_in_their_order(serve: Serve) -> None:
    served = serve(buffered_bytes=50_000_000)
    threads, each = 8, 20

    def talk(name: int) -> None:
        for number in range(each):
            served.hub.broadcast(
                "test", dumps({"by": name, "number": number, "x": "y" * (1 + name * 40_000)})
            )

    with served.client(receive_buffer=32_768) as client:
        talkers = [threading.Thread(target=talk, args=(name,)) for name in range(threads)]
        for talker in talkers:
            talker.start()
        seen: dict[int, list[int]] = {name: [] for name in range(threads)}
        numbers = []
        for _ in range(threads * each):
            message = next(client.events("test"))
            numbers.append(message["seq"])
            payload = message["payload"]
            assert len(payload["x"]) == 1 + payload["by"] * 40_000
            seen[payload["by"]].append(payload["number"])
        for talker in talkers:
            talker.join()

    assert all(order == list(range(each)) for order in seen.values())
    assert numbers == sorted(numbers)


def test_who_asks_much_and_reads_late_gets_every_answer_in_order(serve: Serve) -> None:
    """Ten thousand requests before the first answer is read: they wait in the socket, not in memory."""
    served = serve(buffered_bytes=2_000_000)
    count = 10_000

    with served.client(receive_buffer=16_384) as client:
        burst = b"".join(
            frame(b'{"type":"req","id":"%d","method":"last-heartbeat"}' % n) for n in range(count)
        )
        sender = threading.Thread(target=client.send, args=(burst,))
        sender.start()
        order = [m["id"] for m in client.answers(count)]
        sender.join()

    assert order == [str(number) for number in range(count)]


@pytest.mark.parametrize(
    "path", ["/", "/gateway", "/deep/er", "/health", "/%2e%2e/x?token=abc", "//", "/v1/chat/completions"]
)
def test_every_path_upgrades(serve: Serve, path: str) -> None:
    app = Flask("host")
    app.add_url_rule("/health", "health", lambda: "fine")
    served = serve(app)

    with RawClient(served.port, path) as client:
        assert client.event()["event"] == "connect.challenge"


def test_under_a_prefix_only_the_gateways_paths_upgrade(serve: Serve) -> None:
    served = serve(url_prefix="/ai")

    for path in ("/ai", "/ai/", "/ai/any"):
        with RawClient(served.port, path) as client:
            assert client.event()["event"] == "connect.challenge"
    assert served.answer_to(upgrade_request("/other"))[0] == 404
    assert served.answer_to(upgrade_request("/aim"))[0] == 404


def test_the_hosts_own_web_sockets_stay_its_own(serve: Serve) -> None:
    app = Flask("host")

    @Sock(app).route("/echo")
    def echo(ws) -> None:  # type: ignore[no-untyped-def]
        ws.send(f"host: {ws.receive()}")

    served = serve(app)

    with RawClient(served.port, "/echo") as host, RawClient(served.port, "/other") as gateway:
        host.send(frame(b"hello"))

        assert host.frame() == (1, b"host: hello")
        assert gateway.event()["event"] == "connect.challenge"


@pytest.mark.parametrize("comes_first", [True, False])
def test_a_login_of_the_host_sees_upgrades_if_it_was_there_first(serve: Serve, *, comes_first: bool) -> None:
    app = Flask("host")
    if comes_first:
        app.before_request(lambda: ("Who are you?", 401))
    served = serve(app)
    if not comes_first:
        app.before_request(lambda: ("Who are you?", 401))

    if comes_first:
        assert served.answer_to(upgrade_request())[0] == 401
    else:
        with RawClient(served.port) as client:
            assert client.event()["event"] == "connect.challenge"


def test_plain_requests_are_answered_as_if_there_were_no_channel(serve: Serve) -> None:
    app = Flask("host")
    app.add_url_rule("/there", "there", lambda: "here")
    served = serve(app)

    def status(method: str, path: str) -> int:
        return served.answer_to(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())[
            0
        ]

    assert status("GET", "/there") == 200
    assert status("POST", "/there") == 405
    assert [status(method, "/not-there") for method in ("GET", "POST", "OPTIONS", "DELETE")] == [404] * 4
    assert status("GET", "/") == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec_websocket_key": None}, 400),
        ({"sec_websocket_key": "too-short"}, 400),
        ({"connection": "keep-alive"}, 400),
        ({"sec_websocket_version": "8"}, 426),
        ({"sec_websocket_version": None}, 426),
    ],
)
def test_an_incomplete_opening_is_refused_in_http(
    serve: Serve, headers: dict[str, str | None], status: int
) -> None:
    served = serve()

    answered, sent, body = served.answer_to(upgrade_request(**headers))

    assert answered == status
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert sent.get("Sec-WebSocket-Version") == ("13" if status == 426 else None)


def test_compression_is_not_agreed_to(serve: Serve) -> None:
    served = serve()
    offer = upgrade_request(sec_websocket_extensions="permessage-deflate; client_max_window_bits")

    with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as sock:
        sock.sendall(offer)
        head = sock.recv(1_000)

    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"extensions" not in head.lower()


def test_who_leaves_politely_is_answered_in_kind(serve: Serve) -> None:
    served = serve()

    with served.client() as client:
        client.send(frame(b"\x0f\xa0tick timeout", CLOSE))

        assert client.end() == (4000, "")
        wait_until(lambda: served.hub.peers() == [])


def test_a_second_introduction_is_refused_and_the_first_still_holds(serve: Serve) -> None:
    served = serve()

    with served.client() as client:
        client.send(frame(connect_request(TOKEN)))
        refused = client.answer("hello")
        client.ask("1", "health")

        assert refused["error"]["message"] == "connect is only valid as the first request"
        assert client.answer("1")["ok"]
