"""A run: one agent turn on one session, asked for by some channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ..agents.client_tools import NO_CLIENT_TOOLS, ClientTools
from ..cancel import CancelReason, CancelToken
from ..events import TERMINAL, RunEvent, RunStarted
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
    :ivar continues: the session goes on however long ago it was used, and all messages are new to it.
    :ivar message_channel: where the caller says that the message comes from, in lower case; the
        agent is told, and what is forbidden on that channel is forbidden, too.
    :ivar cache_key: the same for requests that share their beginning; "" for one by session.
    :ivar fingerprint: of what is asked, for the record, if the asker may ask again under a key of its own.
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
    message_channel: str = ""
    cache_key: str = ""
    fingerprint: str | None = None
    continues: bool = False


class Sink(Protocol):
    """Where a run's events go if not to a stream of its own; see :class:`~.journal.JournaledRun`."""

    def put(self, event: RunEvent) -> None:
        """Take an event, the terminal one last; the run's threads call this."""

    def nudge(self) -> None:
        """Some time has passed; called again and again while the run is live."""


class Run:
    """A live run as its channel sees it: an id, a stream of events and a way to stop it.

    :ivar stream: for the one reader; nothing comes if the events go to a sink, or nowhere.
    :ivar ignored: the names of parameters of the request that the answering model does not take.
    :ivar started_at: when it left its lanes, Unix milliseconds; None before.
    :ivar session_id: of the session that it goes on in; None before it is known, and for none.
    :ivar over: the terminal event is on its way, or was shown; a tool that speaks on speaks to nobody.
    """

    def __init__(
        self,
        request: RunRequest,
        observers: Sequence[Observer] = (),
        sink: Sink | None = None,
        ignored: tuple[str, ...] = (),
    ) -> None:
        self.id = request.run_id
        self.ignored = ignored
        self.request = request
        self.token = CancelToken()
        self.stream = RunStream()
        self.over = False
        self.started_at: int | None = None
        self.session_id: str | None = None
        self._observers = observers
        self._listeners: list[Listener] | None = None
        self._sink: Sink = self.stream if sink is None else sink
        self.token.on_cancel(self.stream.close)
        if request.detached:
            self.stream.close()

    def begin(self, now: int) -> None:
        """The run has left its lanes; its thread calls this. ``now`` is in Unix milliseconds."""
        self.started_at = now
        self.publish(RunStarted(now))

    def publish(self, event: RunEvent) -> None:
        """Show an event to all who listen, then to whoever reads the run; the run's threads call this.

        Blocks while the stream is full.
        """
        self.over = self.over or isinstance(event, TERMINAL)
        if self._listeners is None:  # the first event comes from the run's own thread
            self._listeners = list(self._listening())
        for hear in self._listeners:
            try:
                hear(event)
            except Exception:  # the others, and the stream's reader, wait for the end all the same
                _log.exception("an observer of run %s failed", self.id)
        if isinstance(event, TERMINAL):
            self._listeners = []  # they may know the run, and would keep each other from being freed
        self._sink.put(event)

    def _listening(self) -> Iterator[Listener]:
        for observe in self._observers:
            try:
                hear = observe(self)
            except Exception:
                _log.exception("an observer of run %s failed", self.id)
            else:
                if hear is not None:
                    yield hear

    @property
    def agent_id(self) -> str:
        """Who answers."""
        return self.request.agent_id

    @property
    def session_key(self) -> str:
        """The conversation."""
        return self.request.session_key

    @property
    def detached(self) -> bool:
        """Nobody reads the run's stream."""
        return self.request.detached

    @property
    def channel(self) -> str:
        """Who asks, for the record."""
        return self.request.channel

    @property
    def created_at(self) -> int:
        """When the run was asked for, Unix milliseconds."""
        return self.request.created_at

    def get(self) -> list[RunEvent]:
        """The stream's next events; see :meth:`RunStream.get`."""
        return self.stream.get()

    def leave(self) -> None:
        """The stream's reader has left: nobody waits for the run any more."""
        self.cancel(CancelReason.DISCONNECT)

    def nudge(self) -> None:
        """Wake whoever reads the run, to look whether anybody still waits for it."""
        self._sink.nudge()

    def cancel(self, reason: CancelReason) -> bool:
        """Ask the run to stop; True if nobody had asked before. Any thread may call this.

        The terminal event still comes, and it is the last thing the run does.
        """
        return self.token.cancel(reason)


# Called in the run's threads with each of its events, the terminal one last. Must be quick, must not raise.
Listener: TypeAlias = Callable[[RunEvent], None]
# Asked once for each run, before its first event: who is to hear of it, if anybody.
Observer: TypeAlias = Callable[[Run], Listener | None]
