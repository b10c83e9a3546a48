"""Streams that can be left and come back to: numbered chunks, re-attached wherever they were cut."""

from __future__ import annotations

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import TOKEN, GatewayProcess, wait_until
from tests.e2e.http_client import PATH, Answer, Connection, chat, chat_body, request_bytes, send
from tests.scripted_provider import Reply, ScriptedProvider, call

CUTS = 200
AT_ONCE = 8
MOST = CUTS // AT_ONCE
KEY = "agent:main:openai-user:carl"
WORDS = [f" w{number}" for number in range(1_000)]


@dataclass
class Follower:
    """A client that puts together what it gets over any number of connections."""

    gateway: GatewayProcess
    run_id: str = ""
    last: int | None = None
    pieces: list[str] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    done: int = 0
    comments: list[str] = field(default_factory=list)

    def ask(self, body: Any, **headers: str) -> Connection:
        return self._open(request_bytes(body, headers=headers))

    def come_back(self, **headers: str) -> Connection:
        query = "" if self.last is None else f"?after={self.last}"
        path = f"{PATH}/{self.run_id}/stream{query}"
        return self._open(request_bytes(path=path, method="GET", headers=headers))

    def read(self, connection: Connection, chunks: int | None = None) -> bool:
        """Read to the end (True), or so many chunks, and leave without a word (False)."""
        number = -1
        with connection:
            for line in connection.lines():
                if line.startswith(":"):
                    self.comments.append(line)
                elif line.startswith("id: "):
                    number = int(line.removeprefix("id: "))
                elif line.startswith("data: "):
                    self._take(number, line.removeprefix("data: "))
                    if chunks is not None and (chunks := chunks - 1) <= 0:
                        return bool(self.done)
        return True

    def _open(self, request: bytes) -> Connection:
        connection = Connection(self.gateway)
        _, status, headers = connection.send(request).read_head()
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        self.run_id = self.run_id or headers["x-request-id"]
        assert headers["x-request-id"] == self.run_id
        return connection

    def _take(self, number: int, data: str) -> None:
        if data == "[DONE]":
            self.done += 1
            self.last = number
            return
        assert self.last is None or number > self.last
        self.last = number
        chunk = json.loads(data)
        assert chunk["id"] == self.run_id
        for choice in chunk["choices"]:
            self.pieces.append(choice["delta"].get("content") or "")
            self.reasons += filter(None, [choice["finish_reason"]])

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@pytest.fixture(scope="module")
def brief(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway that soon gives up runs that nobody reads, and soon forgets those that ended."""
    resume = {"seconds": 0.5, "graceSeconds": 0.5}
    return start_gateway(gateway={"http": {"resume": resume, "keepAliveSeconds": 0.2}})


def stored(gateway: GatewayProcess, run_id: str, method: str = "GET", **options: Any) -> Answer:
    return send(gateway, method=method, path=f"{PATH}/{run_id}", **options)


def test_a_stream_that_is_cut_200_times_is_complete_and_comes_from_one_run(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.on("count", Reply(chunks=WORDS, delay=0.001))

    def follow(seed: int) -> list[tuple[Follower, int]]:
        """Follow answers to their ends, cutting the connection again and again."""
        dice = random.Random(seed)
        followed: list[tuple[Follower, int]] = []
        while sum(cuts for _, cuts in followed) < MOST:
            follower, cuts = Follower(gateway), 0
            connection = follower.ask(chat_body("count", stream=True, store=True))
            while not follower.read(connection, dice.randrange(1, 40) if cuts < MOST else None):
                connection, cuts = follower.come_back(), cuts + 1
            followed.append((follower, cuts))
        return followed

    with ThreadPoolExecutor(AT_ONCE) as pool:
        followed = [one for many in pool.map(follow, range(AT_ONCE)) for one in many]

    assert sum(cuts for _, cuts in followed) >= CUTS
    assert len(provider.requests) == len({follower.run_id for follower, _ in followed}) == len(followed)
    for follower, _ in followed:
        assert follower.text == "".join(WORDS).strip()
        assert follower.reasons == ["stop"]
        assert follower.done == 1
        assert stored(gateway, follower.run_id).text == follower.text


@pytest.mark.parametrize("usage", [False, True])
def test_wherever_the_end_is_cut_the_rest_of_it_comes(
    usage: bool, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    arguments = json.dumps({"text": "x" * 1_000})
    # One piece: text that comes in several may come as fewer chunks the next time.
    provider.script(Reply(chunks=["Look."], tool_calls=[call("look", json.loads(arguments))]))
    tool = {"type": "function", "function": {"name": "look"}}
    body = chat_body(stream=True, store=True, tools=[tool], stream_options={"include_usage": usage}, seed=1)
    first = Follower(gateway)
    connection = first.ask(body)
    whole = list(connection.lines())
    connection.close()
    frames = [line for line in whole if line.startswith(("id: ", "data: "))]
    pairs = [(int(a.removeprefix("id: ")), b) for a, b in zip(frames[::2], frames[1::2], strict=True)]

    for position, (number, _) in enumerate(pairs[:-1]):
        with Follower(gateway, first.run_id, number).come_back() as again:
            rest = [line for line in again.lines() if line.startswith("data: ")]
        assert rest == [data for _, data in pairs[position + 1 :]]


def test_a_plain_stream_has_no_numbers_and_ends_with_its_client(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.script(Reply("one two three", gate=gate, gate_at=2))
    follower = Follower(gateway)
    connection = follower.ask(chat_body(stream=True))
    assert next(line for line in connection.lines() if line).startswith("data: ")

    answer = send(gateway, method="GET", path=f"{PATH}/{follower.run_id}/stream")
    assert (answer.status, answer.error["code"]) == (409, "run_in_progress")

    connection.close()
    assert provider.wait_until_idle(5)
    gate.set()
    assert wait_until(lambda: stored(gateway, follower.run_id).status == 404)


def test_the_completion_can_be_had_once_it_is_there(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.script(Reply("one two", gate=gate, gate_at=1))
    follower = Follower(gateway)
    notes = {"topic": "counting"}
    body = chat_body(stream=True, store=True, model="openclaw/beta", metadata=notes)
    follower.read(follower.ask(body), 2)

    waiting = stored(gateway, follower.run_id)
    assert (waiting.status, waiting.headers["retry-after"]) == (202, "1")
    assert (waiting.json["status"], waiting.json["choices"]) == ("in_progress", [])

    gate.set()
    answer = wait_until(lambda: (a := stored(gateway, follower.run_id)).status == 200 and a)
    assert answer.text == "one two"
    assert (answer.json["model"], answer.json["metadata"]) == ("openclaw/beta", notes)
    assert answer.json["usage"]["total_tokens"] == 18
    assert answer.headers["x-request-id"] == follower.run_id

    changed = stored(gateway, follower.run_id, "POST", body={"metadata": {"topic": "sums"}})
    assert changed.json["metadata"] == {"topic": "sums"}
    assert stored(gateway, follower.run_id).json["metadata"] == {"topic": "sums"}

    assert stored(gateway, follower.run_id, "DELETE").json == {
        "id": follower.run_id,
        "object": "chat.completion.deleted",
        "deleted": True,
    }
    assert stored(gateway, follower.run_id).error["code"] == "not_found"
    assert stored(gateway, follower.run_id, "DELETE").status == 404
    assert len(provider.requests) == 1


def test_what_came_of_a_kept_session_is_there_without_being_stored(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    completion_id = chat(gateway, "remember", user="rita").json["id"]

    answer = stored(gateway, completion_id)

    assert answer.text == "echo: remember"
    assert answer.json["model"] == "openclaw/main"


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_run_is_cancelled_by_its_id(
    keep: bool, stream: bool, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.script(Reply("one two three", gate=gate, gate_at=1))
    with Connection(gateway) as connection:
        connection.send(request_bytes(chat_body(stream=stream, store=keep, user="carl")))
        assert provider.wait_for_requests(1)
        with closing(gateway.store()) as store:
            runs = wait_until(lambda: [run for run in store.list_runs(KEY, 5) if run.ended_at is None])
        run_id = runs[0].id
        for _ in range(2):
            answer = send(gateway, path=f"{PATH}/{run_id}/cancel")
            assert (answer.status, answer.json["status"]) == (200, "cancelled")
        if stream:
            connection.read_head()
            assert any('"code":"run_cancelled"' in line for line in connection.lines())
        else:
            told = connection.read()
            assert (told.status, told.error["code"]) == (499, "run_cancelled")
    gate.set()
    assert provider.wait_until_idle(5)
    wait_until(lambda: send(gateway, path=f"{PATH}/{run_id}/cancel").json["status"] == "cancelled")


def test_to_cancel_what_is_over_says_how_it_ended(gateway: GatewayProcess) -> None:
    for fields in ({}, {"store": True}, {"user": "olga"}):
        completion_id = chat(gateway, **fields).json["id"]
        answer = send(gateway, path=f"{PATH}/{completion_id}/cancel")
        assert (answer.status, answer.json["status"], answer.json["choices"]) == (200, "completed", [])


def test_a_run_that_nobody_comes_back_to_is_given_up(
    brief: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("one two three", gate=threading.Event(), gate_at=2))
    follower = Follower(brief)
    follower.read(follower.ask(chat_body(stream=True, store=True)), 2)

    assert provider.wait_until_idle(5)

    with closing(brief.store()) as store:
        record = wait_until(lambda: (r := store.get_run(follower.run_id)) and r.ended_at and r)
    assert record.status == "cancelled"
    wait_until(lambda: stored(brief, follower.run_id).status == 404)


def test_silence_is_bridged_by_comments_that_end_no_event(
    brief: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.script(Reply("one two", gate=gate, gate_at=1))
    follower = Follower(brief)
    lines = []
    with follower.ask(chat_body(stream=True, store=True)) as connection:
        for line in connection.lines():
            lines.append(line)
            if lines.count(": keepalive") == 3:
                gate.set()
    follower.last = None
    text = "\n".join(lines)
    assert ": keepalive\n\n" not in text
    assert text.endswith("data: [DONE]\n")


def test_the_official_sdk_reads_numbered_streams_that_pause(
    brief: GatewayProcess, provider: ScriptedProvider
) -> None:
    """It takes every empty line behind an id for an event, and an event without data for a fault."""
    gate = threading.Event()
    provider.script(Reply("one two", gate=gate, gate_at=1))
    threading.Timer(1.0, gate.set).start()
    client = OpenAI(base_url=f"{brief.base_url}/v1", api_key=TOKEN, max_retries=0)
    with (
        client,
        client.chat.completions.create(
            model="openclaw",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            store=True,
            extra_headers={"x-openclaw-events": "tools"},
        ) as stream,
    ):
        chunks: list[ChatCompletionChunk] = list(stream)

    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "one two"


def test_the_official_sdk_retrieves_updates_and_deletes(gateway: GatewayProcess) -> None:
    with OpenAI(base_url=f"{gateway.base_url}/v1", api_key=TOKEN, max_retries=0) as client:
        made = client.chat.completions.create(
            model="openclaw", messages=[{"role": "user", "content": "hi"}], store=True, metadata={"a": "b"}
        )
        found = client.chat.completions.retrieve(made.id)
        assert found.choices == made.choices
        assert found.usage == made.usage
        changed = client.chat.completions.update(made.id, metadata={"a": "c"})
        assert changed.model_dump()["metadata"] == {"a": "c"}
        assert client.chat.completions.delete(made.id).deleted


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "", "9" * 30, "%F0%9D%9F%99"])
def test_only_the_number_of_a_chunk_is_a_place_to_go_on_from(after: str, gateway: GatewayProcess) -> None:
    completion_id = chat(gateway, store=True).json["id"]
    answer = send(gateway, method="GET", path=f"{PATH}/{completion_id}/stream?after={after}")
    assert (answer.status, answer.error["param"]) == (400, "after")


def test_a_chunk_that_has_not_come_is_no_place_to_go_on_from(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("one two", gate=(gate := threading.Event()), gate_at=1))
    follower = Follower(gateway)
    follower.read(follower.ask(chat_body(stream=True, store=True)), 2)
    answer = send(gateway, method="GET", path=f"{PATH}/{follower.run_id}/stream?after=9999")
    assert (answer.status, answer.error["param"]) == (400, "after")
    gate.set()
    follower.read(follower.come_back())
    assert follower.text == "one two"


@pytest.mark.parametrize("action", ["", "/stream", "/cancel"])
@pytest.mark.parametrize(
    "run_id", ["chatcmpl-unknown", "x", "openai%20key%20k", "resp_1", "%00", "a" * 3_000]
)
def test_an_id_that_nobody_knows_is_not_found(action: str, run_id: str, gateway: GatewayProcess) -> None:
    method = "POST" if action == "/cancel" else "GET"
    answer = send(gateway, method=method, path=f"{PATH}/{run_id}{action}")
    assert (answer.status, answer.error["code"]) == (404, "not_found")


def test_coming_back_takes_the_secret(gateway: GatewayProcess) -> None:
    completion_id = chat(gateway, store=True).json["id"]
    for method, action in (("GET", ""), ("DELETE", ""), ("GET", "/stream"), ("POST", "/cancel")):
        answer = send(gateway, method=method, path=f"{PATH}/{completion_id}{action}", token=None)
        assert answer.status == 401
