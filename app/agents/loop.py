"""One agent turn: model, tools, model again, until there is an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from ..cancel import CancelToken
from ..errors import InvalidAnswer, ProviderError, ProviderReason
from ..events import ContextCompacted, ProgressEvent, ReasoningDelta, TextDelta
from ..log import get_logger
from ..messages import AssistantMessage, FinishReason, Message, ToolCall, Usage, UserMessage
from ..providers.base import ModelDone
from ..sessions.keys import name_of, namespace_of
from ..text import GrowingText
from ..tools.registry import ToolContext
from .briefing import Briefing, summary_request
from .calls import ToolRunner
from .compaction import CompactionFailed
from .demands import Demands
from .failover import ModelCaller
from .models import Candidate
from .registry import Agent
from .repeat import RepeatGuard
from .skills import skill_env
from .text import ReplyFilter
from .turn import SEPARATOR, Harness, TurnInput, TurnRecord

_NUDGE = "Please answer the last message with a visible reply."
_LIMIT = (
    "No more tool calls are possible in this turn. Give the best answer you can with what you know by now."
)
_REPEATING = "The same tool calls keep giving the same results. Stop and answer with what you know by now."
_UNREADABLE = (
    "Several tool calls were not valid JSON. Stop calling tools and answer with what you know by now."
)
_THEIRS_LEFT = " Only these can still be called: {}."
_NOTICE = "\n\n[This call has now given the same result several times. Try something else or answer.]"
_COMPACTED = "Compacted ({:,} → {:,} tokens)."
_SHORT_ENOUGH = "Nothing to compact."
_PIECE = 256  # characters
_MOST_PIECES = 16
_BAD_CALLS = 3
_COMPACTIONS = 2
_TIGHT = 200  # tokens; a summary and what it is followed by need more
_BRIEF = 500  # tokens; a summary of so little would be no shorter

_log = get_logger("agent")


class Turn:
    """Runs one turn in the calling thread.

    :param emit: takes progress events; may block while the reader is slow.
    :param store: takes messages that must be durable before the turn goes on, and returns the
        number of the first in its session.
    :param compacted: takes a summary and the number of the first message that it does not
        stand for; False if the session has changed meanwhile. None where nothing is kept.
    """

    def __init__(
        self,
        agent: Agent,
        turn: TurnInput,
        harness: Harness,
        *,
        cancel: CancelToken,
        emit: Callable[[ProgressEvent], None],
        store: Callable[[Sequence[Message]], int],
        compacted: Callable[[str, int], bool] | None = None,
    ) -> None:
        self.record = TurnRecord(model_ref=agent.model_ref)
        self._agent = agent
        self._input = turn
        self._harness = harness
        self._cancel = cancel
        self._emit = emit
        self._store = store
        self._compacted = compacted
        self._conversation = turn.conversation
        self._skills = agent.skills.current()
        self._briefing = Briefing(agent, turn, harness, self._skills)
        candidates = _able(agent.candidates, turn)
        self._caller = ModelCaller(
            candidates,
            cancel,
            harness.cooldowns,
            time_left=turn.time_left,
            watch=partial(harness.called, turn.run_id),
        )
        self.record.calls = self._caller.calls
        self._guard = RepeatGuard()
        self._demands = Demands(turn, cancel)
        self._thinking = False  # in the message being written
        self._bad_calls = 0
        self._repeating = False
        self._compactions = 0
        self._overflowed = False

    def run(self) -> None:
        """Go on until there is an answer, which is then ``record.last``.

        :raises ProviderError: no model gave an answer.
        :raises InvalidAnswer: the answer is not what the caller demands, twice.
        :raises Cancelled: the run was cancelled.
        """
        rounds = 0
        while True:
            last_word = self._last_word(rounds)
            done = self._call_model(last_word)
            own, theirs, problems = self._demands.divided(done.tool_calls)
            if own and last_word:  # it has only the caller's tools left, and cannot call them
                raise InvalidAnswer("The model did not manage to call the caller's tools.", param="tools")
            message = AssistantMessage(self.record.partial, own + theirs, done.thoughts)
            if own:
                self._keep(message)
                self._close_message()
                self._run_tools(own, problems)
                rounds += 1
            if theirs or not (own or self._demands.rejects(self.record, done.finish_reason)):
                break
            for told, number in self._input.steering() if own else ():
                self._conversation.add(told, number)
        self._conclude(message, done.finish_reason, theirs, stored=bool(own))

    def _conclude(
        self, message: AssistantMessage, reason: FinishReason, theirs: tuple[ToolCall, ...], *, stored: bool
    ) -> None:
        """Take note of the answer, and show what was held back of it."""
        if self._demands.structured and theirs:  # then the text is no JSON, and nobody has asked for it
            self.record.written = GrowingText()
        self.record.client_calls = theirs
        self.record.finish_reason = "tool_calls" if theirs else "stop" if reason == "tool_calls" else reason
        self.record.last = None if stored else replace(message, text=self.record.partial)
        if self._demands.held:
            for piece in _in_pieces(self.record.text):
                self._emit(TextDelta(piece))

    def compact(self, focus: str) -> None:
        """Summarise the conversation now, all but its newest part, however much room there is.

        What is shown is a word on how it went; it is no part of the conversation.

        :param focus: what the summary should keep in mind, may be empty.
        :raises Cancelled: the run was cancelled.
        """
        fixed = self._briefing.brief(self._agent.candidates[0]).tokens
        self._conversation.tokens(fixed)  # takes the measure from the last prompt, which was whole
        keep = min(self._harness.compaction.keep, self._conversation.message_tokens // 10)
        try:
            event = self._shorten(keep, focus) if self._conversation.message_tokens > _BRIEF else None
        except CompactionFailed as error:
            word = f"The conversation stays as it is: {error}"
        else:
            word = _COMPACTED.format(event.tokens_before, event.tokens_after) if event else _SHORT_ENOUGH
            self.record.context_tokens = self._conversation.tokens(fixed)
        self.record.finished.append(word)
        self._emit(TextDelta(word))

    def _last_word(self, rounds: int) -> str | None:
        """Why the next answer has to do without tools; None while it need not."""
        if rounds >= self._agent.max_rounds:
            left = ", ".join(spec.name for spec in self._input.client_tools.offered)
            return _LIMIT + (_THEIRS_LEFT.format(left) if left else "")
        if self._repeating:
            return _REPEATING
        return _UNREADABLE if self._bad_calls >= _BAD_CALLS else None

    def _call_model(self, last_word: str | None) -> ModelDone:
        self._make_room_if_needed()
        done = self._stream_message(last_word, with_tools=last_word is None)
        # After a tool's result a model may have said all before; one that was cut off has not.
        if self._is_blank(done) and (last_word or not self.record.finished):
            done = self._stream_message(_NUDGE, with_tools=last_word is None)
            if self._is_blank(done) and not self.record.finished:
                raise ProviderError(ProviderReason.EMPTY, "The model gave an empty answer.")
        if done.finish_reason in ("length", "content_filter"):
            # The calls may be cut off in the middle of their arguments.
            return replace(done, tool_calls=())
        return done

    def _is_blank(self, done: ModelDone) -> bool:
        """True if the message says nothing although nothing the caller asked for explains it."""
        messages = self._conversation.messages
        prefilled = bool(messages) and isinstance(messages[-1], AssistantMessage)
        demanded = self._input.client_tools.choice.required  # what it has to do it is told later
        explained = done.finish_reason != "stop" or self._input.params.stop or prefilled or demanded
        return not (self.record.written or done.tool_calls or explained)

    def _stream_message(self, nudge: str | None, *, with_tools: bool) -> ModelDone:
        try:
            done = self._stream_once(nudge, with_tools=with_tools)
        except ProviderError as error:
            if error.reason is not ProviderReason.CONTEXT_OVERFLOW or self._overflowed or self.record.written:
                raise
            self._overflowed = True
            self._make_room()
            done = self._stream_once(nudge, with_tools=with_tools)
        if done.tool_calls and not with_tools:
            # It called tools that it was not offered: whatever it wrote is the answer.
            theirs = self._input.client_tools.among(done.tool_calls)
            return ModelDone("tool_calls" if theirs else "stop", theirs, done.usage)
        return done

    def _stream_once(self, nudge: str | None, *, with_tools: bool) -> ModelDone:
        reply = ReplyFilter()
        self._thinking = False
        done: ModelDone | None = None
        nudges = () if nudge is None else (UserMessage.of(nudge),)
        behind = (*self._demands.objection, *nudges)
        build = partial(self._briefing.request, behind=behind, with_tools=with_tools)
        try:
            # Closed at once when the turn breaks off, so that the call is over and noted by then.
            with closing(self._caller.stream(build)) as events:
                for event in events:
                    self._cancel.raise_if_cancelled()
                    if isinstance(event, TextDelta):
                        self._show(reply.feed(event.text))
                    elif isinstance(event, ModelDone):
                        done = event
                    else:
                        self._think_aloud(event)
        finally:
            self.record.model_ref = self._caller.answered_by
        self._show(reply.finish())
        assert done is not None, "a provider ends every stream with ModelDone"
        self._count(done.usage)
        return done

    def _show(self, events: Sequence[TextDelta | ReasoningDelta]) -> None:
        for event in events:
            if isinstance(event, TextDelta):
                if self.record.finished and not self.record.written and not self._demands.held:
                    self._emit(TextDelta(SEPARATOR))
                self.record.written.add(event.text)
                if not self._demands.held:
                    self._emit(event)
            else:
                self._think_aloud(event)

    def _think_aloud(self, event: ReasoningDelta) -> None:
        if self.record.thoughts and not self._thinking:
            self.record.thoughts.add(SEPARATOR)
            self._emit(ReasoningDelta(SEPARATOR))
        self._thinking = True
        self.record.thoughts.add(event.text)
        self._emit(event)

    def _close_message(self) -> None:
        """The message is stored: what the model writes next is another one."""
        if self.record.written and not self._demands.structured:
            self.record.finished.append(self.record.partial)
        self.record.written = GrowingText()

    def _count(self, usage: Usage | None) -> None:
        if usage is None:  # nobody can tell what it has cost
            self.record.cost = None
            return
        self.record.usage += usage
        self.record.context_tokens = usage.total
        price = self._answered.info.price
        cost = self.record.cost
        self.record.cost = None if price is None or cost is None else cost + price.of(usage)

    @property
    def _answered(self) -> Candidate:
        candidates = self._agent.candidates
        return next((c for c in candidates if c.ref == self._caller.answered_by), candidates[0])

    # Room in the model's window

    def _make_room_if_needed(self) -> None:
        primary = self._agent.candidates[0]
        window = primary.info.context_window
        fixed = self._briefing.brief(primary).tokens
        room = self._conversation.room(self._briefing.budget(primary.info), fixed)
        if self._conversation.message_tokens <= room:
            return
        if room >= _TIGHT:
            self._compact(min(self._harness.compaction.keep, window * 3 // 10, room // 2))
            return
        _log.warning(
            "agent %s: prompt and tools (%d tokens) leave no room for a conversation in %s (%d)",
            self._agent.id, fixed, primary.ref, window,
        )  # fmt: skip

    def _make_room(self) -> None:
        """The provider found the prompt too long, whatever the estimate said."""
        half = self._conversation.halve()
        self._compact(min(self._harness.compaction.keep, half))

    def _compact(self, keep: int) -> None:
        """Summarise the older part of the conversation; if that fails, it stays as it is."""
        if not self._harness.compaction.enabled or self._compactions >= _COMPACTIONS:
            return
        self._compactions += 1
        try:
            self._shorten(keep)
        except CompactionFailed as error:
            _log.warning("run %s: the conversation was not compacted: %s", self._input.run_id, error)

    def _shorten(self, keep: int, focus: str = "") -> ContextCompacted | None:
        """Summarise all but about ``keep`` tokens; None if nothing was to be done or could be kept.

        :raises CompactionFailed: the conversation is as it was.
        """
        if self._compacted is None:
            return None
        window = self._agent.candidates[0].info.context_window
        before = self._conversation.message_tokens
        result = self._conversation.compact(keep, window * 2 // 5, partial(self._summarise, focus))
        if result is None or not self._compacted(result.summary, self._conversation.number(result.kept)):
            return None
        self._conversation.replace(result)
        self.record.context_tokens = 0  # what was counted before is no measure of what is left
        event = ContextCompacted(before, self._conversation.message_tokens)
        self._emit(event)
        return event

    def _summarise(self, focus: str, prompt: str) -> str:
        pieces: list[str] = []
        usage: Usage | None = None
        with closing(self._caller.stream(partial(summary_request, prompt=prompt, focus=focus))) as events:
            for event in events:
                self._cancel.raise_if_cancelled()
                if isinstance(event, TextDelta):
                    pieces.append(event.text)
                elif isinstance(event, ModelDone):
                    usage = event.usage
        context_tokens = self.record.context_tokens
        self._count(usage)
        self.record.context_tokens = context_tokens
        reply = ReplyFilter()
        shown = [*reply.feed("".join(pieces)), *reply.finish()]
        return "".join(event.text for event in shown if isinstance(event, TextDelta))

    # Tools

    def _run_tools(self, calls: Sequence[ToolCall], problems: Mapping[str, str]) -> None:
        self._bad_calls += len(problems)
        for call, result in zip(calls, self._runner().run(calls, problems), strict=True):
            seen = self._guard.seen(call.name, call.arguments, result.text)
            self._repeating = self._repeating or seen == "stop"
            self._keep(replace(result, text=result.text + _NOTICE) if seen == "notice" else result)

    def _keep(self, message: Message) -> None:
        """Make a message durable and part of the conversation."""
        self._conversation.add(message, self._store([message]))

    def _runner(self) -> ToolRunner:
        """Made when it is needed: one that was kept would keep the turn, and with it all that was asked."""
        return ToolRunner(
            self._briefing.tools,
            permits=lambda name: self._briefing.permits(name, self._caller.answered_by),
            context=self._context,
            window=lambda: self._answered.info.context_window,
            emit=self._emit,
            cancel=self._cancel,
            spawn=self._harness.spawn,
        )

    def _context(self, call_id: str) -> ToolContext:
        return ToolContext(
            agent_id=self._agent.id,
            session_key=self._input.session_key,
            run_id=self._input.run_id,
            model_ref=self._caller.answered_by,
            workspace=self._agent.workspace,
            turns=len(self._conversation.messages),
            cancel=self._cancel,
            call_id=call_id,
            channel=self._input.channel,
            ephemeral=self._input.ephemeral,
            readable=(*self._agent.skills.roots, self._input.scratch),
            scratch=self._input.scratch,
            env=skill_env(self._skills),
            emit=self._emit,
            off_the_clock=self._input.off_the_clock,
            caller=name_of(namespace_of(self._input.session_key)),
        )


def _in_pieces(text: str) -> Iterator[str]:
    """A whole text in a few pieces, for those who read along."""
    size = max(_PIECE, -(-len(text) // _MOST_PIECES))
    return (text[i : i + size] for i in range(0, len(text), size))


def _able(candidates: Sequence[Candidate], turn: TurnInput) -> Sequence[Candidate]:
    """Those that can do what the caller demands; all of them if none can."""
    theirs = turn.client_tools
    if not theirs.choice.required:
        return candidates
    return [candidate for candidate in candidates if theirs.offered_to(candidate.info)] or candidates
