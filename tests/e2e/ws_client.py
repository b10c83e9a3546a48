"""A client of the WebSocket protocol for tests: it asks, and keeps every frame that comes."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from websockets.sync.client import connect

from tests.e2e.gateway_process import TOKEN

Frame = dict[str, Any]

PATIENCE = 15.0


class WsClient:
    """A connection that has said hello. Not for two threads at once.

    :ivar frames: everything that has come, the hello excepted, in order.
    """

    def __init__(
        self,
        port: int,
        protocol: int = 4,
        *,
        scopes: Sequence[str] = ("operator.admin",),
        caps: Sequence[str] = (),
        token: str = TOKEN,
    ) -> None:
        self.frames: list[Frame] = []
        self._ids = itertools.count(1)
        self._socket = connect(
            f"ws://127.0.0.1:{port}/", proxy=None, max_size=None, max_queue=None, legacy=True
        )
        assert json.loads(self._socket.recv(PATIENCE))["event"] == "connect.challenge"
        self.send(
            "connect",
            minProtocol=protocol,
            maxProtocol=protocol,
            client={"id": "test", "version": "1", "platform": "linux", "mode": "test"},
            auth={"token": token},
            scopes=list(scopes),
            caps=list(caps),
        )
        hello = json.loads(self._socket.recv(PATIENCE))
        assert hello["ok"], hello
        self.hello: Frame = hello["payload"]

    def send(self, method: str, /, **params: Any) -> str:
        """Ask, and return the id of the request."""
        request_id = f"q{next(self._ids)}"
        self._socket.send(json.dumps({"type": "req", "id": request_id, "method": method, "params": params}))
        return request_id

    def answers(self, request_id: str) -> list[Frame]:
        """The answers to a request that have come so far."""
        return [frame for frame in self.frames if frame["type"] == "res" and frame["id"] == request_id]

    def answer(self, request_id: str, number: int = 1) -> Frame:
        """The answer to a request, or its second one."""
        self.until(lambda: len(self.answers(request_id)) >= number)
        return self.answers(request_id)[number - 1]

    def ask(self, method: str, /, **params: Any) -> Any:
        """The payload of the first answer, which has to be a success."""
        answer = self.answer(self.send(method, **params))
        assert answer["ok"], answer
        return answer["payload"]

    def refusal(self, method: str, /, **params: Any) -> Frame:
        """The error of the first answer."""
        answer = self.answer(self.send(method, **params))
        assert not answer["ok"], answer
        error: Frame = answer["error"]
        return error

    def events(self, name: str, run_id: str | None = None, **wanted: Any) -> list[Frame]:
        """The payloads of the events that have come so far, of one run or of all."""
        wanted |= {"runId": run_id} if run_id else {}
        payloads = [f["payload"] for f in self.frames if f["type"] == "event" and f["event"] == name]
        return [p for p in payloads if all(p.get(key) == value for key, value in wanted.items())]

    def ending(self, run_id: str) -> Frame:
        """The last ``chat`` event of a run."""
        states = ("final", "aborted", "error")
        ends = lambda: [c for c in self.events("chat", run_id) if c["state"] in states]  # noqa: E731
        self.until(ends)
        return ends()[0]

    def until(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Read frames until the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"it did not come true; the last frames are {self.frames[-5:]}"
            self.read(left)

    def read(self, seconds: float) -> None:
        """Take the next frame, if one comes in time."""
        try:
            self.frames.append(json.loads(self._socket.recv(seconds)))
        except TimeoutError:
            return

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
