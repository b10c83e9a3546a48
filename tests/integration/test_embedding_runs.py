"""Embedding runs from admission to their end: real threads, a real store, a model API over HTTP."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

from app.cancel import CancelReason
from app.config import load_config
from app.errors import (
    AgentNotFound,
    ConfigError,
    GatewayBusy,
    GatewayDraining,
    GatewayError,
    InvalidRequest,
    ProviderError,
    RunAborted,
    RunTimeout,
)
from app.messages import Usage
from app.runs.embedding import EmbeddingAsk, EmbeddingRun
from app.runtime import Runtime, check_agents
from app.sessions.records import Run, UsageQuery
from tests.integration.runs import Start, wait_until
from tests.scripted_provider import Hang, Reply, ScriptedProvider, Status, vector_of

EMBED: dict[str, Any] = {"defaults": {"embeddingModel": "scripted/vectors"}}

numbers = itertools.count(1)


def ask(runtime: Runtime, *inputs: Any, **fields: Any) -> EmbeddingRun:
    values: dict[str, Any] = {"agent_id": "main", "session_key": "agent:main:openai:x", "created_at": 1_000}
    return runtime.embeddings.start(
        EmbeddingAsk(id=f"e{next(numbers)}", inputs=inputs or ("hi",), **(values | fields))
    )


def read(run: EmbeddingRun) -> list[list[float]]:
    return [list(vector) for answer in run.slices(lambda: False) for vector in answer.vectors]


def failure(run: EmbeddingRun) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        read(run)
    return caught.value


def record(runtime: Runtime, run: EmbeddingRun) -> Run:
    found = runtime.store.get_run(run.ask.id)
    assert found is not None
    return found


@pytest.fixture
def runtime(start: Start) -> Runtime:
    return start(agents=EMBED)


# a run that works out


def test_a_run_gives_vectors_and_is_recorded_and_counted(runtime: Runtime) -> None:
    run = ask(runtime, "one", "two")

    assert read(run) == [vector_of("one"), vector_of("two")]
    kept = record(runtime, run)
    assert (kept.status, kept.channel, kept.model) == ("completed", "openai-embeddings", "scripted/vectors")
    assert (kept.usage, kept.attempts, kept.session_id) == (Usage(input=11), 1, None)
    [row] = runtime.store.usage(UsageQuery(by=("model",)))
    assert (row.group, row.runs, row.usage, row.unpriced) == (("scripted/vectors",), 1, Usage(input=11), 1)


def test_a_stated_price_is_counted(start: Start) -> None:
    models = [{"id": "m"}, {"id": "vectors", "cost": {"input": 1000}}]
    runtime = start(agents=EMBED, provider={"models": models})
    run = ask(runtime)
    read(run)

    assert record(runtime, run).cost == pytest.approx(0.011)


def test_many_inputs_go_out_in_slices_and_come_back_in_order(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    texts = [f"text {number}" for number in range(600)]
    run = ask(runtime, *texts)

    assert read(run) == [vector_of(text) for text in texts]
    assert [len(request.body["input"]) for request in model.requests] == [256, 256, 88]
    assert record(runtime, run).usage == Usage(input=33)


# failures


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(runtime: Runtime, model: ScriptedProvider, status: int) -> None:
    model.script(Status(status))
    run = ask(runtime)

    assert read(run) == [vector_of("hi")]
    kept = record(runtime, run)
    assert kept.attempts == 2
    assert [(call.outcome == "ok", call.status) for call in kept.calls] == [(False, status), (True, None)]


def test_a_key_that_is_refused_makes_room_for_the_next_and_is_left_alone_later(
    start: Start, model: ScriptedProvider
) -> None:
    runtime = start(agents=EMBED, provider={"apiKeys": ["sk-other"]})
    model.script(Status(401))

    assert read(ask(runtime)) == read(ask(runtime)) == [vector_of("hi")]
    keys = [request.headers["authorization"] for request in model.requests]
    assert keys == ["Bearer sk-test", "Bearer sk-other", "Bearer sk-other"]


def test_another_model_never_takes_over(start: Start, model: ScriptedProvider) -> None:
    models = {"primary": "scripted/m", "fallbacks": ["scripted/n"]}
    runtime = start(agents={"defaults": {"model": models} | EMBED["defaults"]})
    model.script(*[Status(404)] * 2)

    error = failure(ask(runtime))

    assert isinstance(error, ProviderError)
    assert (error.status, error.code) == (404, "model_not_found")
    assert len(model.requests) == 1


def test_a_failure_after_the_first_slice_is_a_failure(runtime: Runtime, model: ScriptedProvider) -> None:
    model.script(Reply(), Status(400, {"error": {"message": "no"}}))
    run = ask(runtime, *["x"] * 300)

    assert failure(run).code == "provider_rejected_request"
    kept = record(runtime, run)
    assert (kept.status, kept.error_code, kept.usage) == (
        "failed",
        "provider_rejected_request",
        Usage(input=11),
    )


def test_an_input_that_is_too_long_is_called_that(runtime: Runtime, model: ScriptedProvider) -> None:
    said = "This model's maximum context length is 8192 tokens, however you requested 9000 tokens"
    model.script(Status(400, {"error": {"message": said}}))

    error = failure(ask(runtime))

    assert (error.status, error.code) == (400, "context_length_exceeded")
    assert str(error) == "An input is longer than the model 'scripted/vectors' takes."


def test_vectors_of_another_length_than_asked_for_are_refused(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.5, 0.5]}
    model.script(Status(200, {"object": "list", "data": [vector]}))

    error = failure(ask(runtime, dimensions=2))

    assert isinstance(error, InvalidRequest)
    assert (error.param, error.code) == ("dimensions", "dimensions_not_supported")
    assert read(ask(runtime, dimensions=2)) == [vector_of("hi", 2)]


# its end before its time


def test_a_client_that_has_left_ends_the_call(runtime: Runtime, model: ScriptedProvider) -> None:
    model.script(Hang())
    run = ask(runtime)

    with pytest.raises(RunAborted):
        list(run.slices(lambda: bool(model.requests)))

    assert model.wait_for_disconnect()
    assert record(runtime, run).status == "cancelled"


def test_who_stops_reading_stops_the_run(runtime: Runtime, model: ScriptedProvider) -> None:
    model.script(Reply(), Hang())
    run = ask(runtime, *["x"] * 300)
    slices = run.slices(lambda: False)
    next(slices)
    assert model.wait_for_requests(2)
    slices.close()  # type: ignore[attr-defined]

    assert model.wait_for_disconnect()
    wait_until(lambda: record(runtime, run).status == "cancelled")


def test_a_run_has_the_agents_time(start: Start, model: ScriptedProvider) -> None:
    runtime = start(agents={"defaults": {"timeoutSeconds": 0.3} | EMBED["defaults"]})
    model.script(Hang())
    run = ask(runtime)

    assert isinstance(failure(run), RunTimeout)
    assert record(runtime, run).error_code == "run_timeout"


def test_so_many_run_at_a_time_and_the_others_wait(start: Start, model: ScriptedProvider) -> None:
    runtime = start(agents={"defaults": {"maxConcurrent": 1, "maxPending": 2} | EMBED["defaults"]})
    gate = threading.Event()
    model.script(Reply(gate=gate))
    first, second = ask(runtime), ask(runtime)
    assert model.wait_for_requests(1)

    with pytest.raises(GatewayBusy):
        ask(runtime)
    gate.set()

    assert read(first) == read(second) == [vector_of("hi")]
    assert model.max_active == 1


def test_a_run_that_waits_can_be_stopped(start: Start, model: ScriptedProvider) -> None:
    runtime = start(agents={"defaults": {"maxConcurrent": 1} | EMBED["defaults"]})
    gate = threading.Event()
    model.script(Reply(gate=gate))
    first, second = ask(runtime), ask(runtime)
    assert model.wait_for_requests(1)
    second.token.cancel(CancelReason.USER)

    assert isinstance(failure(second), RunAborted)
    gate.set()
    assert read(first) == [vector_of("hi")]
    assert read(ask(runtime)) == [vector_of("hi")]


def test_a_gateway_that_stops_takes_no_more_and_ends_what_is_left(
    runtime: Runtime, model: ScriptedProvider
) -> None:
    model.script(Hang())
    run = ask(runtime)
    assert model.wait_for_requests(1)
    runtime.close()

    assert isinstance(failure(run), GatewayDraining)
    with pytest.raises(GatewayDraining):
        ask(runtime)


def test_a_gateway_that_stops_lets_a_run_end(runtime: Runtime, model: ScriptedProvider) -> None:
    gate = threading.Event()
    model.script(Reply(gate=gate))
    run = ask(runtime)
    assert model.wait_for_requests(1)
    closing = threading.Thread(target=runtime.close, args=(10,))
    closing.start()
    wait_until(lambda: runtime.runs.draining)
    gate.set()

    assert read(run) == [vector_of("hi")]
    closing.join()


# which model


def chosen(document: dict[str, Any], env: dict[str, str], agent: str = "main") -> str | None:
    config = load_config({"gateway": {"auth": {"token": "a-token-of-tests"}}} | document, env)
    embedder = check_agents(config, env).get(agent).embedder
    return embedder.ref if embedder else None


OPENAI = {"OPENAI_API_KEY": "sk-test"}
AT_OPENAI = {"baseUrl": "https://api.openai.com/v1"}
ELSEWHERE = {"baseUrl": "https://example.com/v1"}


@pytest.mark.parametrize(
    ("document", "env", "model"),
    [
        ({}, {}, "embedded/smollm2-135m"),
        ({}, OPENAI, "openai/text-embedding-3-small"),
        ({"models": {"providers": {"openai": AT_OPENAI}}}, OPENAI, "openai/text-embedding-3-small"),
        ({"models": {"providers": {"openai": ELSEWHERE}}}, OPENAI, None),
        ({}, {"ANTHROPIC_API_KEY": "sk-test"}, None),
        ({}, {"GROQ_API_KEY": "sk-test"}, None),
        ({"agents": {"defaults": {"model": "ollama/qwen3"}}}, OPENAI, None),
        ({"agents": {"defaults": {"embeddingModel": "Ollama/nomic/a:b"}}}, OPENAI, "ollama/nomic/a:b"),
        (
            {"agents": {"defaults": {"embeddingModel": "ollama/a"}, "list": [{"id": "main"}]}},
            OPENAI,
            "ollama/a",
        ),
        (
            {
                "agents": {
                    "defaults": {"embeddingModel": "ollama/a"},
                    "entries": {"main": {"embeddingModel": "ollama/b"}},
                }
            },
            OPENAI,
            "ollama/b",
        ),
    ],
)
def test_the_model_is_the_stated_one_or_the_usual_one_of_the_agents_provider(
    document: dict[str, Any], env: dict[str, str], model: str | None, tmp_path: Any
) -> None:
    assert chosen(document, env | {"OPENCLAW_STATE_DIR": str(tmp_path)}) == model


@pytest.mark.parametrize(
    ("agents", "place"),
    [
        ({"defaults": {"embeddingModel": "nobody/m"}}, "agents.defaults.embeddingModel"),
        ({"defaults": {"embeddingModel": "anthropic/m"}}, "agents.defaults.embeddingModel"),
        ({"list": [{"id": "a", "embeddingModel": "nobody/m"}]}, "agents.a.embeddingModel"),
        ({"defaults": {"embeddingModel": "text-embedding-3-small"}}, "agents.defaults.embeddingModel"),
    ],
)
def test_a_stated_model_that_makes_no_vectors_is_a_mistake_in_the_file(
    agents: dict[str, Any], place: str, tmp_path: Any
) -> None:
    env = {"ANTHROPIC_API_KEY": "sk-test", "OPENCLAW_STATE_DIR": str(tmp_path)}

    with pytest.raises(ConfigError) as caught:
        chosen({"agents": agents}, env)

    assert any(problem.startswith(place) for problem in caught.value.problems)


def test_without_a_model_the_key_to_set_is_named(start: Start, model: ScriptedProvider) -> None:
    runtime = start()

    with pytest.raises(InvalidRequest, match=r"agents\.defaults\.embeddingModel") as caught:
        ask(runtime)

    assert caught.value.code == "embeddings_not_configured"
    assert model.requests == []


def test_another_model_can_be_asked_for(runtime: Runtime, model: ScriptedProvider) -> None:
    run = ask(runtime, model="scripted/other")
    read(run)

    assert model.requests[0].body["model"] == "other"
    assert record(runtime, run).model == "scripted/other"


@pytest.mark.parametrize("name", ["nobody/m", "vectors", "/", "scripted/"])
def test_a_model_of_nobody_cannot(runtime: Runtime, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(runtime, model=name)

    assert (caught.value.param, caught.value.code) == ("x-openclaw-model", "model_not_found")


def test_a_model_without_embeddings_cannot(start: Start) -> None:
    claude = {"baseUrl": "http://127.0.0.1:1", "api": "anthropic-messages", "models": [{"id": "m"}]}
    runtime = start(models={"providers": {"claude": claude}})

    with pytest.raises(InvalidRequest, match="'claude' has no embeddings") as caught:
        ask(runtime, model="claude/m")

    assert (caught.value.param, caught.value.code) == ("x-openclaw-model", "embeddings_not_supported")


def test_tokens_are_for_those_who_take_them(start: Start, model: ScriptedProvider) -> None:
    local = {"baseUrl": model.base_url, "api": "ollama", "models": [{"id": "m"}]}
    scripted = {"baseUrl": model.base_url}
    runtime = start(models={"providers": {"local": local, "scripted": scripted}})

    for name in ("local/m", "embedded/smollm2-135m"):
        with pytest.raises(InvalidRequest) as caught:
            ask(runtime, "text", (1, 2), model=name)
        assert (caught.value.param, caught.value.code) == ("input", "tokens_not_supported")
    assert read(ask(runtime, (1, 2), model="scripted/m")) == [vector_of([1, 2])]


def test_an_unknown_agent_has_none(runtime: Runtime) -> None:
    with pytest.raises(AgentNotFound):
        ask(runtime, agent_id="nobody")
