"""The process that talks to MCP servers, with the official SDK on asyncio.

A program, not a module: :mod:`.link` runs this file by its path, so it imports nothing of the
package and works under any package name. Standard input, output and error are one socket to
the gateway with a JSON object on every line; what is no JSON object is somebody's log.

To this process::

    {"servers": {name: {...}}}                    the first line
    {"op": "call", "id", "server", "tool", "arguments", "timeout"}      arguments are JSON text
    {"op": "cancel", "id"}
    {"op": "ping"}

From it::

    {"event": "tools", "server", "tools": [{name, description, schema, read_only}], "left_out"}
    {"event": "restarting" | "down", "server", "reason"}
    {"event": "started" | "ended", "pid"}         the leader of a server's process group
    {"event": "result", "id", "text", "is_error"} what the server answered
    {"event": "failed", "id", "reason"}           it did not; a sentence for the model
    {"event": "log", "text"}
    {"event": "pong"}

The end of its input ends this process and every server it has started.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import httpx2
import mcp_types as types
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage

_MIB = 1 << 20
_LONGEST_LINE = 8 * _MIB
_LONGEST_RESULT = 200_000
_LONGEST_DESCRIPTION = 4_000
_LONGEST_SCHEMA = 32_768
_LONGEST_LISTING = _MIB
# What model APIs do not take beside the properties. The server itself still checks its arguments.
_NOT_ON_TOP = frozenset({"allOf", "anyOf", "const", "enum", "not", "oneOf"})
_PROPERTY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MOST_TOOLS = 256
_MOST_PAGES = 100
_MOST_GARBAGE = 1_000
_LONGEST_LOG_LINE = 500
_LOG_BUDGET = 65_536

_SHORTEST_DELAY, _LONGEST_DELAY = 0.5, 30.0
_LONG_LIFE = 30.0
# Seconds until the next attempt above which a server counts as down rather than as restarting.
_SOON = 2.0
_RELISTEN_DELAY = 5.0
_REFRESH_INTERVAL = 1.0
_EXIT_GRACE = 0.8
_LAST_GRACE = 3
# Without a ping for this long, or with an event loop that hangs, the kernel ends this process.
_ALARM = 30

# What the SDK says of a call whose connection is gone; the codes are also used by servers.
_LOST = ("Connection closed", "Session terminated")

_PR_SET_PDEATHSIG = 1


class _Broken(Exception):
    """A server does not behave; the text is for the operator."""


class _Unavailable(Exception):
    """A server cannot be called now."""


def main() -> None:
    """Serve the gateway until it goes away."""
    signal.alarm(_ALARM)
    os.nice(5)  # the servers inherit it: the gateway's own streams come first
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("500")
    asyncio.run(_serve())
    os._exit(0)  # without waiting for threads that resolve host names


async def _serve() -> None:
    sock = socket.socket(fileno=os.dup(0))
    gateway = _Gateway(*await asyncio.open_connection(sock=sock, limit=2 * _LONGEST_LINE))
    logging.basicConfig(handlers=[_LogToGateway(gateway)], level=logging.WARNING, format="%(message)s")
    tasks: list[asyncio.Task[None]] = []
    servers: dict[str, _Server] = {}
    calls: dict[int, asyncio.Task[None]] = {}
    async for message in gateway.messages():
        match message.get("op"):
            case None:
                servers = {name: _Server(name, spec, gateway) for name, spec in message["servers"].items()}
                tasks = [asyncio.create_task(server.serve()) for server in servers.values()]
            case "call":
                call = asyncio.create_task(servers[message["server"]].answer(message))
                calls[message["id"]] = call
                call.add_done_callback(partial(calls.pop, message["id"]))
            case "cancel" if message["id"] in calls:
                calls[message["id"]].cancel()
            case "ping":
                signal.alarm(_ALARM)
                gateway.tell("pong")
    signal.alarm(2 * _LAST_GRACE)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_LAST_GRACE)


class _Gateway:
    """Lines of JSON to and from the process that has started this one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def tell(self, event: str, **facts: Any) -> None:
        """Send an event. Log lines are dropped while the gateway is slow to read."""
        if event == "log" and self._writer.transport.get_write_buffer_size() > _MIB:
            return
        self._writer.write(json.dumps({"event": event, **facts}).encode() + b"\n")

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """What the gateway says, until it goes away."""
        with suppress(ConnectionError, ValueError):
            while line := await self._reader.readline():
                yield json.loads(line)


