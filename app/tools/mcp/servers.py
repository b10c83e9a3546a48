"""The MCP servers of a gateway and what their tools do when they are called.

The SDK is large and built on asyncio, so it lives in one child process (:mod:`.child`). This
side knows which tools there are, waits for answers, and starts the child again when it ends.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

from ...cancel import CancelToken
from ...log import get_logger
from ...messages import JsonObject, JsonValue
from ...wire import dumps
from ..registry import Tool, ToolContext, ToolError
from ..untrusted import fenced
from .link import Link
from .naming import tool_names

Spawn: TypeAlias = Callable[[str, Callable[[], None]], object]

_LONGEST_ARGUMENTS = 4 << 20
# What a server gets of the gateway's environment, and what the child needs besides.
_FOR_SERVERS = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
)
_FOR_CHILD = (
    *("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "SSL_CERT_DIR", "SSL_CERT_FILE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)


@dataclass(frozen=True, slots=True)
class McpServer:
    """One configured server: a ``command`` to start, or a ``url`` to reach.

    :ivar env: added to the few variables that a server gets of the gateway's environment.
    :ivar timeout_seconds: for one call, the wait for a server that is starting included.
    :ivar start_timeout: seconds until it must have listed its tools.
    """

    transport: Literal["stdio", "streamable-http"] = "stdio"
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    url: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: float = 60.0
    start_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class McpTimings:
    """Seconds: how patient this side is.

    :ivar first_listing: from the start, how long :meth:`McpServers.tools` waits for the servers.
    :ivar grace: how much longer than its server's time-out a call waits for the child.
    :ivar tick: between two pings; a child that is silent for four of them is killed. At most
        five, for a child that hears nothing for 30 seconds ends itself.
    """

    first_listing: float = 5.0
    grace: float = 5.0
    tick: float = 5.0
    restart_delay: float = 0.5
    longest_restart_delay: float = 30.0
    long_life: float = 30.0
    close: float = 6.0


@dataclass(slots=True)
class _Server:
    """What is known of one server."""

    status: Literal["starting", "ready", "restarting", "down"] = "starting"
    reason: str = ""
    listed: tuple[Mapping[str, Any], ...] = ()


@dataclass(slots=True)
class _Call:
    """A call under way; ``outcome`` is the child's event once there is one."""

    server: str
    link: Link
    outcome: Mapping[str, Any] | None = None


