"""The tools ``exec`` and ``process``: commands, in the foreground and in the background."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from signal import Signals
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from ..events import ToolUpdated
from ..messages import JsonValue
from .approvals import Proposal
from .exec_output import Output
from .exec_process import Order, Process, StopReason
from .exec_table import Command, CommandTable
from .registry import Tool, ToolContext, ToolError, ToolFunction
from .signature import tool

Spawn: TypeAlias = Callable[[str, Callable[[], None]], object]
Admit: TypeAlias = Callable[[ToolContext, Proposal], str]
Action: TypeAlias = Literal["list", "poll", "log", "write", "submit", "kill", "clear", "remove"]

_PASSED_ON = frozenset({"PATH", "HOME", "LANG", "TERM", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR"})
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# What other gateways' models may send; none of it is theirs to decide.
_IGNORED = frozenset({"ask", "elevated", "host", "node", "pty", "security"})

_LONGEST_COMMAND = 100_000  # bytes; the kernel takes 128 KiB
_LONGEST_ENVIRONMENT = 64_000
_UPDATE = 0.5  # seconds between two looks at what a command has written so far
_UPDATE_BYTES = 2_000
_LONGEST_YIELD = 120.0
_LONGEST_POLL = 60.0
_LOG_LINES = 200
_KILL_WAIT = 5.0
_CLOSE_WAIT = 15.0
_SHOWN = 100  # characters of a command in a list


@dataclass(frozen=True, slots=True)
class CommandLimits:
    """How much commands may take.

    :ivar yield_seconds: after this a command goes on in the background, unless the model says else.
    :ivar timeout_seconds: of a command's life; the model may ask for less.
    :ivar grace_seconds: between SIGTERM and SIGKILL when a command is ended.
    :ivar keep_seconds: how long a background command stays listed after its end.
    :ivar max_sessions: background commands listed at the same time for one session key.
    :ivar max_concurrent: commands that run at the same time in the whole gateway.
    :ivar max_processes: of one command at the same time; one that has more is ended.
    :ivar output_bytes: of output that are kept for the conversation, half from each end.
    :ivar spill_bytes: of output that go to a file when there is more than that.
    :ivar isolate: hide all other processes from a command, where the kernel allows it.
    """

    yield_seconds: float = 10.0
    timeout_seconds: float = 1800.0
    grace_seconds: float = 2.0
    keep_seconds: float = 1800.0
    max_sessions: int = 32
    max_concurrent: int = 16
    max_processes: int = 256
    output_bytes: int = 16_000
    spill_bytes: int = 64 * 2**20
    isolate: bool = True


class Commands:
    """All commands of one gateway. Any thread may call any method.

    :param spawn: starts a thread (name, function); one per command that runs.
    :param environment: the gateway's; only harmless variables of it reach a command.
    :param admit: what to run in place of a proposed command; raises :class:`ToolError` if it may
        not run. See :meth:`.approvals.ExecGate.admit`.
    :param hidden: files that commands find empty, where the kernel allows it.
    :param sealed: a directory where they can write nothing, but for a workspace inside.
    """

    def __init__(
        self,
        *,
        spawn: Spawn,
        environment: Mapping[str, str],
        admit: Admit,
        limits: CommandLimits = CommandLimits(),
        hidden: Sequence[Path] = (),
        sealed: Path | None = None,
    ) -> None:
        self._spawn = spawn
        self._hidden = tuple(hidden)
        self._sealed = sealed
        self._environment = command_environment(environment)
        self._admit = admit
        self._limits = limits
        self._table = CommandTable(
            concurrent=limits.max_concurrent, listed=limits.max_sessions, keep_seconds=limits.keep_seconds
        )

    def tools(self) -> tuple[Tool, Tool]:
        """``exec`` and ``process``."""
        run = self._exec_tool()
        return replace(run, function=_ignoring(run.function)), self._process_tool()

    def news(self, session_key: str) -> list[str]:
        """A line about each background command that has ended since this was last asked."""
        return [
            f"Background command {_line(c)} (session {c.name}) has ended: it {self._fate(c)}."
            for c in self._table.news(session_key)
        ]

    def running(self, session_key: str) -> list[str]:
        """The background commands of a session that have not ended, as their lines cut short."""
        return [_line(c) for c in self._table.of(session_key) if c.process.ending is None]

    def kill_run(self, run_id: str) -> None:
        """End what a run has started and forget it. Returns at once."""
        self._kill(lambda command: command.run_id == run_id)

    def kill_session(self, session_key: str) -> None:
        """End what was started in a session and forget it. Returns at once."""
        self._kill(lambda command: command.session_key == session_key)

    def close(self) -> None:
        """End all commands and wait until nothing of them is left. Later calls of ``exec`` fail."""
        self._table.close()
        self._kill(lambda _: True)
        self._table.wait_empty(_CLOSE_WAIT)

    def _kill(self, chosen: Callable[[Command], bool]) -> None:
        for command in self._table.forget(chosen):
            command.process.stop(StopReason.KILLED)

    # exec

    def _exec_tool(self) -> Tool:
        description = (
            "Run a shell command in the workspace. Its output comes back, or, if it takes longer, the "
            "name of a session to follow with the process tool. What a command leaves running is ended "
            "with it: for a server use background."
        )

        @tool(name="exec", description=description)
        def run(
            context: ToolContext,
            command: Annotated[str, Field(min_length=1)],
            workdir: Annotated[str, Field(description="Relative to the workspace.")] = ".",
            env: Annotated[dict[str, str], Field(description="More environment variables.")] = {},  # noqa: B006
            yield_ms: Annotated[
                float | None,
                Field(alias="yieldMs", ge=0, description="Go on in the background after this time."),
            ] = None,
            background: Annotated[
                bool, Field(description="Start it and return; its input can be written to.")
            ] = False,
            timeout: Annotated[float | None, Field(gt=0, description="Seconds.")] = None,
        ) -> str:
            patience = self._limits.yield_seconds if yield_ms is None else yield_ms / 1000
            started = self._launch(context, command, workdir, env, timeout, background)
            return self._follow(context, started, 0.0 if background else min(patience, _LONGEST_YIELD))

        return run

    def _launch(
        self,
        context: ToolContext,
        text: str,
        workdir: str,
        env: Mapping[str, str],
        timeout: float | None,
        background: bool,
    ) -> Command:
        directory = _directory(context.workspace, workdir)
        environment = {**self._environment, **context.env, **env}
        _check(text, environment)
        line = self._admit(context, Proposal(text, directory, environment["PATH"], env))
        order = Order(
            command=line,
            shell=_shell(),
            directory=directory,
            environment=environment,
            timeout=min(timeout or self._limits.timeout_seconds, self._limits.timeout_seconds),
            grace=self._limits.grace_seconds,
            processes=self._limits.max_processes,
            isolate=self._limits.isolate,
            interactive=background,
            hidden=self._hidden,
            sealed=self._sealed,
            workspace=context.workspace.absolute(),
        )
        context.cancel.raise_if_cancelled()
        return self._start(context, text, order)

    def _start(self, context: ToolContext, text: str, order: Order) -> Command:
        name = self._table.reserve(context.session_key)
        file = context.scratch and context.scratch / f"{name}-{secrets.token_hex(4)}.txt"
        output = Output(self._limits.output_bytes, file, self._limits.spill_bytes)
        try:
            process = Process(order, output, lambda: self._ended(command))
        except OSError as error:
            self._table.release(name)
            raise ToolError(f"The command cannot be started: {error.strerror}.") from None
        command = Command(name, text, context.session_key, context.run_id, process)
        self._table.add(command)
        command.forget_cancel = context.cancel.on_cancel(lambda: process.stop(StopReason.CANCELLED))
        if self._table.closed:  # too late for `close` to see it
            process.stop(StopReason.KILLED)
        try:
            self._spawn(f"openclaw-command-{name}", process.pump)
        except RuntimeError:  # no more threads: then it is ended in this one
            process.stop(StopReason.KILLED)
            process.pump()
        return command

    def _ended(self, command: Command) -> None:
        command.forget_cancel()
        self._table.remove(command)

    def _follow(self, context: ToolContext, command: Command, patience: float) -> str:
        """Its result if it ends in time, else the word that it goes on in the background."""
        process, shown = command.process, 0
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            if process.wait(min(left, _UPDATE), context.cancel):
                return self._result(command)
            if process.size > shown:
                shown = process.size
                context.emit(ToolUpdated(context.call_id, "exec", process.tail(_UPDATE_BYTES)))
        self._table.enlist(command)
        text, command.position = process.since(0)
        return _noted(
            text,
            f"Command still running (session {command.name}, pid {process.pid}). "
            "Use process (poll, log, write, submit, kill) to follow it.",
        )

    def _result(self, command: Command) -> str:
        text = command.process.text()
        ending = command.process.ending
        if ending is None or not ending.succeeded:
            raise ToolError(_noted(text, f"(Command {self._fate(command)})"))
        if ending.left:
            return _noted(text, f"(Processes it had left running, {ending.left} in all, were ended.)")
        return text or "(no output)"

    def _fate(self, command: Command) -> str:
        ending = command.process.ending
        if ending is None:
            return "is still running"
        if ending.crowded:
            return f"had more than {self._limits.max_processes} processes and was ended"
        if ending.stopped is not None:
            return _STOPPED[ending.stopped].format(seconds=command.process.timeout)
        return _exit(ending.code)

    # process

    def _process_tool(self) -> Tool:
        description = (
            "Follow background commands. list: all of this session. poll: output since the last look. "
            "log: output by lines. write, submit (adds a line break): to standard input. kill: end it. "
            "clear: forget one that has ended. remove: end and forget."
        )

        @tool(name="process", description=description)
        def process(
            context: ToolContext,
            action: Action,
            session_id: Annotated[
                str | None, Field(alias="sessionId", description="The command's session, for all but list.")
            ] = None,
            data: Annotated[str, Field(description="For write and submit.")] = "",
            eof: Annotated[bool, Field(description="Close standard input after writing.")] = False,
            offset: Annotated[int | None, Field(ge=0, description="First line of a log, from 0.")] = None,
            limit: Annotated[int, Field(ge=1, description="Lines of a log.")] = _LOG_LINES,
            timeout: Annotated[float, Field(ge=0, description="Milliseconds that poll waits.")] = 0,
        ) -> str:
            if action == "list":
                return self._list(context)
            command = self._find(context, session_id)
            if action == "poll":
                return self._poll(context, command, min(timeout / 1000, _LONGEST_POLL))
            if action == "log":
                return _lines(command.process.text(), offset, limit)
            if action in {"write", "submit"}:
                return _write(context, command, f"{data}\n" if action == "submit" else data, eof=eof)
            return self._put_away(context, command, action)

        return process

    def _find(self, context: ToolContext, name: str | None) -> Command:
        if not name:
            raise ToolError("sessionId: which command? The action list names them.")
        command = next((c for c in self._table.of(context.session_key) if c.name == name), None)
        if command is None:
            raise ToolError(f"There is no background command {name!r} in this session.")
        return command

    def _list(self, context: ToolContext) -> str:
        commands = self._table.of(context.session_key)
        lines = (f"{c.name}  {_duration(c.process.age)}  {self._fate(c)} :: {_line(c)}" for c in commands)
        return "\n".join(lines) or "No background commands."

    def _poll(self, context: ToolContext, command: Command, seconds: float) -> str:
        command.process.wait(seconds, context.cancel, command.position)
        ended = command.process.ending is not None  # asked first: then the text is complete
        text, command.position = command.process.since(command.position)
        command.told = command.told or ended
        return _noted(text or "(no new output)", f"(Command {self._fate(command)})")

    def _put_away(self, context: ToolContext, command: Command, action: Action) -> str:
        if action == "clear" and command.process.ending is None:
            raise ToolError("The command is still running. Use kill, or remove.")
        command.process.stop(StopReason.KILLED)
        command.process.wait(_KILL_WAIT, context.cancel)
        command.told = True
        if action != "kill":
            self._table.drop(command)
        return f"Command {command.name} {self._fate(command)}."


_STOPPED = {
    StopReason.TIMEOUT: "timed out after {seconds:g} seconds and was ended",
    StopReason.KILLED: "was ended on request",
    StopReason.CANCELLED: "was ended with the run that had started it",
}


def _noted(text: str, note: str) -> str:
    text = text.rstrip("\n")
    return f"{text}\n\n{note}" if text else note


def _exit(code: int | None) -> str:
    if code is None:
        return "has ended without an exit code"
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was ended by {Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _write(context: ToolContext, command: Command, text: str, *, eof: bool) -> str:
    data = text.encode(errors="replace")
    command.process.write(data, context.cancel, eof=eof)
    return f"Wrote {len(data)} bytes{' and closed the input' if eof else ''}."


def _lines(text: str, offset: int | None, limit: int) -> str:
    lines = text.splitlines(keepends=True)
    start = max(0, len(lines) - limit) if offset is None else offset
    shown = "".join(lines[start : start + limit])
    return _noted(shown, f"[lines {start} to {min(start + limit, len(lines))} of {len(lines)}]")


def _line(command: Command) -> str:
    text = " ".join(command.text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:.0f}s"


def _directory(workspace: Path, name: str) -> Path:
    base = workspace.resolve()
    try:
        base.mkdir(parents=True, exist_ok=True)  # a new agent's first deed may be a command
        directory = (base / name).resolve()
    except (OSError, ValueError, RuntimeError):  # RuntimeError: links in a circle
        raise ToolError("workdir: not a usable directory name") from None
    if not directory.is_relative_to(base):
        raise ToolError("workdir: outside the workspace")
    if not directory.is_dir():
        raise ToolError("workdir: there is no such directory")
    return directory


def _check(command: str, environment: Mapping[str, str]) -> None:
    if "\0" in command or len(command.encode(errors="replace")) > _LONGEST_COMMAND:
        raise ToolError(f"command: at most {_LONGEST_COMMAND} bytes, and no NUL. Write a script to a file.")
    for name, value in environment.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise ToolError(f"env: {name!r} is not a usable variable")
    if sum(len(name) + len(value) for name, value in environment.items()) > _LONGEST_ENVIRONMENT:
        raise ToolError("env: too long")


def command_environment(environment: Mapping[str, str]) -> Mapping[str, str]:
    """What a command may see of the gateway's environment. Everything else may be a secret."""
    kept = {k: v for k, v in environment.items() if k in _PASSED_ON or k.startswith("LC_")}
    # A relative directory would make the workspace a place for programs.
    directories = (d for d in kept.get("PATH", "").split(":") if d.startswith("/"))
    return {**kept, "PATH": ":".join(directories) or _DEFAULT_PATH}


def _shell() -> str:
    return shutil.which("bash", path=_DEFAULT_PATH) or "/bin/sh"


def _ignoring(function: ToolFunction) -> ToolFunction:
    def call(context: ToolContext, arguments: Mapping[str, JsonValue]) -> str:
        return function(context, {k: v for k, v in arguments.items() if k not in _IGNORED})

    return call
