"""A restart under load: every stream that is open ends in words, and whoever knocks meanwhile is answered."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close

from tests.e2e.cluster import cluster
from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess, gateway_config, wait_until
from tests.e2e.http_client import Connection, chat, chat_body, open_stream, request_bytes, send
from tests.e2e.tool_runs import asking, descendants
from tests.e2e.ws_client import WsClient
from tests.scripted_provider import Hang, Reply, ScriptedProvider

ROOM: dict[str, Any] = {
    "agents": {"defaults": {"maxConcurrent": 500}},
    "gateway": {"http": {"endpoints": {"responses": {"enabled": True}}}},
    "tools": {"profile": "coding", "exec": {"backgroundMs": 600_000}},
}
DRAIN = 6.0
SILENT, FINISHING, WORKING, WAITING = 60, 40, 12, 8  # chat completions
RESPONSES, SOCKETS = 40, 40  # half of them silent, half of them finish
OPEN = SILENT + FINISHING + WORKING + WAITING + RESPONSES + SOCKETS


class Crowd:
    """Two hundred open streams: with silent models, in tool calls, in a queue, and about to finish."""

    def __init__(
        self,
        gateway: Any,
        machines: Sequence[GatewayProcess],
        provider: ScriptedProvider,
        open_all: ExitStack,
    ) -> None:
        """:param gateway: whom to ask; it may be a proxy for the ``machines``."""
        self.gate = threading.Event()
        provider.on("silence", Hang())
        provider.on("finish", Reply("one two", gate=self.gate, gate_at=1))
        provider.on("work", asking(("exec", {"command": "sleep 1000"})))
        opened = open_all.enter_context
        self.silent = [opened(open_stream(gateway, "silence")) for _ in range(SILENT)]
        self.finishing = [opened(open_stream(gateway, "finish")) for _ in range(FINISHING)]
        self.working = [opened(open_stream(gateway, "work")) for _ in range(WORKING)]
        self.waiting = [opened(open_stream(gateway, "silence", user="queue")) for _ in range(WAITING)]
        self.responses = [opened(open_response(gateway, text)) for text in texts(RESPONSES)]
        self.sockets = [opened(Talk(gateway, text, number)) for number, text in enumerate(texts(SOCKETS))]
        assert provider.wait_for_requests(OPEN - (WAITING - 1), 30)
        wait_until(lambda: len(sleeping(*machines)) == WORKING, 30, "the commands to run")

    def finish(self) -> None:
        """Let those finish that are about to; nobody has to wait for those that are not."""
        self.gate.set()
        assert {ending(stream) for stream in self.finishing} == {"stop"}

    def all_end(self) -> None:
        """Read everything to its end, which has to be one in words."""
        unfinished = [*self.silent, *self.working, *self.waiting]
        assert {ending(stream) for stream in unfinished} == {"gateway_unavailable"}
        assert [response_ending(stream) for stream in self.responses] == [
            "response.failed" if text == "silence" else "response.completed" for text in texts(RESPONSES)
        ]
        assert [talk_ending(talk) for talk in self.sockets] == [
            "error" if text == "silence" else "final" for text in texts(SOCKETS)
        ]


class Talk(WsClient):
    """A message over the WebSocket that is being answered."""

    def __init__(self, gateway: Any, text: str, number: int) -> None:
        super().__init__(gateway.port)
        self.text = text
        self.run = f"talk-{number}"
        self.ask("chat.send", message=text, sessionKey=self.run, idempotencyKey=self.run)


class Visitor:
    """Asks for one page after the other, on a new connection each, and keeps what it is told."""

    def __init__(self, gateway: Any, path: str) -> None:
        self.told: list[int | str] = []
        self._gateway, self._path = gateway, path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._visit, daemon=True)

    def _visit(self) -> None:
        while not self._over.wait(0.05):
            try:
                self.told.append(send(self._gateway, method="GET", path=self._path).status)
            except OSError as error:
                self.told.append(type(error).__name__)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)


def texts(count: int) -> Iterator[str]:
    return (("silence", "finish")[number % 2] for number in range(count))


def open_response(gateway: Any, text: str) -> Connection:
    stream = Connection(gateway)
    stream.send(request_bytes({"input": text, "stream": True}, path="/v1/responses"))
    assert stream.read_head()[1] == 200
    return stream


def sleeping(*machines: GatewayProcess) -> list[int]:
    below = [pid for gateway in machines for pid in descendants(gateway.pid)]
    return [pid for pid in below if command_line(pid) == ["sleep", "1000"]]


def command_line(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline") as file:  # noqa: PTH123 - it may be gone
            return file.read().rstrip("\0").split("\0")
    except OSError:
        return []


def ending(stream: Connection) -> str:
    """How a chat stream says that it is over. Reading it fails if it is cut."""
    *_, last, done = stream.events()
    assert done == "[DONE]"
    return str(last["error"]["code"] if "error" in last else last["choices"][0]["finish_reason"])


def response_ending(stream: Connection) -> str:
    """As :func:`ending`, of a response, which has no code of its own for this."""
    *_, last, done = stream.events()
    assert done == "[DONE]"
    error = last["response"]["error"]
    assert error is None or "shutting down" in error["message"]
    return str(last["type"])


def talk_ending(talk: Talk) -> str:
    """The last event of the answer, and then the goodbye of the gateway."""
    last = talk.ending(talk.run)
    talk.until(lambda: talk.events("shutdown"))
    assert talk.events("shutdown") == [{"reason": "gateway stopping"}]
    with pytest.raises(ConnectionClosed) as closed:
        talk.until(lambda: False)
    assert closed.value.rcvd == Close(1012, "service restart")
    return last["state"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_two_hundred_open_streams_all_end_properly(
    start_gateway: StartGateway, provider: ScriptedProvider, number: int
) -> None:
    gateway = start_gateway(env={"OPENCLAW_DRAIN_SECONDS": str(DRAIN)}, **ROOM)
    with ExitStack() as open_all:
        crowd = Crowd(gateway, [gateway], provider, open_all)
        visitor = open_all.enter_context(Visitor(gateway, "/readyz"))
        wait_until(lambda: visitor.told)
        started = time.monotonic()
        os.kill(gateway.pid, number)
        wait_until(lambda: send(gateway, method="GET", path="/readyz").status == 503)
        refused = chat(gateway)
        assert (refused.status, refused.error["code"]) == (503, "gateway_unavailable")
        assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
        crowd.finish()
        assert time.monotonic() - started < DRAIN, "those that finish must not wait for those that don't"
        crowd.all_end()
        assert time.monotonic() - started < DRAIN + 10
        if number == signal.SIGTERM:
            assert gateway.wait() == 0
        else:
            wait_until(lambda: gateway.log.count("Booting worker") == 2, 30, "the new worker")
            gateway.wait_until_ready()
            assert chat(gateway, "hello").text == "echo: hello"
            wait_until(lambda: visitor.told[-1] == 200)
            assert set(visitor.told) == {200, 503}, "nobody who knocks finds the door gone"
    assert sleeping(gateway) == []
    assert "Traceback" not in gateway.log


def test_two_gateways_on_one_database_restart_one_after_the_other(
    provider: ScriptedProvider, provider_port: int, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{provider_port}/v1"
    with cluster(tmp_path, url, 2, **ROOM) as running, ExitStack() as open_all:
        crowd = Crowd(running, running.gateways, provider, open_all)
        visitor = open_all.enter_context(Visitor(running, "/v1/models"))
        for number, gateway in enumerate(running.gateways):
            gateway.terminate()
            if number == 0:
                crowd.finish()
            assert gateway.wait() == 0
            assert "Traceback" not in gateway.log
            gateway.start()
        crowd.all_end()
        wait_until(lambda: len(visitor.told) > 10)
        assert set(visitor.told) <= {200, 503}, "there is always one who answers"
        assert chat(running, "hello").text == "echo: hello"
        for gateway in running.gateways:
            gateway.stop()


def test_whoever_comes_in_the_last_moment_is_answered_or_refused_and_never_cut_off(
    start_gateway: StartGateway,
) -> None:
    """A proxy may take a refused connection elsewhere, but not one on which it has sent a request."""
    told: list[str] = []
    for _ in range(2):
        gateway = start_gateway(env={"OPENCLAW_DRAIN_SECONDS": "0.1"})
        over = threading.Event()
        crowd = [threading.Thread(target=knock, args=(gateway, told, over), daemon=True) for _ in range(4)]
        for one in crowd:
            one.start()
        gateway.terminate()
        assert gateway.wait() == 0
        over.set()
        for one in crowd:
            one.join(10)
    assert {"503", "refused"} <= set(told) <= {"200", "503", "refused"}


def knock(gateway: GatewayProcess, told: list[str], over: threading.Event) -> None:
    page = request_bytes(method="GET", path="/readyz", headers={"Connection": "close"})
    while not over.is_set():
        try:
            connection = Connection(gateway)
        except OSError:
            told.append("refused")
            over.wait(0.01)
            continue
        with connection:
            try:
                told.append(str(connection.send(page).read().status))
            except (OSError, AssertionError):
                told.append("cut off")


SLOW_TO_BEGIN = """
from gevent import monkey; monkey.patch_all()
import time
import openclaw_gunicorn
from openclaw_gunicorn import child_exit, graceful_timeout, on_exit, on_reload, on_starting