class McpServers:
    """The tools of all configured MCP servers. Any thread may call any method.

    A server that is down, slow or broken costs its own tools and nothing else.

    :param spawn: starts a thread (name, function); the only source of threads.
    :param environment: the gateway's own; only a few of its variables are passed on.
    """

    def __init__(
        self,
        servers: Mapping[str, McpServer],
        *,
        spawn: Spawn,
        environment: Mapping[str, str],
        log: logging.Logger | None = None,
        timings: McpTimings = McpTimings(),
    ) -> None:
        self._configured = dict(servers)
        self._spawn = spawn
        self._environment = environment
        self._log = log or get_logger("mcp")
        self._timings = timings
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()  # guards everything below
        self._servers = {name: _Server() for name in servers}
        self._tools: tuple[Tool, ...] = ()
        self._calls: dict[int, _Call] = {}
        self._link: Link | None = None
        self._status: Literal["cold", "running", "failed", "closed"] = "cold"
        self._supervised = False
        self._patient_until = 0.0

    def start(self) -> None:
        """Start the servers, if there are any and it has not been done; does not wait for them."""
        with self._changed:
            if self._status == "cold" and self._configured:
                self._status = "running"
                self._supervised = True
                self._patient_until = time.monotonic() + self._timings.first_listing
                self._spawn("openclaw-mcp", self._supervise)

    def tools(self) -> list[Tool]:
        """All tools that can be called now, in the order of the servers' names, then of their own.

        Starts the servers if need be. Within the first seconds after that it waits until each
        has listed its tools or failed; later it returns at once what is known.
        """
        self.start()
        with self._changed:
            self._changed.wait_for(self._is_settled, max(0.0, self._patient_until - time.monotonic()))
            return list(self._tools)

    def describe(self) -> list[str]:
        """How each server is, a line each."""
        with self._changed:
            return [f"MCP server {name}: {_state(server)}" for name, server in sorted(self._servers.items())]

    def states(self) -> dict[str, str]:
        """How each server is, by name: ``starting``, ``ready``, or why it is not."""
        with self._changed:
            return {
                name: server.status if server.status in ("starting", "ready") else _state(server)
                for name, server in sorted(self._servers.items())
            }

    def close(self) -> None:
        """End the servers and their processes and wait until they are gone. Safe to call twice."""
        with self._changed:
            self._status = "closed"
            self._tools = ()
            link = self._link
            self._changed.notify_all()
        if link is not None:
            link.hang_up()
        with self._changed:
            if not self._changed.wait_for(lambda: not self._supervised, self._timings.close) and self._link:
                self._link.kill()
            self._changed.wait_for(lambda: not self._supervised, self._timings.close)

    # Calls: the run's thread.

    def _call(self, server: str, tool: str, context: ToolContext, arguments: Mapping[str, JsonValue]) -> str:
        timeout = self._configured[server].timeout_seconds
        deadline = time.monotonic() + timeout + self._timings.grace
        encoded = dumps(dict(arguments)).decode()
        if len(encoded) > _LONGEST_ARGUMENTS:
            raise ToolError("The arguments are too long.")
        self._wait(lambda: self._link is not None or self._status != "running", context.cancel, deadline)
        number, call = self._register(server)
        try:
            message = {"id": number, "server": server, "tool": tool, "arguments": encoded, "timeout": timeout}
            call.link.send({"op": "call", **message})
            self._wait(lambda: call.outcome is not None, context.cancel, deadline)
        except OSError:
            raise _unavailable(server) from None
        finally:
            self._forget(number, call)
        return _result(server, call.outcome, timeout)

    def _register(self, server: str) -> tuple[int, _Call]:
        with self._changed:
            if self._link is None:
                raise _unavailable(server)
            number, call = next(self._numbers), _Call(server, self._link)
            self._calls[number] = call
            return number, call

    def _forget(self, number: int, call: _Call) -> None:
        with self._changed:
            del self._calls[number]
            given_up = call.outcome is None and call.link is self._link
        if given_up:
            with suppress(OSError):
                call.link.send({"op": "cancel", "id": number})

    def _wait(self, done: Callable[[], bool], cancel: CancelToken, deadline: float) -> None:
        """Wait for ``done`` or the deadline.

        :raises Cancelled: soon after ``cancel`` fires.
        """

        def wake() -> None:
            with self._changed:
                self._changed.notify_all()

        remove = cancel.on_cancel(wake)
        try:
            with self._changed:
                self._changed.wait_for(
                    lambda: cancel.cancelled or done(), max(0.0, deadline - time.monotonic())
                )
        finally:
            remove()
        cancel.raise_if_cancelled()

    # From here on: the supervising thread.

    def _supervise(self) -> None:
        delay = self._timings.restart_delay
        try:
            while self._status == "running":
                born = time.monotonic()
                self._live()
                if time.monotonic() - born > self._timings.long_life:
                    delay = self._timings.restart_delay
                self._pause(delay)
                delay = min(2 * delay, self._timings.longest_restart_delay)
        finally:
            with self._changed:
                self._supervised = False
                self._changed.notify_all()

    def _live(self) -> None:
        """The life of one child, from its start until it has been reaped."""
        if find_spec("mcp") is None:
            self._fail("the package mcp is not installed (pip install 'openclaw-gateway[mcp]')")
            return
        try:
            link = Link(self._passed_on(_FOR_SERVERS + _FOR_CHILD), self._timings.tick)
        except OSError as error:
            self._log.error("the process for MCP servers cannot be started: %s", error)
            return
        try:
            link.send({"servers": self._specs()})
            self._adopt(link)
            for event in link.events():
                self._take(event)
        except OSError:
            pass  # it has ended already; its last words say why
        finally:
            self._disown()
            code = link.bury()
        if self._status == "running":
            words = " | ".join(link.last_words)
            self._log.error("the process for MCP servers has ended (exit code %s) %s", code, words)

    def _specs(self) -> dict[str, JsonObject]:
        for_servers = self._passed_on(_FOR_SERVERS)
        return {
            name: {
                "command": server.command,
                "args": list(server.args),
                "env": {**for_servers, **server.env},
                "cwd": server.cwd,
                "url": server.url if server.transport == "streamable-http" else "",
                "headers": dict(server.headers),
                "start_timeout": server.start_timeout,
            }
            for name, server in self._configured.items()
        }

    def _passed_on(self, names: tuple[str, ...]) -> dict[str, str]:
        return {name: self._environment[name] for name in names if name in self._environment}

    def _adopt(self, link: Link) -> None:
        with self._changed:
            self._link = link
            if self._status != "running":
                link.hang_up()
            self._changed.notify_all()

    def _disown(self) -> None:
        """Calls fail, and the tools stay listed: the next child will most likely have them too."""
        with self._changed:
            self._link = None
            for call in self._calls.values():
                call.outcome = call.outcome or {"event": "lost"}
            self._changed.notify_all()

    def _fail(self, reason: str) -> None:
        self._log.error("MCP servers cannot be used: %s", reason)
        with self._changed:
            if self._status == "running":
                self._status = "failed"
            for server in self._servers.values():
                server.status, server.reason, server.listed = "down", reason, ()
            self._list()

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._status != "running", seconds)

    def _take(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "result" | "failed":
                with self._changed:
                    if call := self._calls.get(event["id"]):
                        call.outcome = event
                        self._changed.notify_all()
            case "tools":
                self._take_listing(event)
            case "restarting" | "down":
                self._take_loss(event)
            case "log":
                self._log.debug("MCP: %s", event["text"])

    def _take_listing(self, event: Mapping[str, Any]) -> None:
        name, listed, left_out = event["server"], event["tools"], event["left_out"]
        with self._changed:
            server = self._servers[name]
            was_ready, server.status, server.reason = server.status == "ready", "ready", ""
            server.listed = tuple(sorted(listed, key=lambda tool: str(tool["name"])))
            self._list()
        if not was_ready:
            self._log.info("MCP server %s: %d tools", name, len(listed))
        if left_out:
            self._log.warning("MCP server %s: %d tools are left out, too many or not usable", name, left_out)

    def _take_loss(self, event: Mapping[str, Any]) -> None:
        name, reason = event["server"], event["reason"]
        with self._changed:
            server = self._servers[name]
            was_down, server.status, server.reason = server.status == "down", event["event"], reason
            if server.status == "down":
                server.listed = ()
            self._list()
        if not was_down:  # one line per outage; it is tried again until it works
            self._log.warning("MCP server %s is %s: %s", name, event["event"], reason)

    def _list(self) -> None:
        """Make the tools anew; the lock is held."""
        known = [
            (name, entry["name"], entry)
            for name, server in sorted(self._servers.items())
            for entry in server.listed
        ]
        names = tool_names([(server, tool) for server, tool, _ in known])
        tools = {
            name: self._tool(name, server, entry)
            for name, (server, _, entry) in zip(names, known, strict=True)
        }
        self._tools = tuple(tools.values()) if self._status == "running" else ()
        self._changed.notify_all()

    def _tool(self, name: str, server: str, entry: Mapping[str, Any]) -> Tool:
        tool = entry["name"]

        def call(context: ToolContext, arguments: Mapping[str, JsonValue]) -> str:
            return self._call(server, tool, context, arguments)

        return Tool(
            name=name,
            description=entry["description"] or f"{tool} of the MCP server {server}",
            parameters={"properties": {}, **entry["schema"]},
            function=call,
            parallel=entry["read_only"],
        )

    def _is_settled(self) -> bool:
        return self._status != "running" or all(s.status != "starting" for s in self._servers.values())


def _result(server: str, outcome: Mapping[str, Any] | None, timeout: float) -> str:
    """What the child has answered, as text for the model."""
    if outcome is None:
        raise ToolError(f"The MCP server {server} did not answer within {timeout:g} seconds.")
    if outcome["event"] == "lost":
        raise ToolError(f"The MCP server {server} has ended during the call. It is being started again.")
    if outcome["event"] == "failed":
        raise ToolError(outcome["reason"])
    text = fenced(outcome["text"], f"MCP server {server}")
    if outcome["is_error"]:
        raise ToolError(text)
    return text


def _unavailable(server: str) -> ToolError:
    return ToolError(f"The MCP server {server} is not available at the moment.")


def _state(server: _Server) -> str:
    if server.status == "ready":
        return f"{len(server.listed)} tools"
    return f"{server.status} ({server.reason})" if server.reason else server.status
