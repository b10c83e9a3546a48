"""``/v1/chat/completions/{id}``: coming back to a run, by the id of its answer.

An answer is there as long as the journal keeps it, and if its session is kept, as long as that is.
"""

from __future__ import annotations

from flask import Response, request

from ...cancel import CancelReason
from ...errors import InvalidRequest, RunUnderWay
from ...messages import JsonObject
from ...runs.attempt import STATUS
from ...runs.journal import KeptRun
from ...runs.run import Run
from ...runtime import Runtime
from ...sessions.records import Run as RunRecord
from ...wire import dumps
from ..caller import caller_of
from ..client import ClientWatch
from ..http import event_stream, json_response, read_json, request_headers
from .activity import shows_tools
from .chat import STREAM_HEADERS, respond
from .chunks import Completion
from .idempotency import told_ending
from .kept import Kept, find_kept, no_such_completion
from .numbered import stream_numbered
from .parameters import parse_metadata
from .run_headers import run_headers
from .sse import encoder

_PREFIX = "chatcmpl-"


class StoredChat:
    """The views, bound to one runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._http = runtime.config.gateway.http

    def completion(self, run_id: str) -> Response:
        """Show it, note something about it, or forget it."""
        self._require_own(run_id)
        if request.method == "POST":
            return self._annotate(run_id)
        return self._forget(run_id) if request.method == "DELETE" else self._show(run_id)

    def stream(self, run_id: str) -> Response:
        """What follows the chunk ``?after=``, or all of it."""
        self._require_own(run_id)
        after = _after(request.args.get("after"))
        found = find_kept(self._runtime.journal, run_id)
        if found is None:
            if self._live(run_id) or self._elsewhere(run_id):
                raise RunUnderWay("The run goes on, but only for the one who has asked for it.")
            raise no_such_completion(run_id)
        run, kept = found
        encode = encoder(kept.completion, tools=shows_tools(request_headers()))
        client, keep_alive = ClientWatch(request.environ), self._http.keep_alive_seconds
        events = stream_numbered(run, kept.completion.role(), encode, client, keep_alive, after)
        return event_stream(events, run_headers(run) | STREAM_HEADERS)

    def cancel(self, run_id: str) -> Response:
        """Stop the run if it goes on; how it stands with it then."""
        self._require_own(run_id)
        live = self._live(run_id)
        found = find_kept(self._runtime.journal, run_id)
        if live is not None:
            live.cancel(CancelReason.USER)
            status = "cancelled" if live.token.cancelled else "completed"  # too late to be stopped
            model = found[1].model if found else f"openclaw/{live.agent_id}"
            return _state(run_id, live.created_at, model, status)
        if found is not None and (ending := found[0].ending) is not None:
            return _state(run_id, found[0].created_at, found[1].model, STATUS[type(ending)])
        record = self._record(run_id)
        if record is None:
            raise no_such_completion(run_id)
        stopped = record.ended_at is None and self._runtime.runs.cancel(run_id, CancelReason.USER)
        model = found[1].model if found else f"openclaw/{record.agent_id}"
        return _state(run_id, record.created_at, model, "cancelled" if stopped else record.status)

    def _show(self, run_id: str) -> Response:
        found = find_kept(self._runtime.journal, run_id)
        if found is not None:
            return _shown(*found)
        if (live := self._live(run_id)) is not None:
            return _pending(run_id, live.created_at, f"openclaw/{live.agent_id}", live.started_at)
        if (there := self._elsewhere(run_id)) is not None:
            return _pending(run_id, there.created_at, f"openclaw/{there.agent_id}", there.created_at)
        record = self._record(run_id)
        if record is None or record.session_id is None:
            raise no_such_completion(run_id)
        ending = told_ending(record, self._runtime.store)
        completion = Completion(run_id, record.created_at // 1000, f"openclaw/{record.agent_id}")
        return respond(ending, completion, {"x-request-id": run_id})

    def _annotate(self, run_id: str) -> Response:
        """As OpenAI's API has it: its metadata is all that can be changed."""
        body = read_json(self._http.max_body_bytes, self._http.body_timeout_seconds)
        found = find_kept(self._runtime.journal, run_id)
        if found is None:
            raise no_such_completion(run_id)
        if not isinstance(body, dict) or "metadata" not in body:
            raise InvalidRequest(
                "`metadata` is required.", param="metadata", code="missing_required_parameter"
            )
        run, kept = found
        kept.metadata = parse_metadata(body)
        self._runtime.journal.note(run, kept.card())
        return _shown(run, kept)

    def _forget(self, run_id: str) -> Response:
        found = find_kept(self._runtime.journal, run_id)
        if found is None:
            raise no_such_completion(run_id)
        self._runtime.journal.forget(run_id)
        found[0].cancel(CancelReason.USER)  # nobody can come back to it
        return json_response(dumps({"id": run_id, "object": "chat.completion.deleted", "deleted": True}))

    def _require_own(self, run_id: str) -> None:
        """:raises NotFound: for the caller, there is no such run."""
        caller = caller_of(request.environ)
        if caller.confined and not caller.owns(self._session_of(run_id)):
            raise no_such_completion(run_id)

    def _session_of(self, run_id: str) -> str:
        """The key of a run's session; "" if there is no such run."""
        if (live := self._live(run_id)) is not None:
            return live.request.session_key
        record = self._record(run_id)
        return record.session_key if record is not None else ""

    def _live(self, run_id: str) -> Run | None:
        run = self._runtime.runs.get(run_id) if run_id.startswith(_PREFIX) else None
        return run if run is not None and run.request.channel == "openai" else None

    def _elsewhere(self, run_id: str) -> RunRecord | None:
        """The run if it goes on in another process."""
        if not self._runtime.state.shared:
            return None
        record = self._record(run_id)
        return record if record is not None and record.ended_at is None else None

    def _record(self, run_id: str) -> RunRecord | None:
        record = self._runtime.store.get_run(run_id) if run_id.startswith(_PREFIX) else None
        return record if record is not None and record.channel == "openai" else None


def _shown(run: KeptRun, kept: Kept) -> Response:
    run.touch()
    if run.ending is None:
        return _pending(run.id, run.created_at, kept.model, run.started_at)
    return respond(run.ending, kept.completion, run_headers(run, run.ending), kept.metadata)


def _pending(run_id: str, created_at: int, model: str, started_at: int | None) -> Response:
    status = "queued" if started_at is None else "in_progress"
    response = _state(run_id, created_at, model, status, 202)
    response.headers["Retry-After"] = "1"
    return response


def _state(run_id: str, created_at: int, model: str, status: str, code: int = 200) -> Response:
    """A completion without choices, which is what clients that know no ``status`` make of it."""
    state: JsonObject = {
        "id": run_id,
        "object": "chat.completion",
        "created": created_at // 1000,
        "model": model,
        "choices": [],
        "status": status,
    }
    return json_response(dumps(state), code, {"x-request-id": run_id})


def _after(text: str | None) -> int:
    if text is None:
        return -1
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InvalidRequest("`after` must be the number of the last chunk that was seen.", param="after")
    return int(text)
