"""A run: one agent turn on one session, asked for by some channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..agents.client_tools import NO_CLIENT_TOOLS, ClientTools
from ..cancel import CancelReason, CancelToken
from ..events import TERMINAL, RunEvent
from ..log import get_logger
from ..messages import Message, SamplingParams
from .stream import RunStream

_log = get_logger("run")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Everything a run needs to know; plain data, whoever asks.

    :ivar run_id: unique; over HTTP also the id of the response.
    :ivar agent_id: a configured agent.
    :ivar session_key: the conversation; runs of one key never overlap.
    :ivar ephemeral: the messages are the whole conversation, no transcript is kept.
    :ivar channel: who asks, for the record: ``openai``, ``cli``.
    :ivar system: extra system text of the caller, may be empty.
    :ivar messages: the conversation or its newest part; the last one is answered.
    :ivar params: sampling parameters of the caller; they win over the agent's own.
    :ivar client_tools: tools of the caller; a call of one ends the run.
    :ivar timeout: seconds the run may take once it runs; None takes the agent's.
    :ivar created_at: unix time in milliseconds.
    :ivar model: ``provider/model`` that is to answer instead of the agent's, without fallbacks.
    :ivar depth: 0 for a person's run, one more than its parent's for a sub-agent's.
    :ivar parent_key: the session that asked for a sub-agent.
    :ivar purpose: what a sub-agent was asked for, in a few words.
    :ivar detached: nobody reads the run's stream; whoever wants its events observes the service.
        The run was put into the store's queue, and goes on after a restart.
    :ivar steer: if the session is busy, what is asked may be told to the run under way, before its
        next model call. Then this run ends without a turn of its own.
    :ivar compact: what a summary should keep in mind, maybe nothing (""), if the conversation is
        to be compacted instead of answered; then there are no messages. None for a turn.
    """

    run_id: str
    agent_id: str
    session_key: str
    ephemeral: bool
    channel: str
    messages: tuple[Message, ...]
    created_at: int
    system: str = ""
    params: SamplingParams = SamplingParams()
    client_tools: ClientTools = NO_CLIENT_TOOLS
    timeout: float | None = None
    model: str | None = None
    depth: int = 0
    parent_key: str | None = None
    purpose: str = ""
    detached: bool = False
    steer: bool = False
    compact: str | None = None


class Run:
    """A live run as its channel sees it: an id, a stream of events and a way to stop it.

    :ivar over: the terminal event is on its way, or was shown; a tool that speaks on speaks to nobody.
    """

    def __init__(self, request: RunRequest, observers: Sequence[Observer] = ()) -> None:
        self.id = request.run_id
        self.request = request
        self.token = CancelToken()
        self.stream = RunStream()
        self.over = False
        self._observers = observers
        self.token.on_cancel(self.stream.close)
        if request.detached:
            self.stream.close()

    def publish(self, event: RunEvent) -> None:
        """Show an event to all observers, then to the stream's reader; the run's threads call this.

        Blocks while the stream is full.
        """
        self.over = self.over or isinstance(event, TERMINAL)
        for observe in self._observers:
            try:
                observe(self, event)
            except Exception:  # the others, and the stream's reader, wait for the end all the same
                _log.exception("an observer of run %s failed", self.id)
        self.stream.put(event)

    def cancel(self, reason: CancelReason) -> bool:
        """Ask the run to stop; True if nobody had asked before. Any thread may call this.

        The terminal event still comes, and it is the last thing the run does.
        """
        return self.token.cancel(reason)


# Called in the run's thread with each of its events, the terminal one last. Must be quick and must not raise.
Observer: TypeAlias = Callable[[Run, RunEvent], None]
