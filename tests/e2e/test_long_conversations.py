"""Conversations that outgrow their model's window, and those that begin anew.

The model API of these tests counts: four characters are a token, and a prompt that is over the
window is refused as vendors refuse it. A summary of its repeats every fact that it was shown.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.messages import UserMessage
from app.sessions.records import Loaded
from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess, free_port
from tests.e2e.http_client import Connection, chat, chat_body, request_bytes
from tests.e2e.model_api import ModelApi, check_pairing, is_summary, prompt_tokens, spoken
from tests.e2e.tool_runs import asking, results, user_session
from tests.scripted_provider import Received, Reply, ScriptedReply, Status

WINDOW = 8192
TURNS = 500
FACT = re.compile(r"fact \d+ is \w+")
TOO_LONG = Status(
    400,
    {
        "error": {
            "message": f"This model's maximum context length is {WINDOW} tokens.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    },
)


class CountingModel:
    """Answers with half a page, sums up when it is asked to, and refuses what it cannot read.

    :ivar window: tokens that it reads; 0 is no limit.
    :ivar instead: what it answers to the next requests for a summary.
    :ivar refusals: how many of the next other requests it finds too long whatever their size.
    """

    def __init__(self) -> None:
        self.window = WINDOW
        self.instead: deque[ScriptedReply] = deque()
        self.refusals = 0
        self.summaries = 0
        self.refused = 0

    def __call__(self, received: Received) -> ScriptedReply | None:
        tokens = prompt_tokens(received)
        if self.window and tokens > self.window:
            self.refused += 1
            return TOO_LONG
        if is_summary(received):
            return self._summary(received, tokens)
        if self.refusals:
            self.refusals -= 1
            return TOO_LONG
        text = received.user_text
        if "at length" not in text:
            return None
        return said(f"Answer to {text[:30]!r}. " + "And so it goes on and on. " * 15, tokens)

    def _summary(self, received: Received, tokens: int) -> ScriptedReply:
        if self.instead:
            return self.instead.popleft()
        self.summaries += 1
        facts = sorted(set(FACT.findall(received.user_text)))
        return said(f"Summary {self.summaries}. Facts: {'; '.join(facts) or 'none yet'}.", tokens)


def said(text: str, tokens: int) -> Reply:
    """An answer in one piece, with an honest count."""
    return Reply(chunks=[text], usage=(tokens, len(text) // 4, tokens + len(text) // 4))


@pytest.fixture
def model() -> CountingModel:
    return CountingModel()


@pytest.fixture(scope="module")
def api_port() -> int:
    return free_port()


@pytest.fixture
def api(model: CountingModel, api_port: int) -> Iterator[ModelApi]:
    """The model API of one test."""
    with ModelApi(model, port=api_port) as api:
        yield api
        assert api.wait_until_idle(10)


def configuration(port: int, **sections: Any) -> dict[str, Any]:
    """An agent with few tools on a model with a small window, and one whose model's window is misjudged."""
    models = [{"id": "small", "contextWindow": WINDOW}, {"id": "misjudged", "contextWindow": 100_000}]
    return {
        "agents": {
            "list": [
                {"id": "main", "default": True, "model": "counting/small", "tools": {"profile": "minimal"}},
                {"id": "misjudged", "model": "counting/misjudged", "tools": {"profile": "minimal"}},
                {"id": "reader", "model": "counting/small", "tools": {"allow": ["read"]}},
            ]
        },
        "models": {"providers": {"counting": {"baseUrl": f"http://127.0.0.1:{port}/v1", "models": models}}},
        **sections,
    }


@pytest.fixture(scope="module")
def gateway(start_gateway: StartGateway, api_port: int) -> Iterator[GatewayProcess]:
    gateway = start_gateway(**configuration(api_port))
    yield gateway
    gateway.stop()


def loaded(gateway: GatewayProcess, user: str, agent: str = "main") -> Loaded:
    """What a run of this session would begin with."""
    with closing(gateway.store()) as store:
        return store.load(user_session(user, agent))


