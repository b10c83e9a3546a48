"""HTTP with nothing in between: requests as bytes, answers as they come over the wire."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.e2e.gateway_process import TOKEN, GatewayProcess
from tests.e2e.published_schemas import check_body, check_event

PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Answer:
    """A response; header names in lower case; a chunked body is put together."""

    status: int
    headers: dict[str, str]
    body: bytes
    version: str = "HTTP/1.1"

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, checked to have OpenAI's four keys and the type of a JSON answer."""
        assert self.headers["content-type"] == "application/json", self
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return error

    @property
    def text(self) -> str:
        """What the assistant said, streamed or not."""
        if self.headers["content-type"].startswith("text/event-stream"):
            return stream_text(self.body)
        content: str = self.json["choices"][0]["message"]["content"]
        return content


class Connection:
    """One connection to a gateway, from 127.0.0.1 or another address of this machine."""

    def __init__(self, gateway: GatewayProcess, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), 20, (source, 0))
        self._file = self.socket.makefile("rb")
        self._path = ""  # of the last request

    def send(self, data: bytes) -> Self:
        self._path = _path_of(data)
        self.socket.sendall(data)
        return self

    def read_head(self) -> tuple[str, int, dict[str, str]]:
        version, status, *_ = self._line().split(" ", 2)
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return version, int(status), headers

    def read(self, *, head_only: bool = False) -> Answer:
        """The next response, without looking past its end."""
        version, status, headers = self.read_head()
        body = b"" if head_only or status == 204 else self._read_body(headers)
        answer = Answer(status, headers, body, version)
        self._check(answer)
        return answer

    def lines(self) -> Iterator[str]:
        """The lines of a chunked body's pieces, as they arrive; ends with the body."""
        rest = b""
        while piece := self._chunk():
            *complete, rest = (rest + piece).split(b"\n")
            yield from (line.decode() for line in complete)

    def events(self) -> Iterator[Any]:
        """The data of each server-sent event as it arrives; ``"[DONE]"`` as it is."""
        for line in self.lines():
            if line.startswith("data: "):
                event = parse_data(line.removeprefix("data: "))
                check_event(self._path, event)
                yield event

    def read_to_end(self) -> bytes:
        """Everything until the server closes the connection."""
        try:
            return self._file.read()
        except ConnectionResetError:
            return b""

    def at_end(self) -> bool:
        """True if the server has closed the connection and nothing is left."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, answer: Answer) -> None:
        """Every answer of every test is held against what OpenAI has published."""
        kind = answer.headers.get("content-type", "")
        if kind == "application/json" and answer.body:
            check_body(self._path, answer.status, answer.json)
        elif kind.startswith("text/event-stream") and answer.body.endswith(b"\n\n"):
            for event in stream_events(answer.body):
                check_event(self._path, event)

    def _line(self) -> str:
        line = self._file.readline()
        assert line.endswith(b"\r\n"), f"the connection ended after {line!r}"
        return line[:-2].decode("latin-1")

    def _read_body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            return b"".join(iter(self._chunk, b""))
        if "content-length" in headers:
            return self._file.read(int(headers["content-length"]))
        return self._file.read()

    def _chunk(self) -> bytes:
        size = int(self._line(), 16)
        data = self._file.read(size)
        assert self._line() == ""
        return data


def request_bytes(
    body: Any = b"",
    *,
    method: str = "POST",
    path: str = PATH,
    token: str | None = TOKEN,
    headers: Mapping[str, str] | None = None,
    version: str = "HTTP/1.1",
) -> bytes:
    """A whole request; ``body`` is bytes or a value to encode."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Host": "gateway", "Content-Type": "application/json", "Content-Length": str(len(data))}
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    fields |= headers or {}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} {version}\r\n{head}\r\n".encode() + data


def send(gateway: GatewayProcess, body: Any = b"", *, source: str = "127.0.0.1", **options: Any) -> Answer:
    """One request on a connection of its own; ``options`` are those of :func:`request_bytes`."""
    head_only = options.get("method") == "HEAD"
    with Connection(gateway, source) as connection:
        return connection.send(request_bytes(body, **options)).read(head_only=head_only)


def chat_body(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    """A request with one user message; ``fields`` are added or replaced."""
    return {"model": "openclaw", "messages": [{"role": "user", "content": content}]} | fields


def chat(gateway: GatewayProcess, content: Any = "hi", *, headers: Any = None, **fields: Any) -> Answer:
    """One chat completion."""
    return send(gateway, chat_body(content, **fields), headers=headers)


def open_stream(
    gateway: GatewayProcess, content: Any = "hi", *, headers: Any = None, **fields: Any
) -> Connection:
    """A streamed chat completion whose headers have been read: a 200 of the right type."""
    connection = Connection(gateway)
    connection.send(request_bytes(chat_body(content, stream=True, **fields), headers=headers))
    _, status, fields = connection.read_head()
    assert status == 200
    assert fields["content-type"].startswith("text/event-stream")
    return connection


def _path_of(data: bytes) -> str:
    """What the request that begins with ``data`` is for; "" if it begins with none."""
    _, _, rest = data.partition(b"\r\n")[0].partition(b" ")
    return rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")


def parse_data(data: str) -> Any:
    return data if data == "[DONE]" else json.loads(data)


def stream_events(body: bytes) -> list[Any]:
    """The data of all events of a finished stream; each is one line and one blank line."""
    assert body.endswith(b"\n\n")
    events = [event for event in body.decode().split("\n\n") if event and not event.startswith(":")]
    assert all(event.startswith("data: ") and "\n" not in event for event in events), events
    return [parse_data(event.removeprefix("data: ")) for event in events]


def stream_text(body: bytes) -> str:
    """The concatenated deltas of a finished stream."""
    chunks = [event for event in stream_events(body) if isinstance(event, dict) and event.get("choices")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
