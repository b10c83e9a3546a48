"""Which model will answer a request, and what of the request it has no use for.

Asked before a run is admitted: whoever asks for something that cannot be is told at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ..agents.models import Candidate, merge_params
from ..agents.registry import Agent
from ..agents.results import bound_results
from ..errors import ConfigError, InvalidRequest, ModelNotFound
from ..messages import AssistantMessage, SamplingParams, UserMessage
from ..sessions.store import Store
from .run import RunRequest

_NO_PARAMS = SamplingParams()


def answering(agent: Agent, request: RunRequest, resolve: Callable[[str], Candidate], store: Store) -> Agent:
    """The agent with the model that will answer ``request``: the request's, the session's, or its own.

    :param resolve: the candidate for ``provider/model``; raises :class:`ConfigError`.
    :raises ModelNotFound: the request names a model of no known provider.
    :raises StoreError: the session cannot be read.
    """
    if request.model:
        try:
            return agent.answering_by(resolve(request.model))
        except ConfigError as error:
            raise ModelNotFound(str(error)) from None
    if _is_choosy(request) and not request.ephemeral and (session := store.session(request.session_key)):
        with suppress(ConfigError):  # then the agent's own answers
            return agent.answering_by(resolve(session.settings.model)) if session.settings.model else agent
    return agent


def check_abilities(agent: Agent, request: RunRequest) -> None:
    """Refuse by name what the answering model cannot do.

    :raises InvalidRequest: images, a prefill or a demand for tools for a model that has no use for
        them, or results of calls that nobody made.
    """
    info = agent.candidates[0].info
    asked = _question(request)
    if asked is not None and asked.images and not info.images:
        raise InvalidRequest(
            f"The model of agent {agent.id!r} cannot see images.",
            param="messages",
            code="images_not_supported",
        )
    if _is_begun(request) and not info.prefill:
        raise InvalidRequest(
            f"The model of agent {agent.id!r} cannot continue a trailing assistant message; "
            "end the conversation with a user message.",
            param="messages",
            code="prefill_not_supported",
        )
    theirs = request.client_tools
    if theirs.choice.required and not any(theirs.offered_to(one.info) for one in agent.candidates):
        raise InvalidRequest(
            f"The model of agent {agent.id!r} calls no tools, so that none can be demanded.",
            param="tool_choice",
            code="tools_not_supported",
        )
    if request.ephemeral:  # whether a session waits for a result is known once it is this run's turn
        bound_results((), request.messages)


def ignored(agent: Agent, request: RunRequest) -> tuple[str, ...]:
    """The names of those of a caller's parameters that the answering model does not take."""
    primary, params = agent.candidates[0], request.params
    theirs = request.client_tools
    unseen = theirs.specs and not theirs.choice.required and not theirs.offered_to(primary.info)
    tools = ("tools",) if unseen else ()
    if params == _NO_PARAMS:
        return tools
    names = primary.ignores(merge_params(agent.params, params))
    return (*(name for name in names if getattr(params, name) is not None), *tools)


def _is_choosy(request: RunRequest) -> bool:
    """True if it matters which model answers; finding out costs more than most requests do."""
    asked = _question(request)
    seen = asked is not None and bool(asked.images)
    return seen or _is_begun(request) or bool(request.client_tools.specs) or request.params != _NO_PARAMS


def _question(request: RunRequest) -> UserMessage | None:
    return next((m for m in reversed(request.messages) if isinstance(m, UserMessage)), None)


def _is_begun(request: RunRequest) -> bool:
    """True if the model is to continue an answer that the caller has begun."""
    return bool(request.messages) and isinstance(request.messages[-1], AssistantMessage)
