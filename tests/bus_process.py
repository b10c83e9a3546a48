"""A bus in a process of its own, plain or under gevent, which does what it is told."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import orjson

CHECKOUT = Path(__file__).parents[1]


class BusProcess:
    """Starts and stops one. Bytes go as texts that begin with ``b:`` and come back as texts, in latin-1."""

    def __init__(self, url: str, *, gevent: bool = False) -> None:
        kind = "gevent" if gevent else "plain"
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.bus_process", kind, url, str(theirs.fileno())],
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
            self._line = ours.makefile("rwb")

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the bus; what it returns."""
        self.tell(method, *arguments)
        return self.answer()

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method of the bus, whose answer is read later."""
        self._line.write(orjson.dumps([method, *arguments]) + b"\n")
        self._line.flush()

    def answer(self) -> Any:
        """What the next call that was told has returned."""
        return orjson.loads(self._line.readline())

    def kill(self) -> None:
        """End it as a crash would; safe to repeat."""
        self._process.kill()
        self._process.wait(20)
        self._line.close()

    def stop(self) -> None:
        """End it in order; fails the test unless it does."""
        self._line.close()
        assert self._process.wait(20) == 0

    def __enter__(self) -> Self:
        assert self.ask("healthy") is True
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if failure is None:
            self.stop()
        else:
            self.kill()


def main(kind: str, url: str, line: str) -> None:
    if kind == "gevent":
        from gevent import monkey

        monkey.patch_all()
    # The package without the whole gateway, which takes seconds to import.
    package = ModuleType("app")
    package.__path__ = [str(CHECKOUT / "app")]
    sys.modules["app"] = package
    from app.bus.redis import RedisBus
    from app.runs.executor import Executor

    worker = _Worker(RedisBus(url, Executor().spawn))
    connection = socket.socket(fileno=int(line))
    connection.setblocking(True)  # whoever started this may have had its end otherwise
    with connection, connection.makefile("rwb") as stream:
        for asked in stream:
            method, *arguments = orjson.loads(asked)
            answer = getattr(worker, method, None) or worker.call(method)
            stream.write(orjson.dumps(answer(*map(_bytes, arguments))) + b"\n")
            stream.flush()
    worker.close()


class _Worker:
    """What the process can do beside the methods of its bus."""

    def __init__(self, bus: Any) -> None:
        self._bus = bus
        self._heard: dict[str, list[str]] = {}

    def call(self, method: str) -> Any:
        return lambda *arguments: _text(getattr(self._bus, method)(*arguments))

    def healthy(self) -> bool:
        return bool(self._bus.healthy)

    def listen(self, topic: str) -> None:
        heard = self._heard.setdefault(topic, [])
        self._bus.subscribe(topic, lambda message: heard.append(message.decode("latin-1")))

    def heard(self, topic: str) -> list[str]:
        return list(self._heard[topic])

    def echo(self, topic: str, answers: str) -> None:
        self._bus.subscribe(topic, lambda message: self._bus.publish(answers, message))

    def publish_numbers(self, topic: str, name: str, count: int) -> None:
        for number in range(count):
            self._bus.publish(topic, f"{name} {number}".encode())

    def at_once(self, threads: int, method: str, *arguments: Any) -> list[Any]:
        """The results of as many calls at the same time; ``#`` in an argument is the number of the call."""
        results: list[Any] = [None] * threads

        def one(number: int) -> None:
            filled = [a.replace(b"#", b"%d" % number) if isinstance(a, bytes) else a for a in arguments]
            results[number] = _text(getattr(self._bus, method)(*filled))

        everybody = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
        for thread in everybody:
            thread.start()
        for thread in everybody:
            thread.join()
        return results

    def close(self) -> None:
        self._bus.close()


def _bytes(argument: Any) -> Any:
    """Texts that begin with ``b:`` are bytes."""
    if isinstance(argument, str) and argument.startswith("b:"):
        return argument[2:].encode("latin-1")
    return {k: _bytes(v) for k, v in argument.items()} if isinstance(argument, dict) else argument


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, list | tuple):
        return [_text(one) for one in value]
    if isinstance(value, dict):
        return {name: _text(one) for name, one in value.items()}
    return value if isinstance(value, int | str | None) else None


if __name__ == "__main__":
    main(*sys.argv[1:])
