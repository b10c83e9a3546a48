"""The configured agents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import AgentNotFound
from ..messages import SamplingParams
from ..tools.policy import ToolPolicy
from .models import Candidate
from .skills import Skills

_AGENT_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Agent:
    """A persona: where it works, which models answer for it, which tools it may use.

    :ivar name: what the agent calls itself, may be empty.
    :ivar candidates: the models to try, in order; never empty.
    :ivar skills: what it can read up on when a task calls for it.
    :ivar timeout: seconds a run may take.
    :ivar max_rounds: model calls with tools in one run; then one more without tools.
    :ivar embedder: the model that makes vectors for it, None if there is none; its provider is
        an :class:`~app.providers.base.Embedder`.
    """

    id: str
    name: str
    workspace: Path
    candidates: tuple[Candidate, ...]
    params: SamplingParams
    policy: ToolPolicy
    skills: Skills
    timeout: float
    max_rounds: int
    embedder: Candidate | None = None

    @property
    def model_ref(self) -> str:
        """The primary model as ``provider/model``."""
        return self.candidates[0].ref

    def answering_by(self, candidate: Candidate) -> Agent:
        """The agent with one model that somebody chose: it answers or nobody does."""
        return replace(self, candidates=(candidate,))


class AgentRegistry:
    """Finds an agent by its id. Nothing is ever created from request data. Any thread may call any method."""

    def __init__(self, agents: Mapping[str, Agent], default_id: str, main_key: str) -> None:
        """:param main_key: the last part of every agent's main session key."""
        self._agents = dict(agents)
        self.default_id = default_id
        self.main_key = main_key

    def adopt(self, other: AgentRegistry) -> None:
        """Have the agents of ``other`` from now on, under the same main key."""
        self._agents, self.default_id = other._agents, other.default_id

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._agents.values())

    def __contains__(self, agent_id: object) -> bool:
        return agent_id in self._agents

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all agents in configured order."""
        return tuple(self._agents)

    def get(self, agent_id: str, *, param: str | None = "model") -> Agent:
        """The agent with this id, in any case.

        :raises AgentNotFound: no such agent; ``param`` is named as the request's mistake.
        """
        agent = self._agents.get(agent_id.lower()) if is_agent_id(agent_id) else None
        if agent is None:
            raise AgentNotFound(agent_id, param=param)
        return agent


def is_agent_id(text: str) -> bool:
    """True if ``text`` could name an agent: ``[a-z0-9][a-z0-9_-]{0,63}``, any case, ASCII."""
    return text.isascii() and _AGENT_ID.fullmatch(text.lower()) is not None
