"""``/v1/responses``: a request becomes a run, and the run a response that can be come back to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from flask import Response, request

from ....errors import EventsLost, GatewayBusy, GatewayError, InvalidRequest, SessionBusy
from ....events import RunCompleted
from ....runs.journal import KeptRun
from ....runs.run import Run
from ....runtime import Runtime
from ....wire import dumps
from ...caller import caller_of
from ...client import ClientWatch
from ...drain import Source, await_run, stream_events
from ...http import error_response, event_stream, json_response, read_json, request_headers
from ..remote import ImageSource
from ..routing import choosable
from ..run_headers import limit_headers, run_headers
from ..sse import error_of
from .events import EventWriter
from .ledger import Ledger, Live
from .paging import page_of
from .plan import Plan, Planner
from .schema import ResponseRequest, parse_response_request

_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_REFERENCES = 2  # as many bytes as in a request's body: the responses referred to, and what of them is meant
_RESUMED = b": resumed\n\n"
# What is called otherwise in this API.
_PARAMS = {"messages": "input", "response_format": "text.format"}


class Responses:
    """The views, bound to one runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._http = runtime.config.gateway.http
        self._ledger = Ledger(runtime.store, runtime.runs, runtime.journal, _now)
        self._planner = Planner(
            runtime.agents,
            self._ledger,
            strict_model=self._http.endpoints.chat_completions.strict_model,
            models=choosable(runtime.config.agents.defaults.models),
        )
        self._images = ImageSource(self._http.endpoints.chat_completions.images, runtime.executor)
        if self._http.endpoints.responses.enabled:
            runtime.runs.observe(self._ledger.observe)

    def create(self) -> Response:
        """``POST /v1/responses``."""
        body = read_json(self._http.max_body_bytes, self._http.body_timeout_seconds)
        try:
            attachments = self._images.attachments(ClientWatch(request.environ))
            caller = caller_of(request.environ)
            references = self._ledger.references(_REFERENCES * self._http.max_body_bytes, caller.own)
            asked = parse_response_request(body, references.find, attachments)
            plan = self._planner.plan(asked, request_headers(), _now(), references.agents, caller)
            response = self._answer(asked, plan)
        except InvalidRequest as error:
            raise _in_these_terms(error) from None
        session_key = None if plan.request.ephemeral else plan.request.session_key
        response.headers.update(limit_headers(self._runtime.runs, session_key))
        return response

    def retrieve(self, response_id: str) -> Response:
        """``GET /v1/responses/{id}``."""
        self._require_own(response_id)
        body = self._ledger.body(response_id)
        if request.args.get("stream", "").lower() not in ("true", "1"):
            return json_response(dumps(body))
        run = self._runtime.journal.get(response_id)
        live = self._ledger.live_of(run) if run is not None else None
        if run is None or live is None:
            raise EventsLost if body["background"] else _not_kept()
        return self._stream_kept(run, live, after=_starting_after())

    def delete(self, response_id: str) -> Response:
        """``DELETE /v1/responses/{id}``."""
        self._require_own(response_id)
        self._ledger.delete(response_id)
        self._runtime.journal.forget(response_id)
        return json_response(dumps({"id": response_id, "object": "response", "deleted": True}))

    def cancel(self, response_id: str) -> Response:
        """``POST /v1/responses/{id}/cancel``."""
        self._require_own(response_id)
        return json_response(dumps(self._ledger.cancel(response_id)))

    def input_items(self, response_id: str) -> Response:
        """``GET /v1/responses/{id}/input_items``."""
        self._require_own(response_id)
        return json_response(dumps(page_of(self._ledger.input_items(response_id), request.args)))

    def _require_own(self, response_id: str) -> None:
        self._ledger.require_own(response_id, caller_of(request.environ).own)

    def _answer(self, asked: ResponseRequest, plan: Plan) -> Response:
        try:
            if asked.background:
                return self._begin(asked, plan)
            run = self._runtime.runs.start(plan.request)
        except (GatewayBusy, SessionBusy) as error:
            self._ledger.abandon(plan.live, plan.branch)
            return error_response(error)
        except BaseException:
            self._ledger.abandon(plan.live, plan.branch)
            raise
        if asked.stream:
            writer = EventWriter(plan.live.again())
            headers = run_headers(run, None, asked.ignored)
            return self._stream(run, writer, headers)
        return self._whole(run, asked, plan.live)

    def _whole(self, run: Run, asked: ResponseRequest, live: Live) -> Response:
        """The response in one piece, or the error there is instead."""
        ending = await_run(run, ClientWatch(request.environ))
        headers = run_headers(run, ending, asked.ignored)
        if isinstance(ending, RunCompleted):
            return json_response(dumps(live.answer.body()), headers=headers)
        response = error_response(_in_these_terms(error_of(ending)))
        response.headers.update(headers)
        return response

    def _begin(self, asked: ResponseRequest, plan: Plan) -> Response:
        """Start a run that needs no client."""
        size = len(dumps(plan.live.draft.echo))
        run = self._runtime.journal.start(plan.request, plan.live, size=size, unattended=True)
        headers = run_headers(run, None, asked.ignored)
        if asked.stream:
            return self._stream_kept(run, plan.live, headers)
        return json_response(dumps(plan.live.answer.body()), headers=headers)

    def _stream_kept(
        self, run: KeptRun, live: Live, headers: Mapping[str, str] | None = None, *, after: int = -1
    ) -> Response:
        """The events of a run that others may read, too: always from the first, so that the numbers agree."""
        return self._stream(run.read(), EventWriter(live.again(), after), headers or {})

    def _stream(self, source: Source, writer: EventWriter, headers: Mapping[str, str]) -> Response:
        client, keep_alive = ClientWatch(request.environ), self._http.keep_alive_seconds
        first = writer.opening() or _RESUMED
        events = stream_events(source, first, writer.encode, client, keep_alive)
        return event_stream(events, {**headers, **_STREAM_HEADERS})


def views(bound: Responses) -> dict[str, Callable[..., Response]]:
    """The views of :data:`RULES` by endpoint."""
    return {
        "responses": bound.create,
        "response": _by_method(GET=bound.retrieve, DELETE=bound.delete),
        "response_cancel": bound.cancel,
        "response_input_items": bound.input_items,
    }


_ONE = "/responses/<string:response_id>"
RULES = (
    ("/responses", "responses"),
    (_ONE, "response"),
    (f"{_ONE}/cancel", "response_cancel"),
    (f"{_ONE}/input_items", "response_input_items"),
)
METHODS: dict[str, tuple[str, ...]] = {
    "responses": ("POST",),
    "response": ("GET", "DELETE"),
    "response_cancel": ("POST",),
    "response_input_items": ("GET",),
}


def _by_method(**views: Callable[..., Response]) -> Callable[..., Response]:
    return lambda **values: views[request.method](**values)


def _starting_after() -> int:
    text = request.args.get("starting_after")
    if text is None:
        return -1
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequest("`starting_after` must be the number of an event.", param="starting_after")
    return int(text)


def _not_kept() -> InvalidRequest:
    return InvalidRequest("Only a background response can be streamed again.", param="stream")


def _in_these_terms(error: GatewayError) -> GatewayError:
    """The error as this API says it."""
    error.param = _PARAMS.get(error.param or "", error.param)
    return error


def _now() -> int:
    return int(time.time() * 1000)