worker_class = "gevent"

def post_worker_init(worker):
    handle = worker.handle
    worker.handle = lambda *connection: (time.sleep(1.5), handle(*connection))
    openclaw_gunicorn.post_worker_init(worker)
"""


def test_whoever_was_let_in_just_before_the_door_closed_is_answered(tmp_path: Path) -> None:
    """A busy worker begins with a connection late: here, after it has closed its listener."""
    settings = tmp_path / "gunicorn.conf.py"
    settings.write_text(SLOW_TO_BEGIN)
    way = ("-m", "gunicorn", "-c", str(settings), "wsgi:app")
    gateway = GatewayProcess(gateway_config("http://127.0.0.1:9/v1"), tmp_path, way=way)
    gateway.start()
    ready = request_bytes(method="GET", path="/readyz", headers={"Connection": "close"})
    with ExitStack() as connections:
        gateway.terminate()
        early = [connections.enter_context(Connection(gateway)).send(ready) for _ in range(3)]
        assert {one.read().status for one in early} == {503}
    gateway.stop()


def test_load_balancers_may_be_given_notice(start_gateway: StartGateway, provider: ScriptedProvider) -> None:
    gateway = start_gateway(env={"OPENCLAW_LAME_DUCK_SECONDS": "2", "OPENCLAW_DRAIN_SECONDS": "1"})
    gateway.terminate()
    wait_until(lambda: send(gateway, method="GET", path="/readyz").status == 503)
    assert chat(gateway, "still here").text == "echo: still here"
    wait_until(lambda: gateway_refuses(gateway), 10, "the end of the notice")
    assert gateway.wait() == 0


def gateway_refuses(gateway: GatewayProcess) -> bool:
    try:
        return chat(gateway).status == 503
    except ConnectionRefusedError:
        return True


def test_whoever_is_in_a_hurry_ends_the_drain(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    gateway = start_gateway(env={"OPENCLAW_LAME_DUCK_SECONDS": "30", "OPENCLAW_DRAIN_SECONDS": "30"})
    provider.on("silence", Hang())
    with open_stream(gateway, "silence") as stream:
        assert provider.wait_for_requests(1)
        gateway.terminate()
        os.kill(gateway.worker_pid, signal.SIGTERM)  # some platforms signal every process: that is no hurry
        wait_until(lambda: send(gateway, method="GET", path="/readyz").status == 503)
        assert chat(gateway, "hello").status == 200
        os.kill(gateway.pid, signal.SIGINT)
        assert ending(stream) == "gateway_unavailable"
    assert gateway.wait(10) == 0


def test_a_kept_connection_is_closed_with_the_next_answer(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    gateway = start_gateway(env={"OPENCLAW_DRAIN_SECONDS": "2"})
    provider.on("silence", Hang())
    page = request_bytes(method="GET", path="/readyz")
    with Connection(gateway) as kept, open_stream(gateway, "silence") as stream:
        assert provider.wait_for_requests(1)
        assert kept.send(page).read().headers["connection"] == "keep-alive"
        gateway.terminate()
        wait_until(lambda: send(gateway, method="GET", path="/readyz").status == 503)
        answer = kept.send(request_bytes(chat_body())).read()
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        assert json.loads(answer.body)["error"]["code"] == "gateway_unavailable"
        assert kept.at_end()
        assert ending(stream) == "gateway_unavailable"
    assert gateway.wait() == 0


def test_a_connection_that_was_promised_to_be_kept_takes_one_more_request(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    gateway = start_gateway()
    gate = threading.Event()
    provider.script(Reply("done", gate=gate))
    with Connection(gateway) as kept, Connection(gateway) as idle:
        assert idle.send(request_bytes(method="GET", path="/readyz")).read().status == 200
        kept.send(request_bytes(chat_body()))
        assert provider.wait_for_requests(1)
        gateway.terminate()
        wait_until(lambda: send(gateway, method="GET", path="/readyz").status == 503)
        gate.set()
        answer = kept.read()
        assert (answer.text, answer.headers["connection"]) == ("done", "keep-alive")
        last = kept.send(request_bytes(chat_body())).read()
        assert (last.status, last.headers["connection"]) == (503, "close")
        assert kept.at_end()
        assert idle.at_end()
    assert gateway.wait(10) == 0