class _LogToGateway(logging.Handler):
    """What the SDK has to say."""

    def __init__(self, gateway: _Gateway) -> None:
        super().__init__()
        self._gateway = gateway

    def emit(self, record: logging.LogRecord) -> None:
        self._gateway.tell("log", text=f"{record.name}: {record.getMessage()}"[:_LONGEST_LOG_LINE])


class _Server:
    """Keeps the connection to one server, starts it again when it is lost, and makes calls on it."""

    def __init__(self, name: str, spec: dict[str, Any], gateway: _Gateway) -> None:
        self._name = name
        self._spec = spec
        self._gateway = gateway
        self._client: Client | None = None
        self._was_ready = False  # the connection, or the last one, got as far as listing its tools
        self._settled = asyncio.Event()  # a call need not wait: the server is there, or down
        self._changed = asyncio.Event()  # the server's tools have

    async def serve(self) -> None:
        """Connect, again and again; ends only by cancellation."""
        delay, mode = _SHORTEST_DELAY, "auto"
        clock = asyncio.get_running_loop().time
        while True:
            born, self._was_ready = clock(), False
            cause: BaseException = _Broken("the connection has ended")
            try:
                await self._live(mode)
            except Exception as error:  # whatever a server can cause: it is tried again
                cause = _first(error)
            if not self._was_ready and mode == "auto" and isinstance(cause, _Broken):
                mode = "legacy"  # some old servers end at the first word they do not know
                continue
            if not self._was_ready:
                mode = "auto"
            elif clock() - born > _LONG_LIFE:
                delay = _SHORTEST_DELAY
            self._lose(_reason(cause), restarting=self._was_ready and delay <= _SOON)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    async def answer(self, message: dict[str, Any]) -> None:
        """Make one call and tell the gateway how it went. Cancelled, it tells nothing."""
        number, timeout = message["id"], message["timeout"]
        try:
            async with asyncio.timeout(timeout):
                client = await self._connected()
                result = await client.call_tool(message["tool"], json.loads(message["arguments"]))
            self._gateway.tell("result", id=number, text=_text_of(result), is_error=bool(result.is_error))
        except TimeoutError:
            self._fail(number, f"did not answer within {timeout:g} seconds")
        except _Unavailable:
            self._fail(number, "is not available at the moment")
        except MCPError as error:
            self._changed.set()  # whether the connection still works shows when the tools are listed
            if error.message in _LOST:
                self._suspend()
                self._fail(number, "has ended during the call. It is being started again")
            else:
                self._gateway.tell("result", id=number, text=_cut(error.message), is_error=True)
        except Exception as error:  # a result that breaks its own schema, or the protocol
            self._gateway.tell("log", text=f"{self._name}: {_reason(_first(error))}")
            self._fail(number, "gave an answer that cannot be used")

    def _fail(self, number: int, how: str) -> None:
        self._gateway.tell("failed", id=number, reason=f"The MCP server {self._name} {how}.")

    def _suspend(self) -> None:
        """Let calls wait until it is known whether the server is still there."""
        self._client = None
        self._settled.clear()

    def _lose(self, reason: str, *, restarting: bool) -> None:
        if not restarting:
            self._settled.set()
        self._gateway.tell("restarting" if restarting else "down", server=self._name, reason=reason)

    async def _connected(self) -> Client:
        await self._settled.wait()
        if self._client is None:
            raise _Unavailable
        return self._client

    async def _live(self, mode: str) -> None:
        """One connection, from its start to its end."""
        transport = _http(self._spec) if self._spec["url"] else _stdio(self._name, self._spec, self._gateway)
        client = Client(transport, mode=mode, cache=None, message_handler=self._notice)
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._spec["start_timeout"]):
                await stack.enter_async_context(client)
                client.session.validate_tool_result = _accept  # type: ignore[method-assign]
                await self._publish(client)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._subscribe, client)
                    await self._refresh(client)
            finally:
                self._suspend()

    async def _notice(self, message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._changed.set()

    async def _subscribe(self, client: Client) -> None:
        """Servers of the 2026 protocol tell their changes only to those who ask."""
        offered = client.server_capabilities.tools
        while offered and offered.list_changed:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    async for _ in changes:
                        self._changed.set()
            except (ListenNotSupportedError, MCPError):
                return
            except SubscriptionLost:
                pass
            await asyncio.sleep(_RELISTEN_DELAY)
            self._changed.set()

    async def _refresh(self, client: Client) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            async with asyncio.timeout(self._spec["start_timeout"]):
                await self._publish(client)
            await asyncio.sleep(_REFRESH_INTERVAL)

    async def _publish(self, client: Client) -> None:
        tools, left_out = await _list_tools(client)
        self._client, self._was_ready = client, True
        self._settled.set()
        self._gateway.tell("tools", server=self._name, tools=tools, left_out=left_out)


async def _accept(name: str, result: types.CallToolResult) -> None:
    """In place of the SDK's check of a result against its schema: it becomes text for a model anyway, and
    a pattern in the schema could keep this process, and with it all other servers, busy for ever."""


async def _list_tools(client: Client) -> tuple[list[dict[str, Any]], int]:
    """The server's tools within limits, and how many more it has."""
    listed: list[dict[str, Any]] = []
    size = left_out = 0
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            entry = _entry(tool)
            size += len(json.dumps(entry)) if entry else 0
            if entry is None or size > _LONGEST_LISTING or len(listed) >= _MOST_TOOLS:
                left_out += 1
            else:
                listed.append(entry)
        cursor = page.next_cursor
        if cursor is None:
            break
    return listed, left_out


def _entry(tool: types.Tool) -> dict[str, Any] | None:
    """One tool as the gateway wants it; None for one that no model could use."""
    schema = {key: value for key, value in tool.input_schema.items() if key not in _NOT_ON_TOP}
    if not tool.name or not _is_usable(schema):
        return None
    return {
        "name": tool.name,
        "description": (tool.description or tool.title or "")[:_LONGEST_DESCRIPTION],
        "schema": schema,
        "read_only": bool(tool.annotations and tool.annotations.read_only_hint),
    }


def _is_usable(schema: dict[str, Any]) -> bool:
    """True for a schema that model APIs accept: a single bad one makes them refuse the whole request."""
    try:
        size = len(json.dumps(schema, allow_nan=False))
        Draft202012Validator.check_schema(schema, FormatChecker(formats=()))
    except (ValueError, RecursionError, SchemaError):
        return False
    return size <= _LONGEST_SCHEMA and all(map(_PROPERTY.fullmatch, schema.get("properties", {})))


def _text_of(result: types.CallToolResult) -> str:
    blocks = [_block_text(block) for block in result.content]
    has_text = any(isinstance(block, types.TextContent) for block in result.content)
    if result.structured_content is not None and not has_text:
        blocks.append(json.dumps(result.structured_content, ensure_ascii=False))
    return _cut("\n".join(blocks))


def _block_text(block: types.ContentBlock) -> str:
    match block:
        case types.TextContent():
            return block.text
        case types.ImageContent():
            return f"[image, {block.mime_type}, not shown]"
        case types.AudioContent():
            return f"[audio, {block.mime_type}, not shown]"
        case types.ResourceLink():
            return f"[link to the resource {block.name}: {block.uri}]"
        case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
            return f"[resource {resource.uri}]\n{resource.text}"
        case _:
            return f"[resource {block.resource.uri}, not shown]"


def _cut(text: str) -> str:
    if len(text) <= _LONGEST_RESULT:
        return text
    return f"{text[:_LONGEST_RESULT]}\n[cut: {len(text) - _LONGEST_RESULT} more characters]"


def _first(error: BaseException) -> BaseException:
    """What a group of errors is about; a server's own failure before what follows from it."""
    while isinstance(error, BaseExceptionGroup):
        broken, others = error.split(_Broken)
        error = (broken or others or error).exceptions[0]
    return error


def _reason(error: BaseException) -> str:
    """An error in a line for the operator."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    text = " ".join(str(error).split())
    return (text if isinstance(error, _Broken) else f"{type(error).__name__}: {text}")[:_LONGEST_LOG_LINE]


@asynccontextmanager
async def _http(spec: dict[str, Any]) -> AsyncIterator[tuple[Any, Any]]:
    """The SDK's transport, with the configured headers and a bound on what it reads into memory."""
    timeout = httpx2.Timeout(30.0, read=300.0)
    hooks: dict[str, list[Callable[..., Any]]] = {"request": [_hurry], "response": [_bound]}
    headers = {"accept-encoding": "identity", **spec["headers"]}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout, event_hooks=hooks) as http,
        streamable_http_client(spec["url"], http_client=http) as streams,
    ):
        yield streams


