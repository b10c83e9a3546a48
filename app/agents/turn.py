"""What a turn starts from, and what it comes to: plain values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from ..messages import AssistantMessage, FinishReason, Message, SamplingParams, ToolCall, Usage
from ..sessions.records import ModelCall
from ..text import GrowingText
from ..tools.registry import ToolRegistry
from .calls import Spawn
from .client_tools import NO_CLIENT_TOOLS, ClientTools
from .conversation import Conversation
from .cooldown import Cooldowns
from .failover import CallReport
from .prompt import PromptLimits

SEPARATOR = "\n\n"


@dataclass(frozen=True, slots=True)
class CompactionLimits:
    """When conversations are summarised, in tokens.

    :ivar keep: how much of the newest stays word for word, at most 3/10 of the window.
    :ivar reserve: room for the answer, at most a quarter of the window.
    """

    enabled: bool
    keep: int
    reserve: int


def _unwatched(run_id: str, report: CallReport) -> None:
    """Nobody keeps watch over the model calls."""


@dataclass(frozen=True, slots=True)
class Harness:
    """What all turns of a gateway share.

    :ivar scratch: where directories for long output are made, one per session.
    :ivar facts: short facts for the prompt that change rarely, such as the date.
    :ivar called: told of each model call that is over, in its run's thread; must not raise.
    """

    tools: ToolRegistry
    cooldowns: Cooldowns
    prompt_limits: PromptLimits
    compaction: CompactionLimits
    spawn: Spawn
    scratch: Path
    facts: Callable[[], Sequence[str]]
    called: Callable[[str, CallReport], None] = _unwatched


@dataclass(frozen=True, slots=True)
class TurnInput:
    """What one turn starts from.

    :ivar conversation: the messages so far, the last of them being the one to answer.
    :ivar system: the caller's system text.
    :ivar main_session: the owner's own conversation.
    :ivar client_tools: what the caller can do for the agent.
    :ivar withheld: tools that this run does not get whatever the policy says.
    :ivar message_channel: where the caller says that the message comes from, may be empty.
    :ivar cache_key: the same for conversations that share their beginning; "" for one by session.
    :ivar purpose: of a sub-agent, what it was started for; empty for everybody else.
    :ivar news: what happened since the last turn, a line each.
    :ivar steering: asked after each round of tools: stored messages, with their numbers in the
        transcript, that came in meanwhile and go to the model now.
    """

    run_id: str
    session_key: str
    channel: str
    conversation: Conversation
    scratch: Path
    system: str
    params: SamplingParams
    ephemeral: bool = False
    main_session: bool = False
    purpose: str = ""
    client_tools: ClientTools = NO_CLIENT_TOOLS
    withheld: frozenset[str] = frozenset()
    message_channel: str = ""
    cache_key: str = ""
    news: tuple[str, ...] = ()
    off_the_clock: Callable[[], AbstractContextManager[None]] = nullcontext
    time_left: Callable[[], float] = lambda: inf
    steering: Callable[[], Sequence[tuple[Message, int]]] = tuple


@dataclass(slots=True)
class TurnRecord:
    """What a turn has come to so far; right at any moment, also when it is cut short.

    :ivar finished: the visible texts of the messages before the one being written.
    :ivar written: the visible text of the message being written.
    :ivar thoughts: what was shown of the model's reasoning.
    :ivar last: the finished answer, not yet stored; None while there is none, and where all of it
        is stored already.
    :ivar client_calls: what the caller is to do, if the answer asks for it.
    :ivar cost: in US dollars; None once a model of unknown price has answered.
    :ivar context_tokens: size of the last prompt and its answer, 0 if nobody counted.
    """

    finished: list[str] = field(default_factory=list)
    written: GrowingText = field(default_factory=GrowingText)
    thoughts: GrowingText = field(default_factory=GrowingText)
    usage: Usage = field(default_factory=Usage)
    cost: float | None = 0.0
    context_tokens: int = 0
    last: AssistantMessage | None = None
    client_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason = "stop"
    model_ref: str = ""
    calls: list[ModelCall] = field(default_factory=list)

    @property
    def partial(self) -> str:
        """The visible text of the message being written."""
        return str(self.written)

    @property
    def text(self) -> str:
        """All visible text of the turn, a blank line between messages."""
        return SEPARATOR.join((*self.finished, *([self.partial] if self.written else ())))
