"""What the caller of a run demands of its answer: calls of its tools, or JSON."""

from __future__ import annotations

from collections.abc import Sequence

from ..cancel import CancelToken
from ..errors import InvalidAnswer
from ..log import get_logger
from ..messages import AssistantMessage, FinishReason, Message, ToolCall, UserMessage
from ..text import GrowingText
from .arguments import clean_calls
from .structured import OutputViolation, checked_output
from .turn import TurnInput, TurnRecord

_NOT_AS_STATED = "The arguments are not what the tool takes: {} Send the call again, corrected."
_NOT_CALLED = "The request demands a call of {}. Call it now."
_MALFORMED_BESIDE = "This call was not run: another one beside it was malformed. Send all of them again."
_VIOLATION = (
    "Your answer was not shown, because it is not what was asked for: {} "
    "Answer again, with nothing but the JSON that was asked for."
)

_log = get_logger("agent")


class Demands:
    """Checks the answers of one turn before anything of them is shown.

    :ivar structured: the answer is to be JSON.
    :ivar held: nothing is shown before it is known to be what is demanded.
    :ivar objection: what the model is told behind the conversation, once it has not done as demanded.
    """

    def __init__(self, turn: TurnInput, cancel: CancelToken) -> None:
        self._turn = turn
        self._cancel = cancel
        self.structured = turn.params.response_format is not None
        self.held = self.structured or turn.client_tools.choice.required
        self.objection: tuple[Message, ...] = ()

    def divided(
        self, wanted: Sequence[ToolCall]
    ) -> tuple[tuple[ToolCall, ...], tuple[ToolCall, ...], dict[str, str]]:
        """The calls to run here, those for the caller, and what is wrong with some of the first.

        The caller gets none while one of its own is malformed.
        """
        tools = self._turn.client_tools
        calls, problems = clean_calls(wanted)
        theirs = tools.among(calls)
        own = tuple(call for call in calls if not tools.offers(call.name))
        for call in theirs:
            if call.id not in problems and (fault := tools.fault_of(call, self._cancel)):
                problems[call.id] = _NOT_AS_STATED.format(fault)
        if any(call.id in problems for call in theirs):
            problems.update({call.id: _MALFORMED_BESIDE for call in theirs if call.id not in problems})
            return own + theirs, (), problems
        return own, theirs, problems

    def rejects(self, record: TurnRecord, reason: FinishReason) -> bool:
        """True if the answer is not what is demanded: then the model is to be told, once.

        Of JSON only what was asked for stays in ``record``; of an answer that is rejected, nothing.

        :param reason: why the model stopped.
        :raises InvalidAnswer: it has been told before.
        """
        if reason not in ("stop", "tool_calls"):  # it was cut off: that says all
            return False
        choice = self._turn.client_tools.choice
        if choice.required:
            tool = f"the tool {choice.name!r}" if choice.name else "one of the caller's tools"
            self._object(record, _NOT_CALLED.format(tool), f"The model did not call {tool}.", "tool_choice")
            return True
        if not self.structured:
            return False
        said, wanted = record.partial, self._turn.params.response_format
        try:
            record.written = GrowingText(checked_output(wanted, said, self._cancel))
        except OutputViolation as violation:
            fault = f"The answer is not valid: {violation}"
            self._object(record, _VIOLATION.format(violation), fault, "response_format")
            return True
        return False

    def _object(self, record: TurnRecord, told: str, fault: str, param: str) -> None:
        said = (AssistantMessage(record.partial),) if record.written else ()
        record.written = GrowingText()  # nobody is to see it
        if self.objection:
            raise InvalidAnswer(fault, param=param)
        _log.warning("run %s: %s It is asked again.", self._turn.run_id, fault)
        self.objection = (*said, UserMessage.of(told))
