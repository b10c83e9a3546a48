"""`POST /v1/embeddings` on a real gateway, through the official OpenAI SDK and as bytes."""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import TOKEN, GatewayProcess, wait_until
from tests.e2e.http_client import Answer, Connection, request_bytes, send
from tests.scripted_provider import Hang, Reply, ScriptedProvider, Status, vector_of

PATH = "/v1/embeddings"
AGENTS = {
    "defaults": {"embeddingModel": "scripted/vectors"},
    "list": [{"id": "main", "default": True}, {"id": "beta", "embeddingModel": "scripted/others"}],
}


@pytest.fixture(scope="module")
def embedding(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway whose agents have models for vectors."""
    return start_gateway(agents=AGENTS)


@pytest.fixture
def client(embedding: GatewayProcess) -> Iterator[OpenAI]:
    with sdk(embedding) as client:
        yield client


def sdk(gateway: GatewayProcess, *, retries: int = 0, strict: bool = False) -> OpenAI:
    """Strict validation wants numbers and comes before base64 is decoded, so that it refuses all base64."""
    return OpenAI(
        base_url=f"{gateway.base_url}/v1",
        api_key=TOKEN,
        max_retries=retries,
        timeout=30,
        _strict_response_validation=strict,
    )


def post(gateway: GatewayProcess, body: Any, **options: Any) -> Answer:
    return send(gateway, body, path=PATH, **options)


# what the SDK gets


def test_the_sdks_own_way_is_base64_and_gives_numbers(client: OpenAI, provider: ScriptedProvider) -> None:
    answer = client.embeddings.create(model="openclaw", input=["one", "two"])

    assert [entry.embedding for entry in answer.data] == [vector_of("one"), vector_of("two")]
    assert [entry.index for entry in answer.data] == [0, 1]
    assert (answer.object, answer.model, answer.data[0].object) == ("list", "openclaw", "embedding")
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (11, 11)
    assert provider.requests[0].body["model"] == "vectors"


def test_numbers_are_the_same_ones_and_valid_to_the_letter(embedding: GatewayProcess) -> None:
    with sdk(embedding, strict=True) as client:
        answer = client.embeddings.create(model="openclaw", input="one", encoding_format="float")

    assert answer.data[0].embedding == vector_of("one")


def test_the_length_can_be_chosen(client: OpenAI) -> None:
    answer = client.embeddings.create(model="openclaw", input="one", dimensions=3)

    assert answer.data[0].embedding == vector_of("one", 3)


def test_tokens_go_through(client: OpenAI) -> None:
    one = client.embeddings.create(model="openclaw", input=[1, 2, 3])
    many = client.embeddings.create(model="openclaw", input=[[1, 2, 3], [4]])

    assert [entry.embedding for entry in one.data] == [vector_of([1, 2, 3])]
    assert [entry.embedding for entry in many.data] == [vector_of([1, 2, 3]), vector_of([4])]


def test_2048_inputs_are_answered_in_their_order(client: OpenAI, provider: ScriptedProvider) -> None:
    texts = [f"text {number}" for number in range(2048)]
    answer = client.embeddings.create(model="openclaw", input=texts)

    assert [entry.embedding for entry in answer.data] == [vector_of(text) for text in texts]
    assert len(provider.requests) == 8


def test_the_agent_is_named_as_in_chats_and_brings_its_model(
    client: OpenAI, provider: ScriptedProvider
) -> None:
    client.embeddings.create(model="openclaw/beta", input="a")
    client.embeddings.create(model="any", input="a", extra_headers={"x-openclaw-agent-id": "beta"})
    client.embeddings.create(model="text-embedding-3-small", input="a")
    client.embeddings.create(model="openclaw", input="a", extra_headers={"x-openclaw-model": "scripted/x"})

    models = [request.body["model"] for request in provider.requests]
    assert models == ["others", "others", "vectors", "x"]


def test_a_limit_that_passes_is_waited_for_out_of_the_clients_sight(
    client: OpenAI, provider: ScriptedProvider
) -> None:
    provider.script(Status(429, headers={"Retry-After": "0"}), Status(503))

    assert client.embeddings.create(model="openclaw", input="a").data[0].embedding == vector_of("a")
    assert len(provider.requests) == 3


def test_the_sdk_retries_what_the_gateway_leaves_to_it(
    embedding: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(*[Status(503)] * 3)

    with sdk(embedding, retries=1) as client:
        answer = client.embeddings.create(model="openclaw/beta", input="a")

    assert answer.data[0].embedding == vector_of("a")
    assert len(provider.requests) == 4


# what is refused


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"user": 5}, "user"),
        ({"model": ""}, "model"),
    ],
)
def test_a_bad_request_names_what_is_wrong(
    client: OpenAI, provider: ScriptedProvider, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**({"model": "openclaw", "input": "a"} | fields))

    assert caught.value.param == param
    assert provider.requests == []


def test_what_the_provider_refuses_has_its_status(client: OpenAI, provider: ScriptedProvider) -> None:
    cases: dict[int, type[openai.APIStatusError]] = {
        400: openai.BadRequestError,
        404: openai.NotFoundError,
        401: openai.InternalServerError,
    }
    for status, kind in cases.items():
        provider.script(Status(status, {"error": {"message": "no"}}))
        with pytest.raises(kind) as caught:
            client.embeddings.create(
                model="openclaw", input="a", extra_headers={"x-openclaw-model": f"scripted/m{status}"}
            )
        headers = caught.value.response.headers
        assert headers["x-request-id"].startswith("embd-")
        assert headers["openclaw-run"] == f'id="{headers["x-request-id"]}", agent="main"'


def test_an_agent_without_a_model_for_it_says_which_key_to_set(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    answer = post(gateway, {"model": "openclaw", "input": "a"})

    assert (answer.status, answer.error["code"]) == (400, "embeddings_not_configured")
    assert "agents.defaults.embeddingModel" in answer.error["message"]


def test_an_unknown_agent_or_model_is_refused(embedding: GatewayProcess) -> None:
    nobody = post(embedding, {"model": "openclaw/nobody", "input": "a"})
    nothing = post(embedding, {"model": "openclaw", "input": "a"}, headers={"x-openclaw-model": "nobody/m"})

    assert (nobody.status, nobody.error["code"]) == (404, "model_not_found")
    assert (nothing.status, nothing.error["param"]) == (400, "x-openclaw-model")


def test_a_client_chooses_among_the_models_that_may_be_chosen(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    defaults = {"embeddingModel": "scripted/vectors", "models": {"scripted/listed": {}}}
    gateway = start_gateway(agents={"defaults": defaults})
    answers = [
        post(gateway, {"model": "m", "input": "a"}, headers={"x-openclaw-model": f"scripted/{name}"})
        for name in ("listed", "vectors", "other")
    ]

    assert [answer.status for answer in answers] == [200, 200, 400]
    assert answers[2].error["param"] == "x-openclaw-model"
    assert len(provider.requests) == 2


def test_the_guard_is_that_of_chats(
    embedding: GatewayProcess, disabled: GatewayProcess, provider: ScriptedProvider
) -> None:
    body = {"model": "openclaw", "input": "a"}

    assert post(embedding, body, token=None).status == 401
    assert post(disabled, body).status == 404
    wrong = post(embedding, body, method="GET")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    assert provider.requests == []


# the built-in model


def test_the_built_in_model_makes_vectors_and_the_nearest_one_means_the_same(
    start_gateway: StartGateway,
) -> None:
    pytest.importorskip("xllamacpp")
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Shares dropped a lot today."]
    gateway = start_gateway(agents={"defaults": {"model": "embedded/smollm2-135m"}})
    with sdk(gateway) as client:
        answer = client.embeddings.create(model="openclaw", input=texts)
        with pytest.raises(openai.BadRequestError) as tokens:
            client.embeddings.create(model="openclaw", input=[1, 2])
        with pytest.raises(openai.BadRequestError) as shorter:
            client.embeddings.create(model="openclaw", input="a", dimensions=64)

    cat, kitten, shares = (entry.embedding for entry in answer.data)
    assert len(cat) == 576
    assert dot(cat, kitten) > dot(cat, shares) + 0.05
    assert answer.usage.prompt_tokens > len(texts)
    assert (tokens.value.param, shorter.value.param) == ("input", "dimensions")


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


# as bytes


def test_base64_is_32_bit_floats_with_the_low_byte_first(client: OpenAI) -> None:
    raw = client.embeddings.with_raw_response.create(model="m", input="a", encoding_format="base64")
    answer = json.loads(raw.http_response.content)

    data = base64.b64decode(answer["data"][0]["embedding"], validate=True)
    assert list(struct.unpack("<8f", data)) == vector_of("a")


def test_without_a_format_the_answer_is_numbers(embedding: GatewayProcess) -> None:
    assert post(embedding, {"model": "m", "input": "a"}).json["data"][0]["embedding"] == vector_of("a")


def test_a_client_that_leaves_ends_the_providers_call(
    embedding: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Hang())
    with Connection(embedding) as connection:
        connection.send(request_bytes({"model": "openclaw", "input": "a"}, path=PATH))
        assert provider.wait_for_requests(1)

    assert provider.wait_for_disconnect()


def test_usage_counts_it(embedding: GatewayProcess) -> None:
    before = int(time.time() * 1000)
    post(embedding, {"model": "openclaw", "input": "a", "user": "Ada"})

    with closing(embedding.store()) as store:
        [run] = [one for one in store.list_runs("agent:main:openai-user:ada", 9) if one.created_at >= before]
    assert (run.channel, run.model, run.usage.input) == ("openai-embeddings", "scripted/vectors", 11)
    shown = embedding.command("usage", "--by", "model", "--json")
    rows = {row["model"]: row for row in json.loads(shown.stdout)["rows"]}
    assert rows["scripted/vectors"]["input"] >= 11


def test_a_stop_lets_a_request_end(start_gateway: StartGateway, provider: ScriptedProvider) -> None:
    gateway = start_gateway(agents=AGENTS)
    gate = threading.Event()
    provider.script(Reply(gate=gate))
    got: list[Answer] = []
    thread = threading.Thread(target=lambda: got.append(post(gateway, {"model": "m", "input": "a"})))
    thread.start()
    assert provider.wait_for_requests(1)
    gateway.terminate()
    wait_until(lambda: "Handling signal: term" in gateway.log, what="the stop")
    gate.set()
    thread.join(20)

    assert got[0].status == 200
    assert gateway.wait() == 0