async def _hurry(request: httpx2.Request) -> None:
    """Taking leave, unlike listening, must not take long."""
    if request.method == "DELETE":
        request.extensions["timeout"] = httpx2.Timeout(_LAST_GRACE).as_dict()


async def _bound(response: httpx2.Response) -> None:
    """The SDK limits the events of a stream, but neither a body of JSON nor what unpacking makes of it."""
    if response.headers.get("content-encoding", "identity").lower() not in {"", "identity"}:
        raise _Broken("it compresses its answers although it was asked not to")
    if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > _LONGEST_LINE:
                raise _Broken("it sent an answer that is too long")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def _stdio(name: str, spec: dict[str, Any], gateway: _Gateway) -> AsyncIterator[tuple[Any, Any]]:
    """A server process and the streams to it.

    In place of the SDK's own transport, which reads a line of any length into memory and lets
    a server outlive a client that is killed.
    """
    process = await _start(spec)
    gateway.tell("started", pid=process.pid)
    log = _ServerLog(name, gateway)
    incoming, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_server, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with incoming, from_server, to_server, outgoing, anyio.create_task_group() as tasks:
            tasks.start_soon(log.follow, process)
            tasks.start_soon(_read_messages, process, incoming, log)
            tasks.start_soon(_write_messages, process, outgoing)
            yield from_server, to_server
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)
        gateway.tell("ended", pid=process.pid)


