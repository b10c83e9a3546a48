"""A run: one agent turn on one session, asked for by some channel."""

from __future__ import annotations

from dataclasses import dataclass

from ..cancel import CancelReason, CancelToken
from ..messages import Message, SamplingParams
from .stream import RunStream


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
    :ivar timeout: seconds the run may take once it runs; None takes the agent's.
    :ivar created_at: unix time in milliseconds.
    :ivar model: ``provider/model`` that is to answer instead of the agent's, without fallbacks.
    :ivar depth: 0 for a person's run, one more than its parent's for a sub-agent's.
    :ivar parent_key: the session that asked for a sub-agent.
    :ivar purpose: what a sub-agent was asked for, in a few words.
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
    timeout: float | None = None
    model: str | None = None
    depth: int = 0
    parent_key: str | None = None
    purpose: str = ""
    compact: str | None = None


class Run:
    """A live run as its channel sees it: an id, a stream of events and a way to stop it."""

    def __init__(self, request: RunRequest) -> None:
        self.id = request.run_id
        self.request = request
        self.token = CancelToken()
        self.stream = RunStream()
        self.token.on_cancel(self.stream.close)

    def cancel(self, reason: CancelReason) -> bool:
        """Ask the run to stop; True if nobody had asked before. Any thread may call this.

        The terminal event still comes, and it is the last thing the run does.
        """
        return self.token.cancel(reason)