def transcript(gateway: GatewayProcess, user: str, agent: str = "main") -> list[Any]:
    with closing(gateway.store()) as store:
        return [entry.message for entry in store.transcript(user_session(user, agent)).history]


def words_of(received: Received) -> str:
    """All that is said in a prompt."""
    return json.dumps(received.body["messages"], ensure_ascii=False)


# --- five hundred turns ---


class Meter:
    """The processor time of a gateway's worker, turn by turn."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._stat = Path(f"/proc/{gateway.worker_pid}/stat")
        self._seconds: list[float] = []

    def note(self) -> None:
        user, system = self._stat.read_text().rpartition(")")[2].split()[11:13]
        self._seconds.append((int(user) + int(system)) / os.sysconf("SC_CLK_TCK"))

    def per_turn(self, first: int, last: int) -> float:
        """Milliseconds of processor time, the average of turns ``first`` to ``last``."""
        return 1000 * (self._seconds[last] - self._seconds[first]) / (last - first)


def question(turn: int) -> str:
    planted = f"Remember that fact {turn} is word{turn:03}. " if turn <= 5 else ""
    return f"Turn {turn}: {planted}Tell me at length what is next. " + "There is more to it than that. " * 10


def test_five_hundred_turns_in_a_window_of_eight_thousand_tokens(
    gateway: GatewayProcess, api: ModelApi, model: CountingModel
) -> None:
    meter = Meter(gateway)
    started = time.monotonic()
    with Connection(gateway) as connection, closing(gateway.store()) as store:
        meter.note()
        for turn in range(1, TURNS + 1):
            answer = connection.send(request_bytes(chat_body(question(turn), user="talker"))).read()
            assert (answer.status, f"Turn {turn}:" in answer.text) == (200, True), answer
            meter.note()
            if turn % 50 == 0:
                assert len(store.load(user_session("talker")).history) < 80
    elapsed = time.monotonic() - started
    prompts = [request for request in api.requests if not is_summary(request)]
    assert len(prompts) == TURNS
    assert model.refused == 0
    for turn, prompt in enumerate(prompts, 1):
        text = words_of(prompt)
        assert f"Turn {turn}:" in spoken(prompt)[-1][1]
        assert all(f"fact {n} is word{n:03}" in text for n in range(1, min(turn, 5) + 1))
    sizes = [prompt_tokens(prompt) for prompt in prompts]
    assert max(sizes[450:]) <= max(sizes[50:100]) * 1.05
    session = loaded(gateway, "talker").session
    assert session is not None
    assert session.message_count == 2 * TURNS
    assert 10 <= session.compactions <= TURNS // 8
    assert session.compactions <= model.summaries <= 3 * session.compactions
    assert isinstance(first := transcript(gateway, "talker")[0], UserMessage)
    assert first.text == question(1)
    print(
        f"\n{TURNS} turns in {elapsed:.1f} s, {session.compactions} compactions; "
        f"worker: {meter.per_turn(50, 100):.1f} ms a turn in turns 50-100, "
        f"{meter.per_turn(450, 500):.1f} ms in turns 450-500; prompt: "
        f"{sum(sizes[50:100]) // 50} and {sum(sizes[450:]) // 50} tokens, {max(sizes)} at most"
    )


# --- summaries that fail, and prompts that are too long all the same ---


def fill(gateway: GatewayProcess, user: str, *, agent: str = "main", turns: int) -> None:
    """So many turns of about three hundred tokens."""
    for turn in range(1, turns + 1):
        assert chat(gateway, question(turn), user=user, model=f"openclaw:{agent}").status == 200


def test_a_summary_that_fails_changes_nothing_and_the_turn_is_answered(
    gateway: GatewayProcess, api: ModelApi, model: CountingModel
) -> None:
    model.instead.extend([Status(500, {"error": {"message": "broken"}})] * 3)
    turns = 0
    while len(model.instead) == 3:
        turns += 1
        assert turns < 40
        assert chat(gateway, question(turns), user="unlucky").status == 200
    assert not model.instead
    unchanged = loaded(gateway, "unlucky")
    assert unchanged.session is not None
    assert (unchanged.session.summary, unchanged.session.kept_from) == (None, 1)
    assert len(unchanged.history) == 2 * turns
    prompt = api.requests[-1]
    assert f"Turn {turns}:" in spoken(prompt)[-1][1]
    assert "Turn 1:" not in words_of(prompt)
    assert chat(gateway, question(turns + 1), user="unlucky").status == 200
    now = loaded(gateway, "unlucky")
    assert now.session is not None
    assert now.session.compactions == 1
    assert "fact 1 is word001" in (now.session.summary or "")
    assert "fact 1 is word001" in words_of(api.requests[-1])
    assert model.refused == 0


@pytest.mark.parametrize("summary", ["", "Too short.", "NO_REPLY"])
def test_a_summary_that_says_nothing_is_none(
    gateway: GatewayProcess, api: ModelApi, model: CountingModel, summary: str
) -> None:
    user = f"mute-{len(summary)}"
    model.instead.append(said(summary, 100))
    turns = 0
    while model.instead:
        turns += 1
        assert chat(gateway, question(turns), user=user).status == 200
    unchanged = loaded(gateway, user)
    assert unchanged.session is not None
    assert unchanged.session.summary is None
    assert len(unchanged.history) == 2 * turns
    assert len([request for request in api.requests if is_summary(request)]) == 1


def test_a_prompt_that_is_found_too_long_is_summed_up_and_sent_once_more(
    gateway: GatewayProcess, api: ModelApi, model: CountingModel
) -> None:
    fill(gateway, "surprised", agent="misjudged", turns=6)
    model.refusals = 1
    answer = chat(gateway, question(7), user="surprised", model="openclaw:misjudged", stream=True)
    assert "Turn 7:" in answer.text
    refused, *between, last = api.requests[6:]
    assert between
    assert all(is_summary(request) for request in between)
    assert not is_summary(refused)
    assert spoken(last)[-1] == spoken(refused)[-1] == ("user", question(7))
    assert len(words_of(last)) < len(words_of(refused))
    assert all(f"fact {n} is word{n:03}" in words_of(last) for n in range(1, 6))
    now = loaded(gateway, "surprised", "misjudged")
    assert now.session is not None
    assert now.session.compactions == 1
    asked = [m for m in transcript(gateway, "surprised", "misjudged") if isinstance(m, UserMessage)]
    assert [message.text for message in asked] == [question(turn) for turn in range(1, 8)]


def test_a_prompt_that_stays_too_long_is_the_callers_error_after_one_more_try(
    gateway: GatewayProcess, api: ModelApi, model: CountingModel
) -> None:
    fill(gateway, "stubborn", agent="misjudged", turns=6)
    model.refusals = 99
    answer = chat(gateway, question(7), user="stubborn", model="openclaw:misjudged")
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert [is_summary(request) for request in api.requests[6:]].count(False) == 2
    model.refusals = 0
    assert chat(gateway, question(8), user="stubborn", model="openclaw:misjudged").status == 200


# --- tools, and requests without a session ---


def test_large_results_of_earlier_rounds_are_cut_short(
    gateway: GatewayProcess, api: ModelApi, model: CountingModel
) -> None:
    workspace = gateway.state_dir / "workspace-reader"
    workspace.mkdir(exist_ok=True)
    for number in range(4):
        lines = [f"file {number} line {line}: {'x' * 60}" for line in range(110)]
        (workspace / f"{number}.txt").write_text("\n".join(lines))
    api.script(*[asking(("read", {"path": f"{number}.txt"})) for number in range(4)], Reply("All four read."))
    answer = chat(gateway, "read all four", user="reader", model="openclaw:reader")
    assert (answer.status, answer.text) == (200, "All four read.")
    assert model.refused == 0
    last = api.requests[-1]
    check_pairing(last)
    assert "read all four" in words_of(last)
    assert "file 3 line 109" in results(last)[0]
    whole = [m.text for m in transcript(gateway, "reader", "reader") if getattr(m, "name", "") == "read"]
    assert len(whole) == 4
    assert all(f"file {number} line {line}:" in whole[number] for number in range(4) for line in (0, 55, 109))


@pytest.mark.parametrize("calls", [1, 5])
def test_results_that_are_larger_than_the_window_are_shown_in_part(
    gateway: GatewayProcess, api: ModelApi, model: CountingModel, calls: int
) -> None:
    workspace = gateway.state_dir / "workspace-reader"
    workspace.mkdir(exist_ok=True)
    (workspace / "huge.txt").write_text("\n".join(f"line {line}: {'y' * 60}" for line in range(500)))
    api.script(asking(*[("read", {"path": "huge.txt"})] * calls))
    api.on("read the huge one", Reply("It is long."))
    answer = chat(gateway, "read the huge one", user=f"reader-{calls}", model="openclaw:reader")
    assert (answer.status, model.refused) == (200, 0)
    assert answer.text == "It is long."
    check_pairing(api.requests[-1])
    shown = results(api.requests[-1])
    assert len(shown) == calls
    assert all("line 0: " in one and "characters left out; all of it: " in one for one in shown)


def test_a_long_array_without_a_session_is_cut_to_fit_and_never_summed_up(
    gateway: GatewayProcess, api: ModelApi, model: CountingModel
) -> None:
    messages: list[dict[str, str]] = []
    for turn in range(1, 101):
        messages.append({"role": "user", "content": question(turn)})
        messages.append({"role": "assistant", "content": f"Answer {turn}. " + "It goes on. " * 30})
    messages.append({"role": "user", "content": question(101)})
    answer = chat(gateway, messages=messages)
    assert (answer.status, "Turn 101:" in answer.text) == (200, True)
    (request,) = api.requests
    assert model.refused == 0
    assert prompt_tokens(request) > WINDOW // 3
    assert spoken(request)[-1] == ("user", question(101))
    assert spoken(request) == [(m["role"], m["content"]) for m in messages[-len(spoken(request)) :]]
    assert spoken(request)[0][0] == "user"


# --- beginning anew ---


def age(gateway: GatewayProcess, column: str, user: str, minutes: float) -> None:
    """Make a session of a stopped gateway older."""
    assert not gateway.running
    with closing(sqlite3.connect(gateway.state_dir / "gateway.sqlite3")) as database, database:
        older = f"UPDATE sessions SET {column} = {column} - ? WHERE key = ?"
        changed = database.execute(older, (int(minutes * 60_000), user_session(user))).rowcount
    assert changed == 1


@pytest.mark.parametrize(
    ("reset", "column", "fresh", "stale"),
    [
        ({"mode": "idle", "idleMinutes": 10}, "active_at", 9, 11),
        ({"mode": "daily", "atHour": 4}, "created_at", 0, 25 * 60),
        ({"mode": "none"}, "active_at", 60, 400 * 24 * 60),
    ],
    ids=["idle", "daily", "none"],
)
def test_a_conversation_begins_anew_when_its_time_is_up(
    start_gateway: StartGateway,
    api: ModelApi,
    api_port: int,
    reset: dict[str, Any],
    column: str,
    fresh: float,
    stale: float,
) -> None:
    gateway = start_gateway(**configuration(api_port, session={"reset": reset}))
    for user in ("regular", "returner"):
        chat(gateway, f"{user} says hello", user=user)
    gateway.stop()
    age(gateway, column, "regular", fresh)
    age(gateway, column, "returner", stale)
    gateway.start()
    chat(gateway, "still there?", user="regular")
    assert spoken(api.requests[-1])[0] == ("user", "regular says hello")
    chat(gateway, "back again", user="returner")
    seen = [text for _, text in spoken(api.requests[-1])]
    ends = reset["mode"] != "none"
    before = ["returner says hello", "echo: returner says hello"]
    assert seen == [*([] if ends else before), "back again"]
    with closing(gateway.store()) as store:
        keys = [session.key for session in store.list_sessions(None, 10, archived=True)]
        archived = [key for key in keys if key.endswith(user_session("returner")) and "archived:" in key]
        assert len(archived) == (1 if ends else 0)
        for key in archived:
            kept = [entry.message for entry in store.transcript(key).history]
            assert [message.text for message in kept] == before
    gateway.stop()
