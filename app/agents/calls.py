"""Tool calls of one model message: checked, run, side by side where that is safe, cut to size."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TypeAlias

from ..cancel import CancelToken
from ..context import carried
from ..events import ProgressEvent, ToolFinished, ToolStarted
from ..log import get_logger
from ..messages import ToolCall, ToolMessage
from ..tools.registry import Tool, ToolContext, ToolError
from .arguments import parse_arguments
from .context import text_tokens

Spawn: TypeAlias = Callable[[str, Callable[[], None]], object]

_SIDE_BY_SIDE = 8
_MOST_TOKENS, _LEAST_TOKENS = 20_000, 100

_log = get_logger("tools")


class ToolRunner:
    """Runs the tool calls of one turn.

    :param permits: the policy's word on a tool's name, asked again for every call.
    :param context: makes the context of a call from its id.
    :param window: tokens of the model's window; the results of one message take at most half of it.
    :param spawn: starts a thread, for calls that run side by side.
    """

    def __init__(
        self,
        tools: Mapping[str, Tool],
        *,
        permits: Callable[[str], bool],
        context: Callable[[str], ToolContext],
        window: Callable[[], int],
        emit: Callable[[ProgressEvent], None],
        cancel: CancelToken,
        spawn: Spawn,
    ) -> None:
        self._tools = tools
        self._permits = permits
        self._context = context
        self._window = window
        self._emit = emit
        self._cancel = cancel
        self._spawn = spawn

    def run(self, calls: Sequence[ToolCall], problems: Mapping[str, str]) -> Iterator[ToolMessage]:
        """The results in the order of the calls, each as soon as it and those before it are there.

        One that is too long for the model comes as its beginning and its end.

        :param problems: what is wrong with a call, by its id; such a call is not run.
        :raises Cancelled: the run was cancelled; what has not run by then never will.
        """
        room = max(_LEAST_TOKENS, min(_MOST_TOKENS, self._window() // 2 // max(1, len(calls))))
        for batch in self._batches(calls):
            self._cancel.raise_if_cancelled()
            for call in batch:
                self._emit(ToolStarted(call.id, call.name, call.arguments))
            for call, whole in zip(batch, self._run_batch(batch, problems), strict=True):
                result = replace(whole, text=_shown(whole.text, room, self._context(call.id)))
                yield result
                self._emit(ToolFinished(call.id, call.name, result.is_error, result.text))

    def _batches(self, calls: Sequence[ToolCall]) -> Iterator[list[ToolCall]]:
        """Neighbouring calls that may run side by side, together; every other call alone."""
        for parallel, group in groupby(calls, self._is_parallel):
            together = list(group)
            size = _SIDE_BY_SIDE if parallel else 1
            yield from (together[i : i + size] for i in range(0, len(together), size))

    def _is_parallel(self, call: ToolCall) -> bool:
        tool = self._tools.get(call.name)
        return tool is not None and tool.parallel

    def _run_batch(self, batch: list[ToolCall], problems: Mapping[str, str]) -> Iterator[ToolMessage]:
        if len(batch) == 1:
            yield self._run_one(batch[0], problems.get(batch[0].id))
            return
        jobs = [_Job(partial(self._run_one, call, problems.get(call.id))) for call in batch]
        for call, job in zip(batch, jobs, strict=True):
            self._spawn(f"tool-{call.name}", carried(job.run))
        yield from (job.result() for job in jobs)

    def _run_one(self, call: ToolCall, problem: str | None) -> ToolMessage:
        try:
            if problem is not None:
                raise ToolError(problem)
            tool = self._permitted(call.name)
            text = tool.function(self._context(call.id), parse_arguments(call.arguments))
        except ToolError as error:
            return ToolMessage(call.id, call.name, str(error), is_error=True)
        except Exception:
            _log.exception("tool %s failed", call.name)
            return ToolMessage(call.id, call.name, "The tool failed with an internal error.", is_error=True)
        return ToolMessage(call.id, call.name, text)

    def _permitted(self, name: str) -> Tool:
        tool = self._tools.get(name)
        # The policy is asked when tools are listed and, by design, again when one is called.
        if tool is None or not self._permits(name):
            raise ToolError(
                f"There is no tool named {name!r}. Available: {', '.join(self._tools) or 'none'}."
            )
        return tool


class _Job:
    """A piece of work in another thread, and its outcome."""

    def __init__(self, work: Callable[[], ToolMessage]) -> None:
        self._work = work
        self._done = threading.Event()
        self._result: ToolMessage | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def result(self) -> ToolMessage:
        """What the work returned, or raise what it raised."""
        self._done.wait()
        if self._result is None:
            raise self._error or RuntimeError("the work has no result")
        return self._result


def _shown(text: str, room: int, context: ToolContext) -> str:
    """``text`` if it takes no more than ``room`` tokens, else a part of it and where to read all of it."""
    tokens = text_tokens(text)
    if tokens <= room:
        return text
    fitting = len(text) * room // tokens
    head, tail = fitting // 4, fitting // 8
    place = _spill(text, context)
    where = f"; all of it: {place}" if place else ""
    return f"{text[:head]}\n[… {len(text) - head - tail} characters left out{where} …]\n{text[-tail:]}"


def _spill(text: str, context: ToolContext) -> str | None:
    """Write ``text`` to the scratch directory; None where that cannot be done."""
    if context.scratch is None:
        return None
    path = context.scratch / f"result-{os.urandom(6).hex()}.txt"
    try:
        context.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text, "utf-8", errors="replace")
    except OSError as error:
        _log.warning("a long tool result could not be kept: %s", error.strerror)
        return None
    return str(path)