async def _start(spec: dict[str, Any]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            spec["command"],
            *spec["args"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=spec["env"],
            cwd=spec["cwd"],
            limit=_LONGEST_LINE,
            start_new_session=True,
            preexec_fn=_dying_with(os.getpid()),
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise _Broken(f"{spec['command']} cannot be started: {error}") from error


def _dying_with(parent: int) -> Callable[[], None] | None:
    """What a server's process does first, so that it does not outlive this one."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork, where little is allowed

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return die_with_parent


async def _read_messages(
    process: asyncio.subprocess.Process,
    incoming: ObjectSendStream[SessionMessage | Exception],
    log: _ServerLog,
) -> None:
    """Hand on what the server writes; raises :class:`_Broken` at its end."""
    assert process.stdout
    garbage = 0
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:
            raise _Broken(f"it wrote a line of more than {_LONGEST_LINE // _MIB} MiB") from None
        if not line:
            raise _Broken(await _obituary(process, log))
        try:
            message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:  # a banner, or a print left behind by its author
            garbage += 1
            log.write(line)
            if garbage > _MOST_GARBAGE:
                raise _Broken("what it writes to its standard output is not MCP") from None
        else:
            await incoming.send(SessionMessage(message))


async def _write_messages(
    process: asyncio.subprocess.Process, outgoing: ObjectReceiveStream[SessionMessage]
) -> None:
    assert process.stdin
    async for message in outgoing:
        process.stdin.write(
            message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
        )
        with suppress(ConnectionError):  # whoever reads its output will know more
            await process.stdin.drain()


async def _obituary(process: asyncio.subprocess.Process, log: _ServerLog) -> str:
    if not await _has_exited(process, _EXIT_GRACE):
        return "it has closed its standard output"
    return f"its process has ended (exit code {process.returncode}) {log.last_words}".strip()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask it to go, then make it and whatever it has started."""
    assert process.stdin
    process.stdin.close()
    if not await _has_exited(process, _EXIT_GRACE):
        _signal_group(process, signal.SIGTERM)
        await _has_exited(process, _EXIT_GRACE)
    _signal_group(process, signal.SIGKILL)
    await _has_exited(process, _EXIT_GRACE)
    # A process that has left the group may hold the pipes; nothing public closes our ends.
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001


async def _has_exited(process: asyncio.subprocess.Process, within: float) -> bool:
    """Not by ``process.wait()``, which also waits for everybody who holds the pipes."""
    with anyio.move_on_after(within):
        while process.returncode is None:
            await anyio.sleep(0.01)
    return process.returncode is not None


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


class _ServerLog:
    """What a server writes besides messages, up to a limit; the rest is read and forgotten."""

    def __init__(self, name: str, gateway: _Gateway) -> None:
        self._name = name
        self._gateway = gateway
        self._budget = _LOG_BUDGET
        self.last_words = ""

    async def follow(self, process: asyncio.subprocess.Process) -> None:
        """Read standard error to its end."""
        assert process.stderr
        while chunk := await process.stderr.read(4096):
            self.write(chunk)

    def write(self, data: bytes) -> None:
        """Note a piece of output."""
        lines = data[-4096:].decode(errors="replace").strip().splitlines()
        if lines:
            self.last_words = lines[-1][:_LONGEST_LOG_LINE]
        for line in lines:
            if self._budget > 0:
                self._budget -= len(line)
                self._gateway.tell("log", text=f"{self._name}: {line[:_LONGEST_LOG_LINE]}")


if __name__ == "__main__":
    main()
