"""``Idempotency-Key``: the same request under the same key is one run, whatever happens."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import TOKEN, GatewayProcess, gateway_config, wait_until
from tests.e2e.http_client import PATH, Answer, Connection, chat, chat_body, request_bytes, send
from tests.scripted_provider import Reply, ScriptedProvider, Status

REPLAYED = "idempotent-replayed"


@pytest.fixture
def key() -> str:
    return f"test {uuid.uuid4()}"


def ask(gateway: GatewayProcess, key: str, content: str = "hi", **fields: Any) -> Answer:
    return chat(gateway, content, headers={"Idempotency-Key": key}, **fields)


def text_of(lines: list[str]) -> str:
    """What the assistant said in a numbered stream."""
    body = "".join(f"{line}\n\n" for line in lines if line.startswith("data: ")).encode()
    return Answer(200, {"content-type": "text/event-stream"}, body).text


def streamed(gateway: GatewayProcess, key: str, content: str = "hi", **fields: Any) -> tuple[Any, str]:
    """Headers and text of a stream."""
    with Connection(gateway) as connection:
        body = chat_body(content, stream=True, **fields)
        connection.send(request_bytes(body, headers={"Idempotency-Key": key}))
        _, status, headers = connection.read_head()
        assert status == 200
        return headers, text_of(list(connection.lines()))


def test_a_repeated_request_gets_the_first_answer_again(
    gateway: GatewayProcess, provider: ScriptedProvider, key: str
) -> None:
    first, second = ask(gateway, key), ask(gateway, key)

    assert first.json == second.json
    assert (REPLAYED in first.headers, second.headers.get(REPLAYED)) == (False, "true")
    assert len(provider.requests) == 1
    assert ask(gateway, f"{key} other").json["id"] != first.json["id"]


@pytest.mark.parametrize("user", [None, "ida"])
def test_streams_and_whole_answers_can_be_mixed(
    user: str | None, gateway: GatewayProcess, provider: ScriptedProvider, key: str
) -> None:
    fields = {"user": user} if user else {}
    whole = ask(gateway, key, **fields)
    headers, text = streamed(gateway, key, **fields, stream_options={"include_usage": True})

    assert (headers[REPLAYED], headers["x-request-id"]) == ("true", whole.json["id"])
    assert text == whole.text
    assert len(provider.requests) == 1


def test_many_at_once_are_one_run(gateway: GatewayProcess, provider: ScriptedProvider, key: str) -> None:
    provider.on("slowly", Reply("one two three", delay=0.1))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: ask(gateway, key, "slowly", stream=False), range(8)))

    assert len({answer.body for answer in answers}) == 1
    assert sorted(answer.headers.get(REPLAYED, "") for answer in answers) == ["", *["true"] * 7]
    assert len(provider.requests) == 1


def test_who_joins_a_stream_gets_it_from_the_start(
    gateway: GatewayProcess, provider: ScriptedProvider, key: str
) -> None:
    gate = threading.Event()
    provider.script(Reply("one two three", gate=gate, gate_at=2))
    with Connection(gateway) as first:
        body = chat_body(stream=True)
        first.send(request_bytes(body, headers={"Idempotency-Key": key})).read_head()
        assert any('"one' in line for line in first.lines())
        with ThreadPoolExecutor(2) as pool:
            joined = pool.submit(streamed, gateway, key)
            whole = pool.submit(ask, gateway, key)
            gate.set()
            assert joined.result()[1] == whole.result().text == "one two three"
    assert len(provider.requests) == 1


def test_the_run_survives_its_client(gateway: GatewayProcess, provider: ScriptedProvider, key: str) -> None:
    gate = threading.Event()
    provider.script(Reply("one two three", gate=gate, gate_at=1))
    with Connection(gateway) as connection:
        connection.send(request_bytes(chat_body(), headers={"Idempotency-Key": key}))
        assert provider.wait_for_requests(1)
    gate.set()

    assert ask(gateway, key).text == "one two three"
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("content", "fields", "headers"),
    [
        ("other", {}, {}),
        ("hi", {"temperature": 0.5}, {}),
        ("hi", {"user": "eve"}, {}),
        ("hi", {"model": "openclaw/beta"}, {}),
        ("hi", {}, {"x-openclaw-agent-id": "beta"}),
        ("hi", {}, {"x-openclaw-session-key": "elsewhere"}),
    ],
)
@pytest.mark.parametrize("user", [None, "ulf"])
def test_another_request_under_the_same_key_is_refused(
    user: str | None, content: str, fields: Any, headers: Any, gateway: GatewayProcess, key: str
) -> None:
    own = {"user": user} if user else {}
    assert ask(gateway, key, **own).status == 200

    answer = chat(gateway, content, headers={"Idempotency-Key": key} | headers, **(own | fields))

    assert (answer.status, answer.error["code"]) == (422, "idempotency_key_reused")
    assert ask(gateway, key, **own).headers[REPLAYED] == "true"


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_is_told_again_and_not_tried_again(
    stream: bool, gateway: GatewayProcess, provider: ScriptedProvider, key: str
) -> None:
    provider.script(Status(400, {"error": {"message": "No.", "type": "invalid_request_error"}}))
    first = ask(gateway, key)
    used = len(provider.requests)

    if stream:
        with Connection(gateway) as connection:
            body = chat_body(stream=True)
            connection.send(request_bytes(body, headers={"Idempotency-Key": key})).read_head()
            assert any(first.error["message"] in line for line in connection.lines())
    else:
        second = ask(gateway, key)
        assert (second.status, second.error) == (first.status, first.error)
        assert second.headers["x-should-retry"] == "false"
    assert len(provider.requests) == used == 1


def test_what_was_refused_leaves_its_key_free(gateway: GatewayProcess, key: str) -> None:
    assert ask(gateway, key, temperature=9).status == 400
    assert ask(gateway, key, model="openclaw/nobody").status == 404

    answer = ask(gateway, key)

    assert (answer.status, REPLAYED in answer.headers) == (200, False)


@pytest.mark.parametrize("bad", ["", "x" * 256, "gr\xfcn", "tab\tbed"])
def test_a_key_is_1_to_255_printable_characters(bad: str, gateway: GatewayProcess) -> None:
    request = request_bytes(chat_body(), headers={"Idempotency-Key": "KEY"})
    with Connection(gateway) as connection:
        answer = connection.send(request.replace(b"KEY", bad.encode("latin-1"))).read()
    assert (answer.status, answer.error["param"]) == (400, "Idempotency-Key")


def test_a_forgotten_run_is_run_again_if_nothing_of_it_was_stored(
    gateway: GatewayProcess, provider: ScriptedProvider, key: str
) -> None:
    first = ask(gateway, key)
    assert send(gateway, method="DELETE", path=f"{PATH}/{first.json['id']}").status == 200

    assert ask(gateway, key).json["id"] != first.json["id"]
    assert len(provider.requests) == 2


def test_the_official_sdk_retries_a_failed_run_no_second_time(
    gateway: GatewayProcess, provider: ScriptedProvider, key: str
) -> None:
    provider.on("fail", Status(401, {"error": {"message": "No.", "type": "invalid_request_error"}}))
    client = openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=TOKEN, max_retries=3)
    with client, pytest.raises(openai.InternalServerError) as failure:
        client.chat.completions.create(
            model="openclaw",
            messages=[{"role": "user", "content": "fail"}],
            extra_headers={"Idempotency-Key": key},
        )
    assert failure.value.response.headers[REPLAYED] == "true"
    assert len(provider.requests) == 1


@dataclass(frozen=True)
class Survivor:
    """A gateway that was killed, and what it was asked before."""

    gateway: GatewayProcess
    keyless: Answer
    kept: Answer
    deleted: Answer


@pytest.fixture(scope="module")
def survivor(provider_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survivor]:
    """Killed while one run went on, and started again. Asked under keys that are named as the users are."""
    config = gateway_config(f"http://127.0.0.1:{provider_port}/v1")
    gateway = GatewayProcess(config, tmp_path_factory.mktemp("mortal")).start()
    with ScriptedProvider(port=provider_port) as provider:
        keyless = ask(gateway, "keyless")
        kept, deleted = ask(gateway, "kept", user="kept"), ask(gateway, "deleted", user="deleted")
        provider.script(Reply("one two", gate=(gate := threading.Event()), gate_at=1))
        with Connection(gateway) as connection:
            body = chat_body(user="interrupted")
            connection.send(request_bytes(body, headers={"Idempotency-Key": "interrupted"}))
            assert provider.wait_for_requests(4)
            gateway.kill9()
        gate.set()
        gateway.start()
    yield Survivor(gateway, keyless, kept, deleted)
    gateway.stop()


def test_after_a_kill_a_kept_session_still_has_the_answer(
    survivor: Survivor, provider: ScriptedProvider
) -> None:
    again = ask(survivor.gateway, "kept", user="kept")
    headers, text = streamed(survivor.gateway, "kept", user="kept")

    assert again.json == survivor.kept.json
    assert again.headers[REPLAYED] == headers[REPLAYED] == "true"
    assert (headers["x-request-id"], text) == (survivor.kept.json["id"], survivor.kept.text)
    assert provider.requests == []


@pytest.mark.parametrize("fields", [{"user": "kept", "seed": 1}, {"user": "kim"}, {}])
def test_after_a_kill_a_key_is_still_that_of_its_request(
    fields: Any, survivor: Survivor, provider: ScriptedProvider
) -> None:
    answer = ask(survivor.gateway, "kept", **fields)

    assert (answer.status, answer.error["code"]) == (422, "idempotency_key_reused")
    assert provider.requests == []


def test_after_a_kill_an_interrupted_run_is_not_silently_run_again(
    survivor: Survivor, provider: ScriptedProvider
) -> None:
    for _ in range(2):
        answer = ask(survivor.gateway, "interrupted", user="interrupted")
        assert (answer.status, answer.error["code"]) == (409, "interrupted")
        assert answer.headers["x-should-retry"] == "false"
    assert provider.requests == []


def test_after_a_kill_a_keyless_run_is_run_again(survivor: Survivor, provider: ScriptedProvider) -> None:
    again = ask(survivor.gateway, "keyless")

    assert (again.status, REPLAYED in again.headers) == (200, False)
    assert again.json["id"] != survivor.keyless.json["id"]
    assert len(provider.requests) == 1


def test_the_answer_is_gone_with_its_session(survivor: Survivor, provider: ScriptedProvider) -> None:
    path = "/api/sessions/agent:main:openai-user:deleted"
    assert send(survivor.gateway, method="DELETE", path=path).status == 200

    answer = ask(survivor.gateway, "deleted", user="deleted")

    assert (answer.status, answer.error["code"]) == (410, "answer_not_kept")
    assert provider.requests == []


def test_the_answer_is_kept_longer_than_the_journal_remembers(
    start_gateway: StartGateway, provider: ScriptedProvider, key: str
) -> None:
    forgetful = start_gateway(gateway={"http": {"resume": {"seconds": 0.1}}})
    first = ask(forgetful, key, user="max")
    path = f"{PATH}/{first.json['id']}"
    wait_until(lambda: send(forgetful, {"metadata": {}}, path=path).status == 404)
    assert send(forgetful, method="GET", path=path).text == first.text

    assert ask(forgetful, key, user="max").json == first.json
    assert len(provider.requests) == 1
    with closing(forgetful.store()) as store:
        record = store.get_run(first.json["id"])
    assert record is not None
    assert record.fingerprint
