"""What a client gets when a model API fails, and what the gateway does before it says so.

Every failure meets three houses: one model with one key, a second model to fall back on, and a
provider with two keys. Each is asked for a whole answer and for a stream.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.messages import UserMessage
from app.sessions.records import Run
from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.http_client import Answer, chat, send, stream_events
from tests.e2e.model_api import ModelApi, spoken
from tests.e2e.tool_runs import user_session
from tests.scripted_provider import (
    Garbage,
    Hang,
    Raw,
    Received,
    Reply,
    ScriptedProvider,
    ScriptedReply,
    Status,
)

PATIENCE = 3.0  # seconds that a model may be silent
DEADLINE = 20.0  # seconds that a run may take
SECRET = "sk-matrix"
FIRST, SECOND = "the first question", "the second question"
SPARE = "spare"
HOUSES = ("one", "spare", "keys")
MODES = ("whole", "streamed")


def error(kind: str, message: str = "It does not work.") -> dict[str, Any]:
    """An error body that repeats the caller's key, as some servers do."""
    return {"error": {"message": f"{message} You sent KEY.", "type": kind, "param": None, "code": None}}


TELLING = {"Retry-After": "1"}
WAITING = {"Retry-After": "3600"}
AUTH = (502, "api_error", "provider_auth")
BILLING = (402, "insufficient_quota", "insufficient_quota")
RATE = (429, "rate_limit_error", "rate_limit_exceeded")
BROKEN = (502, "api_error", "provider_error")
BUSY = (503, "api_error", "provider_overloaded")
SILENT = (504, "timeout", "provider_timeout")
NONSENSE = (502, "api_error", "provider_protocol")
LOST = (502, "api_error", "provider_unreachable")
CUT = (502, "api_error", "provider_truncated")
WRONG = (400, "invalid_request_error", "provider_rejected_request")
TOO_LONG = (400, "invalid_request_error", "context_length_exceeded")
NO_MODEL = (404, "invalid_request_error", "model_not_found")


HALF_CUT = Reply("half an answer", cut_after=2)
HALF_SILENT = Reply("half an answer", hang_after=2)
HALF_BROKEN = Reply("half an answer", error_after=2, error={"type": "overloaded_error", "message": "x"})


@dataclass(frozen=True)
class Failure:
    """What a provider does, and what a client is told if nobody else can answer.

    :ivar told: status, type and code of the error.
    :ivar reason: what the run's record calls it.
    :ivar calls: how often a model with one key is called.
    :ivar of_key: it comes with the provider's first key only; the next one is tried at once.
    :ivar goes_on: the next model is tried.
    :ivar said: the visible text before it.
    :ivar retry_after: what the client is told about the time to wait.
    """

    reply: ScriptedReply
    told: tuple[int, str, str]
    reason: str
    calls: int = 1
    of_key: bool = False
    goes_on: bool = True
    said: str = ""
    retry_after: str | None = None


