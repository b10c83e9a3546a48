"""``POST /v1/chat/completions``: a request becomes a run, and the run an answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from flask import Response, request

from ...errors import GatewayBusy, SessionBusy
from ...events import RunCompleted, RunEvent, TerminalEvent, TextDelta
from ...runs.journal import JournaledRun, KeptRun
from ...runs.run import Run, RunRequest
from ...runtime import Runtime
from ..caller import Caller, caller_of
from ..client import ClientWatch
from ..drain import await_run
from ..http import error_response, event_stream, json_response, read_json, request_headers
from .activity import shows_tools
from .chunks import Completion
from .idempotency import Keys, Told, fingerprint_of, journal_name, key_of, run_id_of
from .kept import Kept
from .numbered import stream_numbered
from .remote import ImageSource
from .routing import Route, choosable, choose_route
from .run_headers import limit_headers, run_headers
from .schema import ChatRequest, parse_chat_request, with_reasoning
from .sse import encoder, error_of, stream_run

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_REPLAYED = {"Idempotent-Replayed": "true"}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request and what its headers say."""

    chat: ChatRequest
    route: Route
    headers: Mapping[str, str]


class Chat:
    """The view, bound to one runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._http = runtime.config.gateway.http
        self._settings = self._http.endpoints.chat_completions
        self._keys = Keys(runtime.journal, runtime.store, runtime.state.bus)
        self._images = ImageSource(self._settings.images, runtime.executor)
        self._models = choosable(runtime.config.agents.defaults.models)

    def create(self) -> Response:
        """The answer, whole or as a stream."""
        body = read_json(self._http.max_body_bytes, self._http.body_timeout_seconds)
        chat = parse_chat_request(body, self._images.attachments(ClientWatch(request.environ)))
        chat = with_reasoning(chat, self._settings.reasoning)
        headers = request_headers()
        caller = caller_of(request.environ)
        key = key_of(headers)
        run_id = f"chatcmpl-{uuid.uuid4()}"
        asked = _Asked(chat, self._route(chat, headers, run_id, caller), headers)
        session_key = None if asked.route.ephemeral else asked.route.session_key
        try:
            if key is not None:
                response = self._once(asked, caller.private(key), fingerprint_of(body, headers), run_id)
            elif chat.store:
                response = self._answer_kept(self._keep(asked, run_id), asked)
            else:
                response = self._answer(self._runtime.runs.start(self._request(asked, run_id)), asked)
        except (GatewayBusy, SessionBusy) as error:
            response = error_response(error)
        response.headers.update(limit_headers(self._runtime.runs, session_key))
        return response

    def _answer(self, run: Run, asked: _Asked) -> Response:
        """What comes of a run that is nobody else's."""
        completion = _completion(asked.chat, run.id, run.created_at)
        client = ClientWatch(request.environ)
        if asked.chat.stream:
            encode = encoder(completion, tools=shows_tools(asked.headers))
            events = stream_run(run, completion, encode, client, self._http.keep_alive_seconds)
            return event_stream(events, run_headers(run, None, asked.chat.ignored) | STREAM_HEADERS)
        ending = await_run(run, client)
        return respond(ending, completion, run_headers(run, ending, asked.chat.ignored))

    def _answer_kept(self, run: KeptRun, asked: _Asked) -> Response:
        """What comes, or has come, of a run that others may read as well."""
        completion = _completion(asked.chat, run.id, run.created_at)
        client = ClientWatch(request.environ)
        if asked.chat.stream:
            encode = encoder(completion, tools=shows_tools(asked.headers))
            keep_alive = self._http.keep_alive_seconds
            events = stream_numbered(run, completion.role(), encode, client, keep_alive)
            return event_stream(events, run_headers(run, None, asked.chat.ignored) | STREAM_HEADERS)
        ending = run.ending or await_run(run.read(), client)
        return respond(ending, completion, run_headers(run, ending, asked.chat.ignored))

    def _once(self, asked: _Asked, key: str, fingerprint: str, run_id: str) -> Response:
        """The answer to a request with a key: of its own run, or of the one that was first."""

        def begin() -> JournaledRun:
            own_id = run_id if self._is_ephemeral(asked.route) else run_id_of(key)
            begun.append(self._keep(asked, own_id, fingerprint, journal_name(key)))
            return begun[0]

        begun: list[JournaledRun] = []
        found = self._keys.find(key, fingerprint, begin)
        if found is None:
            return self._answer_kept(begun[0], asked)
        response = self._tell(found, asked) if isinstance(found, Told) else self._answer_kept(found, asked)
        response.headers.update(_REPLAYED)
        if response.status_code >= 400:  # whoever asks again under this key is told the same again
            response.headers["x-should-retry"] = "false"
        return response

    def _tell(self, told: Told, asked: _Asked) -> Response:
        """The answer of a run that is known by its record only."""
        record = told.record
        completion = _completion(asked.chat, record.id, record.created_at)
        headers = {"x-request-id": record.id}
        if not asked.chat.stream or not isinstance(told.ending, RunCompleted):
            return respond(told.ending, completion, headers)
        source = _Recital([TextDelta(told.ending.text), told.ending])
        client = ClientWatch(request.environ)
        events = stream_run(source, completion, encoder(completion), client, self._http.keep_alive_seconds)
        return event_stream(events, headers | STREAM_HEADERS)

    def _keep(
        self, asked: _Asked, run_id: str, fingerprint: str | None = None, name: str | None = None
    ) -> JournaledRun:
        """Start a run that can be come back to."""
        chat, wanted = asked.chat, self._request(asked, run_id, fingerprint)
        completion = _completion(chat, run_id, wanted.created_at)
        kept = Kept(completion, chat.model, chat.metadata, fingerprint)
        return self._runtime.journal.start(wanted, kept, card=kept.card(), name=name)

    def _route(self, chat: ChatRequest, headers: Mapping[str, str], run_id: str, caller: Caller) -> Route:
        return choose_route(
            headers,
            chat.model,
            chat.user,
            self._runtime.agents,
            strict_model=self._settings.strict_model,
            fresh_id=run_id.removeprefix("chatcmpl-"),
            models=self._models,
            caller=caller,
        )

    def _is_ephemeral(self, route: Route) -> bool:
        return route.ephemeral and not self._settings.keep_transcripts

    def _request(self, asked: _Asked, run_id: str, fingerprint: str | None = None) -> RunRequest:
        chat, route = asked.chat, asked.route
        return RunRequest(
            run_id=run_id,
            agent_id=route.agent_id,
            session_key=route.session_key,
            ephemeral=self._is_ephemeral(route),
            channel="openai",
            messages=chat.messages,
            created_at=int(time.time() * 1000),
            system=chat.system,
            params=chat.params,
            client_tools=chat.client_tools,
            fingerprint=fingerprint,
            model=route.model,
            message_channel=route.message_channel,
            cache_key=chat.cache_key,
        )


class _Recital:
    """Events that have all happened, as a :class:`Source`."""

    def __init__(self, events: list[RunEvent]) -> None:
        self._events = events

    def get(self) -> list[RunEvent]:
        return self._events

    def leave(self) -> None:
        """Nothing goes on that would have to know."""


def respond(
    ending: TerminalEvent,
    completion: Completion,
    headers: Mapping[str, str],
    metadata: Mapping[str, str] | None = None,
) -> Response:
    """The answer in one piece, or the error there is instead."""
    if isinstance(ending, RunCompleted):
        return json_response(completion.body(ending, metadata), headers=headers)
    response = error_response(error_of(ending))
    response.headers.update(headers)
    return response


def _completion(chat: ChatRequest, run_id: str, created_at: int) -> Completion:
    return Completion(
        run_id,
        created_at // 1000,
        chat.model,
        include_usage=chat.include_usage,
        tools=bool(chat.client_tools.specs),
        legacy=chat.legacy,
        reasoning=bool(chat.include_reasoning),
    )
