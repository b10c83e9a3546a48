"""One agent turn: model, tools, model again, until there is an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..cancel import CancelToken
from ..errors import ProviderError, ProviderReason
from ..events import ProgressEvent, ReasoningDelta, TextDelta, ToolFinished, ToolStarted
from ..log import get_logger
from ..messages import (
    AssistantMessage,
    FinishReason,
    JsonValue,
    Message,
    SamplingParams,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from ..providers.base import ModelDone, ModelInfo, ModelRequest, ToolSpec
from ..tools.registry import Tool, ToolContext, ToolError, ToolRegistry
from ..wire import InvalidJson, loads
from .context import fitted, repaired, without_images
from .failover import ModelCaller
from .models import Candidate, merge_params
from .prompt import PromptLimits, build_prompt
from .registry import Agent
from .text import ReplyFilter

_NUDGE = UserMessage.of("Please answer the last message with a visible reply.")
_SEPARATOR = "\n\n"

_log = get_logger("agent")


@dataclass(frozen=True, slots=True)
class TurnInput:
    """What one turn starts from.

    :ivar history: the conversation, its last message being the one to answer.
    :ivar system: the caller's system text.
    :ivar main_session: the owner's own conversation.
    """

    run_id: str
    session_key: str
    history: tuple[Message, ...]
    system: str
    params: SamplingParams
    main_session: bool


@dataclass(slots=True)
class TurnRecord:
    """What a turn has come to so far; right at any moment, also when it is cut short.

    :ivar finished: the visible texts of the messages before the one being written.
    :ivar pieces: the visible deltas of the message being written.
    :ivar last: the finished answer, not yet stored; None while there is none.
    """

    finished: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    last: AssistantMessage | None = None
    finish_reason: FinishReason = "stop"
    model_ref: str = ""
    attempts: int = 0

    @property
    def partial(self) -> str:
        """The visible text of the message being written."""
        return "".join(self.pieces)

    @property
    def text(self) -> str:
        """All visible text of the turn, a blank line between messages."""
        return _SEPARATOR.join((*self.finished, *([self.partial] if self.pieces else ())))


class Turn:
    """Runs one turn in the calling thread.

    :param emit: takes progress events; may block while the reader is slow.
    :param store: takes messages that must be durable before the turn goes on.
    """

    def __init__(
        self,
        agent: Agent,
        turn: TurnInput,
        tools: ToolRegistry,
        limits: PromptLimits,
        *,
        cancel: CancelToken,
        emit: Callable[[ProgressEvent], None],
        store: Callable[[Sequence[Message]], None],
    ) -> None:
        self.record = TurnRecord(model_ref=agent.model_ref)
        self._agent = agent
        self._input = turn
        self._limits = limits
        self._cancel = cancel
        self._emit = emit
        self._store = store
        self._tools = {tool.name: tool for tool in tools.tools if agent.policy.permits(tool.name)}
        self._caller = ModelCaller(agent.candidates, cancel)
        self._conversation: list[Message] = list(turn.history)

    def run(self) -> None:
        """Go on until there is an answer, which is then ``record.last``.

        :raises ProviderError: no model gave an answer.
        :raises Cancelled: the run was cancelled.
        """
        for rounds in range(self._agent.max_rounds + 1):
            done = self._call_model(with_tools=rounds < self._agent.max_rounds)
            message = AssistantMessage(self.record.partial, done.tool_calls)
            if not done.tool_calls:
                break
            self._conversation.append(message)
            self._store([message])
            self._close_message()
            self._run_tools(done.tool_calls)
        self.record.last = message
        self.record.finish_reason = done.finish_reason

    def _call_model(self, *, with_tools: bool) -> ModelDone:
        done = self._stream_message(with_tools=with_tools, nudge=False)
        if self._is_blank(done):
            done = self._stream_message(with_tools=with_tools, nudge=True)
            if self._is_blank(done):
                raise ProviderError(ProviderReason.EMPTY, "The model gave an empty answer.")
        if done.finish_reason in ("length", "content_filter"):
            # The calls may be cut off in the middle of their arguments.
            return ModelDone(done.finish_reason, (), done.usage)
        return done

    def _is_blank(self, done: ModelDone) -> bool:
        """True if nothing was written although nothing the caller asked for explains it."""
        shown = self.record.finished or self.record.pieces
        prefilled = isinstance(self._input.history[-1], AssistantMessage) if self._input.history else False
        explained = done.finish_reason != "stop" or self._input.params.stop or prefilled
        return not (shown or done.tool_calls or explained)

    def _stream_message(self, *, with_tools: bool, nudge: bool) -> ModelDone:
        reply = ReplyFilter()
        done: ModelDone | None = None
        try:
            for event in self._caller.stream(lambda c: self._request(c, with_tools=with_tools, nudge=nudge)):
                self._cancel.raise_if_cancelled()
                if isinstance(event, TextDelta):
                    self._show(reply.feed(event.text))
                elif isinstance(event, ModelDone):
                    done = event
                else:
                    self._emit(event)
        finally:
            self.record.attempts = self._caller.attempts
            self.record.model_ref = self._caller.answered_by
        self._show(reply.finish())
        assert done is not None, "a provider ends every stream with ModelDone"
        self.record.usage += done.usage or Usage()
        if done.tool_calls and not with_tools:
            # It called tools that it was not offered: whatever it wrote is the answer.
            return ModelDone("stop", (), done.usage)
        return done

    def _show(self, events: Iterator[TextDelta | ReasoningDelta]) -> None:
        for event in events:
            if isinstance(event, TextDelta):
                if self.record.finished and not self.record.pieces:
                    self._emit(TextDelta(_SEPARATOR))
                self.record.pieces.append(event.text)
            self._emit(event)

    def _close_message(self) -> None:
        """The message is stored: what the model writes next is another one."""
        if self.record.pieces:
            self.record.finished.append(self.record.partial)
            self.record.pieces = []

    def _request(self, candidate: Candidate, *, with_tools: bool, nudge: bool) -> ModelRequest:
        info = candidate.info
        specs = tuple(_spec(tool) for tool in self._tools.values()) if info.tools else ()
        system = build_prompt(
            self._agent.name,
            self._agent.workspace,
            specs,
            caller=self._input.system,
            main_session=self._input.main_session,
            small=info.small,
            limits=self._limits,
        )
        messages = repaired([*self._conversation, *([_NUDGE] if nudge else [])])
        if not info.images:
            messages = without_images(messages)
        return ModelRequest(
            model=candidate.model,
            system=system,
            messages=fitted(messages, system, info),
            tools=specs if with_tools else (),
            params=_within(info, merge_params(self._agent.params, self._input.params)),
            timeouts=candidate.timeouts,
        )

    def _run_tools(self, calls: Sequence[ToolCall]) -> None:
        for call in calls:
            self._cancel.raise_if_cancelled()
            self._emit(ToolStarted(call.id, call.name, call.arguments))
            result = self._run_tool(call)
            self._conversation.append(result)
            self._store([result])
            self._emit(ToolFinished(call.id, call.name, result.is_error))

    def _run_tool(self, call: ToolCall) -> ToolMessage:
        try:
            text = self._permitted(call.name).function(self._context(), _arguments(call))
        except ToolError as error:
            return ToolMessage(call.id, call.name, str(error), is_error=True)
        except Exception:
            _log.exception("tool %s failed in run %s", call.name, self._input.run_id)
            return ToolMessage(call.id, call.name, "The tool failed with an internal error.", is_error=True)
        return ToolMessage(call.id, call.name, text)

    def _permitted(self, name: str) -> Tool:
        tool = self._tools.get(name)
        # The policy is asked when tools are listed and, by design, again when one is called.
        if tool is None or not self._agent.policy.permits(name):
            raise ToolError(
                f"There is no tool named {name!r}. Available: {', '.join(self._tools) or 'none'}."
            )
        return tool

    def _context(self) -> ToolContext:
        return ToolContext(
            agent_id=self._agent.id,
            session_key=self._input.session_key,
            run_id=self._input.run_id,
            model_ref=self._caller.answered_by,
            workspace=self._agent.workspace,
            turns=len(self._conversation),
            cancel=self._cancel,
        )


def _within(info: ModelInfo, params: SamplingParams) -> SamplingParams:
    """Parameters that the model does not refuse: it cannot write more than it can write."""
    if params.max_tokens is None or info.max_output is None:
        return params
    return replace(params, max_tokens=min(params.max_tokens, info.max_output))


def _spec(tool: Tool) -> ToolSpec:
    return ToolSpec(tool.name, tool.description, tool.parameters)


def _arguments(call: ToolCall) -> Mapping[str, JsonValue]:
    try:
        arguments = loads(call.arguments.encode() or b"{}")
    except InvalidJson as error:
        raise ToolError(f"The arguments are not valid JSON: {error}.") from None
    if not isinstance(arguments, dict):
        raise ToolError("The arguments must be a JSON object.")
    return arguments
