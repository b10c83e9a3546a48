"""Where a response is made: which agent, which session, after what."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ....agents.context import mark_unfinished
from ....agents.registry import AgentRegistry
from ....agents.results import bound_results
from ....errors import InvalidRequest
from ....messages import Message
from ....runs.run import RunRequest
from ....sessions.keys import conversation_key, fresh_key
from ....sessions.records import Branch
from ...caller import OWNER, Caller
from ..routing import SESSION_HEADER, Route, choose_route
from .ids import response_id
from .ledger import Draft, Ledger, Live
from .schema import ResponseRequest

_FAMILY = "openresponses"


@dataclass(frozen=True, slots=True)
class Plan:
    """A response, and the run that makes it.

    :ivar branch: the session that the response began, if it began one.
    """

    live: Live
    request: RunRequest
    branch: Branch


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the run takes place.

    :ivar messages: what it is asked; with ``ephemeral``, all that was said before, too.
    :ivar continues: the session is one that goes on, and nothing of it is sent again.
    :ivar carried: system text of earlier responses.
    """

    route: Route
    messages: tuple[Message, ...]
    ephemeral: bool
    continues: bool = False
    carried: str = ""


class Planner:
    """Plans responses. Any thread may call any method.

    :param models: those that a client may choose beside the agent's own; if there are none, any.
    """

    def __init__(
        self, agents: AgentRegistry, ledger: Ledger, *, strict_model: bool, models: Collection[str] = ()
    ) -> None:
        self._agents = agents
        self._ledger = ledger
        self._strict_model = strict_model
        self._models = models

    def plan(
        self,
        asked: ResponseRequest,
        headers: Mapping[str, str],
        now: int,
        owners: Collection[str] = (),
        caller: Caller = OWNER,
    ) -> Plan:
        """Open a response and say which run makes it; whoever does not start it has to abandon it.

        :param headers: names in lower case. :param now: Unix milliseconds.
        :param owners: the agents whose items the request refers to.
        :param caller: whose the response is to be.
        :raises InvalidRequest: what is asked does not go together.
        :raises NotFound: the agent or the response that it follows does not exist.
        """
        number = uuid.uuid4().hex
        place = self._place(asked, headers, number, caller)
        route = place.route
        if others := sorted(set(owners) - {route.agent_id}):
            raise InvalidRequest(
                f"`input` refers to items of agent {others[0]!r}, but {route.agent_id!r} is to answer.",
                param="input",
            )
        branch = Branch(route.session_key, str(uuid.uuid4()))
        own = "\n\n".join(text for text in (place.carried, asked.input.system) if text)
        draft = Draft(
            id=response_id(number),
            agent_id=route.agent_id,
            created_at=now,
            echo={**asked.echo, **self._sampling(asked, route.agent_id)},
            items=asked.input.items,
            system=own,
            reasoning=asked.show_reasoning,
            stored=asked.store,
            owner=caller.own,
        )
        live, key = self._ledger.open(draft, branch, asked.previous_id)
        request = RunRequest(
            run_id=draft.id,
            agent_id=route.agent_id,
            session_key=key,
            ephemeral=place.ephemeral,
            channel="openai",
            messages=place.messages,
            created_at=now,
            system="\n\n".join(text for text in (asked.instructions, own) if text),
            params=asked.params,
            client_tools=asked.client_tools,
            model=route.model,
            message_channel=route.message_channel,
            cache_key=asked.cache_key,
            continues=place.continues,
        )
        return Plan(live, request, branch)

    def _sampling(self, asked: ResponseRequest, agent_id: str) -> dict[str, float]:
        """What holds where the request is silent, which the wire wants to be told as a number."""
        own = self._agents.get(agent_id).params
        wanted = {"temperature": (asked.params.temperature, own.temperature)}
        wanted["top_p"] = (asked.params.top_p, own.top_p)
        return {name: next((v for v in values if v is not None), 1.0) for name, values in wanted.items()}

    def _place(
        self, asked: ResponseRequest, headers: Mapping[str, str], number: str, caller: Caller
    ) -> _Place:
        for param in ("previous_response_id", "conversation"):
            if asked.echo[param] and headers.get(SESSION_HEADER, "").strip():
                raise InvalidRequest(f"`{param}` cannot stand beside {SESSION_HEADER}.", param=param)
        if asked.previous_id:
            return self._after(asked, headers, number, caller)
        route = self._route(asked, headers, number, caller)
        if asked.conversation:
            key = caller.key(conversation_key(route.agent_id, asked.conversation))
            return _Place(_at(route, key), asked.input.messages, ephemeral=False, continues=True)
        if route.ephemeral:  # nothing was said before
            bound_results((), asked.input.messages)
        return _Place(route, asked.input.messages, ephemeral=route.ephemeral and not asked.store)

    def _after(
        self, asked: ResponseRequest, headers: Mapping[str, str], number: str, caller: Caller
    ) -> _Place:
        """The place right behind an earlier response; of the same agent, whom the request need not name."""
        earlier = self._ledger.predecessor(str(asked.previous_id), caller.own)
        route = self._route(asked, headers, number, caller, default=earlier.agent_id)
        if route.agent_id != earlier.agent_id:
            raise InvalidRequest(
                f"The previous response is agent {earlier.agent_id!r}'s, but the request names"
                f" {route.agent_id!r}.",
                param="previous_response_id",
            )
        route = _at(route, caller.key(fresh_key(route.agent_id, number, _FAMILY)))
        if asked.store:
            return _Place(
                route, asked.input.messages, ephemeral=False, continues=True, carried=earlier.system
            )
        said = self._ledger.said_until(earlier.id)
        fresh = mark_unfinished(said, bound_results(said, asked.input.messages))
        return _Place(route, (*said, *fresh), ephemeral=True, carried=earlier.system)

    def _route(
        self,
        asked: ResponseRequest,
        headers: Mapping[str, str],
        number: str,
        caller: Caller,
        default: str | None = None,
    ) -> Route:
        return choose_route(
            headers,
            asked.model,
            asked.user,
            self._agents,
            strict_model=self._strict_model,
            fresh_id=number,
            family=_FAMILY,
            models=self._models,
            default=default,
            caller=caller,
        )


def _at(route: Route, key: str) -> Route:
    """The route with another session."""
    return Route(
        route.agent_id, key, ephemeral=False, model=route.model, message_channel=route.message_channel
    )