FAILURES: Mapping[str, Failure] = {
    "refused": Failure(Status(401, error("authentication_error")), AUTH, "auth", of_key=True),
    "forbidden": Failure(Status(403, error("permission_error")), AUTH, "auth", of_key=True),
    "unpaid": Failure(Status(402, error("billing_error")), BILLING, "billing", of_key=True),
    "limited": Failure(Status(429, error("rate_limit_error")), RATE, "rate_limit", 3, of_key=True),
    "limited-briefly": Failure(
        Status(429, error("rate_limit_error"), TELLING), RATE, "rate_limit", 3, of_key=True, retry_after="1"
    ),
    "limited-for-long": Failure(
        Status(429, error("x"), WAITING), RATE, "rate_limit", of_key=True, retry_after="3600"
    ),
    "broken": Failure(Status(500, error("server_error")), BROKEN, "server_error", 3),
    "busy": Failure(Status(503, b"<html>KEY</html>"), BUSY, "overloaded", 3),
    "too-long": Failure(
        Status(400, error("x", "This model's maximum context length is 9.")), TOO_LONG, "context_overflow", 2
    ),
    "wrong": Failure(
        Status(400, error("invalid_request_error", "max_tokens: bad.")), WRONG, "format", goes_on=False
    ),
    "unknown": Failure(Status(404, error("not_found_error")), NO_MODEL, "model_not_found"),
    "page": Failure(Raw(b"<html>Welcome</html>", {"Content-Type": "text/html"}), NONSENSE, "protocol"),
    "no-http": Failure(Garbage(b"SSH-2.0-OpenSSH_9.9\r\n"), NONSENSE, "protocol"),
    "no-json": Failure(Raw(b'data: {"choices": [\n\n'), NONSENSE, "protocol"),
    "gone": Failure(Garbage(b""), LOST, "connection", 3),
    "silent": Failure(Hang(), SILENT, "timeout"),
    "silent-stream": Failure(Hang(before_headers=False), SILENT, "timeout"),
    "cut-early": Failure(Reply("never seen", cut_after=0), CUT, "truncated", 3),
    "cut": Failure(HALF_CUT, CUT, "truncated", goes_on=False, said="half an"),
    "stalled": Failure(HALF_SILENT, SILENT, "timeout", goes_on=False, said="half an"),
    "overturned": Failure(HALF_BROKEN, BUSY, "overloaded", goes_on=False, said="half an"),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One failure in one house in one mode: an agent and providers of its own."""

    name: str
    house: str
    mode: str

    @property
    def id(self) -> str:
        return f"{self.name}-{self.house}-{self.mode}"

    @property
    def failure(self) -> Failure:
        return FAILURES[self.name]

    @property
    def recovers(self) -> bool:
        """Somebody else answers."""
        failure = self.failure
        return failure.goes_on if self.house == "spare" else failure.of_key and self.house == "keys"

    @property
    def calls(self) -> list[str]:
        """Who is asked during the first turn: a provider's role and the number of its key."""
        failure = self.failure
        if self.house == "keys" and failure.of_key:
            return ["primary-0", "primary-1"]
        if self.recovers:
            tries = 1 if self.name == "too-long" else failure.calls
            return [*["primary-0"] * tries, "spare-0"]
        return ["primary-0"] * failure.calls

    @property
    def next_calls(self) -> list[str]:
        """Who is asked during the second turn, when nothing fails any more."""
        if not self.failure.of_key:
            return ["primary-0"]
        if self.house == "one":
            return [] if self.name == "limited-for-long" else ["primary-0"]
        return ["spare-0"] if self.house == "spare" else ["primary-1"]

    def url(self, port: int) -> str:
        """An address of its own, so that no cell comes by a connection that another one has kept."""
        return f"http://127.0.1.{1 + CELLS.index(self)}:{port}/v1"

    def secret(self, role: str, number: int) -> str:
        return f"{SECRET}-{self.id}-{role}-{number}"

    def providers(self, url: str) -> dict[str, Any]:
        """A provider that fails, and one that does not."""
        keys = [self.secret("primary", number) for number in range(2 if self.house == "keys" else 1)]
        model = {"id": self.name, "contextWindow": 100_000}
        primary = {"baseUrl": url, "apiKeys": keys, "models": [model]}
        spare = {"baseUrl": url, "apiKey": self.secret("spare", 0)}
        return {self.id: primary, f"{self.id}-spare": spare}

    def agent(self) -> dict[str, Any]:
        fallbacks = [f"{self.id}-spare/{SPARE}"] if self.house == "spare" else []
        return {"id": self.id, "model": {"primary": f"{self.id}/{self.name}", "fallbacks": fallbacks}}


CELLS = [Cell(*parts) for parts in product(FAILURES, HOUSES, MODES)]


@dataclass(frozen=True)
class Outcome:
    """Both turns of one cell, the requests that they came to and what the store says of them."""

    first: Answer
    seconds: float
    calls: list[str]
    second: Answer
    next_requests: list[Received]
    record: Run
    asked: list[str]


class House:
    """The model API of all cells, and a gateway with an agent for each."""

    def __init__(self, api: ModelApi, gateway: GatewayProcess) -> None:
        self.api = api
        self.gateway = gateway

    def play(self, cell: Cell) -> Outcome:
        """Ask twice in one session. The provider fails during the first turn."""
        started = time.monotonic()
        first = self._ask(cell, FIRST)
        seconds = time.monotonic() - started
        requests = self.requests(cell)
        second = self._ask(cell, SECOND)
        with closing(self.gateway.store()) as store:
            record = store.get_run(first.headers["x-request-id"])
            history = store.transcript(user_session("tester", cell.id)).history
        assert record is not None
        messages = [entry.message for entry in history]
        return Outcome(
            first,
            seconds,
            [caller(request) for request in requests],
            second,
            self.requests(cell)[len(requests) :],
            record,
            [message.text for message in messages if isinstance(message, UserMessage)],
        )

    def requests(self, cell: Cell) -> list[Received]:
        """All model calls with a key of this cell."""
        return [r for r in self.api.requests if key_of(r).startswith(f"{SECRET}-{cell.id}-")]

    def _ask(self, cell: Cell, text: str) -> Answer:
        streamed = cell.mode == "streamed"
        return chat(self.gateway, text, user="tester", model=f"openclaw:{cell.id}", stream=streamed)


def key_of(received: Received) -> str:
    return received.headers["authorization"].removeprefix("Bearer ")


def caller(received: Received) -> str:
    """Role and number of the key that a request came with."""
    return "-".join(key_of(received).split("-")[-2:])


def failing(received: Received) -> ScriptedReply | None:
    """The failure that the request's model stands for, during the first turn."""
    failure = FAILURES.get(received.body["model"])
    if failure is None or received.user_text != FIRST:
        return None
    if failure.of_key and caller(received) != "primary-0":
        return None
    return with_key(failure.reply, key_of(received))


def with_key(reply: ScriptedReply, key: str) -> ScriptedReply:
    """``reply`` with the caller's own key wherever it repeats that."""
    if not isinstance(reply, Status):
        return reply
    body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    return Status(reply.status, body.replace(b"KEY", key.encode()), reply.headers)


@pytest.fixture(scope="module")
def house(start_gateway: StartGateway) -> Iterator[House]:
    with ModelApi(failing, host="0.0.0.0") as api:
        port = urlsplit(api.base_url).port
        assert port is not None
        providers: dict[str, Any] = {}
        for cell in CELLS:
            providers |= cell.providers(cell.url(port))
        patience = {"firstTokenTimeoutSeconds": PATIENCE, "stallTimeoutSeconds": PATIENCE}
        gateway = start_gateway(
            agents={
                "defaults": {"timeoutSeconds": DEADLINE, **patience},
                "list": [{"id": "main", "default": True}, *(cell.agent() for cell in CELLS)],
            },
            models={"providers": providers},
        )
        yield House(api, gateway)
        gateway.stop()
        assert SECRET not in gateway.log
        for path in gateway.state_dir.rglob("*"):
            assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


@pytest.fixture(scope="module")
def outcomes(house: House) -> Iterator[dict[Cell, Future[Outcome]]]:
    """All cells, side by side: they share a gateway and nothing else."""
    with ThreadPoolExecutor(32) as pool:
        yield {cell: pool.submit(house.play, cell) for cell in CELLS}


@pytest.fixture(params=CELLS, ids=lambda cell: cell.id)
def cell(request: pytest.FixtureRequest) -> Cell:
    cell: Cell = request.param
    return cell


@pytest.fixture
def outcome(cell: Cell, outcomes: dict[Cell, Future[Outcome]]) -> Outcome:
    return outcomes[cell].result(60)


def stream_end(answer: Answer) -> tuple[str, list[Any], list[Any]]:
    """The text, the errors and the finish reasons of a stream, which ends in one ``[DONE]``."""
    events = stream_events(answer.body)
    assert [number for number, event in enumerate(events) if event == "[DONE]"] == [len(events) - 1]
    objects = events[:-1]
    choices = [choice for event in objects for choice in event.get("choices", ())]
    finished = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    return answer.text, [event["error"] for event in objects if "error" in event], finished


# --- the matrix ---


def test_the_client_gets_the_answer_or_the_error_that_fits(cell: Cell, outcome: Outcome) -> None:
    answer, (status, kind, code) = outcome.first, cell.failure.told
    if cell.mode == "streamed":
        assert answer.status == 200
        text, errors, finished = stream_end(answer)
        if cell.recovers:
            assert (text, errors, finished) == (f"echo: {FIRST}", [], ["stop"])
        else:
            assert (text, finished) == (cell.failure.said, [])
            assert [(e["type"], e["code"]) for e in errors] == [(kind, code)]
    elif cell.recovers:
        assert (answer.status, answer.text) == (200, f"echo: {FIRST}")
    else:
        assert (answer.status, answer.error["type"], answer.error["code"]) == (status, kind, code)
        assert answer.headers.get("retry-after") == cell.failure.retry_after


def test_nobody_is_asked_more_often_than_it_may_help(cell: Cell, outcome: Outcome) -> None:
    assert outcome.calls == cell.calls
    assert outcome.seconds < DEADLINE


def test_the_record_says_what_was_tried(cell: Cell, outcome: Outcome) -> None:
    failed, reply = cell.failure, cell.failure.reply
    record = outcome.record
    assert record.attempts == len(cell.calls)
    tried = [(call.model, call.credential, call.outcome, call.status) for call in record.calls]
    status = reply.status if isinstance(reply, Status) else None
    misses = len(cell.calls) - cell.recovers
    expected: list[Any] = [(f"{cell.id}/{cell.name}", 0, failed.reason, status)] * misses
    if cell.recovers and cell.house == "spare":
        expected.append((f"{cell.id}-spare/{SPARE}", 0, "ok", None))
    elif cell.recovers:
        expected.append((f"{cell.id}/{cell.name}", 1, "ok", None))
    assert tried == expected
    assert record.status == ("completed" if cell.recovers else "failed")
    assert record.error_code == (None if cell.recovers else failed.told[2])


def test_the_next_turn_is_answered_and_has_each_question_once(cell: Cell, outcome: Outcome) -> None:
    assert [caller(request) for request in outcome.next_requests] == cell.next_calls
    assert outcome.asked == [FIRST, SECOND]
    for request in outcome.next_requests:
        (asked, first), (answered, text), last = spoken(request)
        assert (asked, first, answered, last) == ("user", FIRST, "assistant", ("user", SECOND))
        if cell.recovers:
            assert text == f"echo: {FIRST}"
        else:
            assert text == (cell.failure.said or text)
            assert FIRST not in text
    if outcome.next_requests:
        assert outcome.second.status == 200
        assert outcome.second.text == f"echo: {SECOND}"


def test_a_client_that_comes_back_too_early_is_told_again_how_long_to_wait(
    outcomes: dict[Cell, Future[Outcome]],
) -> None:
    whole = outcomes[Cell("limited-for-long", "one", "whole")].result(60).second
    assert (whole.status, whole.error["code"]) == (429, "rate_limit_exceeded")
    assert 3500 < int(whole.headers["retry-after"]) <= 3600
    streamed = outcomes[Cell("limited-for-long", "one", "streamed")].result(60).second
    _, (told,), finished = stream_end(streamed)
    assert (told["code"], finished) == ("rate_limit_exceeded", [])


def test_no_answer_and_no_record_has_a_key(cell: Cell, outcome: Outcome) -> None:
    for answer in (outcome.first, outcome.second):
        assert SECRET not in str(answer.headers)
        assert SECRET.encode() not in answer.body
    assert SECRET not in str(outcome.record)


# --- beside the matrix ---

TEAMS = ("loser", "rotation", "patient", "hurried", "reporter")


@pytest.fixture(scope="module")
def tired(start_gateway: StartGateway, provider_port: int) -> Iterator[GatewayProcess]:
    """A gateway whose providers do as the script says; each of its agents has its own two."""
    url = f"http://127.0.0.1:{provider_port}/v1"
    providers, agents = {}, []
    for team in TEAMS:
        keys = [f"sk-{team}-first-0", f"sk-{team}-first-1"]
        providers[f"{team}-first"] = {"baseUrl": url, "apiKeys": keys}
        providers[f"{team}-second"] = {"baseUrl": url, "apiKey": f"sk-{team}-second-0"}
        fallbacks = [f"{team}-second/m"]
        agents.append({"id": team, "model": {"primary": f"{team}-first/m", "fallbacks": fallbacks}})
    agents.append({"id": "alone", "model": f"{TEAMS[0]}-second/alone"})
    gateway = start_gateway(agents={"list": agents}, models={"providers": providers})
    yield gateway
    gateway.stop()


def callers(provider: ScriptedProvider) -> list[str]:
    return [caller(request) for request in provider.requests]


def agent_turn(gateway: GatewayProcess, agent: str, **fields: Any) -> dict[str, Any]:
    """The last event of a turn on the operator's channel."""
    answer = send(gateway, {"message": FIRST, "agent": agent, **fields}, path="/api/agent")
    assert answer.status == 200, answer
    end: dict[str, Any] = stream_events(answer.body)[-1]
    assert end["type"] == "end"
    return end


def test_when_nobody_can_answer_the_client_is_told_of_each(
    tired: GatewayProcess, provider: ScriptedProvider
) -> None:
    refused = Status(401, error("authentication_error"))
    provider.script(refused, refused, Status(429, error("rate_limit_error"), {"Retry-After": "70"}))
    answer = chat(tired, model="openclaw:loser")
    assert callers(provider) == ["first-0", "first-1", "second-0"]
    assert (answer.status, answer.headers["retry-after"]) == (429, "70")
    assert "loser-first/m: " in answer.error["message"]
    assert "loser-second/m: " in answer.error["message"]


def test_a_refused_key_costs_one_call_and_not_one_for_each_turn(
    tired: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Status(401, error("authentication_error")))
    for _ in range(5):
        assert chat(tired, "hi", model="openclaw:rotation").text == "echo: hi"
    assert callers(provider) == ["first-0", *["first-1"] * 5]


@pytest.mark.parametrize("streamed", [False, True], ids=MODES)
def test_as_long_as_the_provider_asks_for_is_waited(
    tired: GatewayProcess, provider: ScriptedProvider, streamed: bool
) -> None:
    provider.script(Status(429, error("rate_limit_error"), TELLING))
    started = time.monotonic()
    answer = chat(tired, "hi", model="openclaw:alone", stream=streamed)
    assert time.monotonic() - started >= 1
    assert answer.text == "echo: hi"
    assert callers(provider) == ["second-0"] * 2


def test_a_run_ends_at_its_deadline_whoever_is_left_to_ask(
    tired: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Hang())
    started = time.monotonic()
    end = agent_turn(tired, "hurried", timeout=1)
    assert 1 <= time.monotonic() - started < 4
    assert (end["status"], end["error"]["code"]) == ("timeout", "run_timeout")
    assert callers(provider) == ["first-0"]
    assert provider.wait_for_disconnect()


def test_a_wait_that_the_deadline_would_cut_short_is_not_begun(
    tired: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(*[Status(429, error("rate_limit_error"), {"Retry-After": "5"})] * 3)
    started = time.monotonic()
    end = agent_turn(tired, "patient", timeout=4)
    assert time.monotonic() - started < 4
    assert end["error"]["code"] == "rate_limit_exceeded"
    assert callers(provider) == ["first-0", "first-1", "second-0"]


def test_the_operator_is_shown_what_was_tried(tired: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.script(Status(402, error("billing_error")), Status(404, error("not_found_error")))
    end = agent_turn(tired, "reporter")
    assert end["status"] == "ok"
    attempts = end["result"]["meta"]["executionTrace"]["attempts"]
    assert [(a["provider"], a["credential"], a["result"], a["reason"], a["status"]) for a in attempts] == [
        ("reporter-first", 0, "error", "billing", 402),
        ("reporter-first", 1, "error", "model_not_found", 404),
        ("reporter-second", 0, "success", None, None),
    ]
