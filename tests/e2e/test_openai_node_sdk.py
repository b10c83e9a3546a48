"""The official OpenAI SDK for Node against a real gateway. Its scripts are in ``clients/openai``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import TOKEN, GatewayProcess
from tests.e2e.published import run_client
from tests.e2e.published_clients import npm_of
from tests.e2e.tool_runs import asking, endings, results, user_session
from tests.scripted_provider import Hang, Reply, ScriptedProvider, Status, vector_of

pytestmark = pytest.mark.timeout(300)  # the first test installs what it needs

SCRIPTS = Path(__file__).parent / "clients" / "openai"


class Node:
    """The scripts, with the SDK beside them."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._node = npm_of("openai")
        shutil.copytree(SCRIPTS, home, dirs_exist_ok=True)
        (home / "node_modules").symlink_to(self._node / "node_modules")

    def tells(self, gateway: GatewayProcess, script: str, *arguments: str) -> Any:
        """What a script prints."""
        env = {"OPENAI_BASE_URL": f"{gateway.base_url}/v1", "OPENAI_API_KEY": TOKEN}
        return run_client([str(self._node / "node"), f"{script}.mjs", *arguments], self._home, env)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return Node(tmp_path_factory.mktemp("node"))


def test_it_completes(node: Node, gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    told = node.tells(gateway, "completion")
    completion = told["data"]
    assert (completion["object"], completion["model"]) == ("chat.completion", "openclaw:beta")
    assert completion["choices"][0]["message"]["content"] == "echo: grüß dich"
    assert completion["choices"][0]["finish_reason"] == "stop"
    assert completion["usage"]["total_tokens"] == 18
    assert told["request_id"] == told["header"] == completion["id"]
    assert told["type"] == "application/json"
    sent = provider.requests[-1].body
    assert (sent["temperature"], sent["seed"], sent["stop"]) == (0.5, 7, ["END"])


def test_a_user_has_a_conversation(node: Node, gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    assert node.tells(gateway, "session", "ada-of-node") == ["echo: my name is Ada", "echo: who am I?"]
    said = [message["content"] for message in provider.requests[-1].body["messages"][1:]]
    assert said == ["my name is Ada", "echo: my name is Ada", "who am I?"]
    assert endings(gateway, user_session("ada-of-node")) == ["completed"] * 2


def test_a_picture_goes_to_the_model(
    node: Node, generous: GatewayProcess, provider: ScriptedProvider
) -> None:
    assert node.tells(generous, "picture") == "echo: what is this?"
    parts = provider.requests[-1].body["messages"][-1]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url"]


# --- streams ---


def test_it_streams(node: Node, gateway: GatewayProcess) -> None:
    chunks = node.tells(gateway, "stream", "one two")
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert text_of(chunks) == "echo: one two"
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1


def test_it_streams_usage_when_asked(node: Node, gateway: GatewayProcess) -> None:
    *chunks, last = node.tells(gateway, "stream", "one two", "usage")
    assert text_of(chunks) == "echo: one two"
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 18)


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_the_stream_helper_tells_of_each_piece_and_of_the_whole(node: Node, gateway: GatewayProcess) -> None:
    told = node.tells(gateway, "stream_helper")
    pieces = [event[1:] for event in told["events"] if event[0] == "content.delta"]
    assert "".join(piece for piece, _ in pieces) == "echo: one two"
    assert pieces[-1][1] == told["content"] == "echo: one two"
    others = [event for event in told["events"] if event[0] != "content.delta"]
    done = ["content.done", "echo: one two"]
    assert others == [["connect"], done, ["finalContent", "echo: one two"], ["end"]]
    assert told["completion"]["choices"][0]["finish_reason"] == "stop"
    assert told["usage"]["total_tokens"] == 18


def test_an_error_in_the_middle_of_a_stream_is_thrown(
    node: Node, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("one two three", error_after=2))
    told = node.tells(gateway, "broken_stream")
    assert "one two three".startswith(told["text"])
    assert (told["broken"]["name"], told["broken"]["code"]) == ("APIError", "provider_error")


def test_an_abort_ends_the_run_at_the_model(
    node: Node, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("once upon a time", hang_after=2))
    told = node.tells(gateway, "abort")
    assert (told["text"][:4], told["next"]) == ("once", "echo: still there?")
    assert provider.wait_for_disconnect(2)


def test_a_timeout_of_the_client_ends_the_run_at_the_model(
    node: Node, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Hang())
    assert node.tells(gateway, "timeout")["name"] == "APIConnectionTimeoutError"
    assert provider.wait_for_disconnect(2)


# --- models and errors ---


def test_it_lists_and_retrieves_models(node: Node, gateway: GatewayProcess) -> None:
    told = node.tells(gateway, "models")
    assert told["names"] == ["openclaw", "openclaw/default", "openclaw/main", "openclaw/beta"]
    assert [model["id"] for model in told["found"]] == ["openclaw:main", "openclaw/beta"]
    assert (told["missing"]["name"], told["missing"]["code"]) == ("NotFoundError", "model_not_found")


def test_every_refusal_is_an_error_of_its_own_class(
    node: Node, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    told = node.tells(gateway, "errors")
    classes = {name: (error["name"], error["status"], error["param"]) for name, error in told.items()}
    assert classes == {
        "key": ("AuthenticationError", 401, None),
        "agent": ("NotFoundError", 404, "model"),
        "parameter": ("BadRequestError", 400, "temperature"),
        "stream": ("BadRequestError", 400, "temperature"),
        "empty": ("BadRequestError", 400, "messages"),
    }
    assert provider.requests == []


@pytest.mark.parametrize(
    ("status", "name", "code"),
    [
        (401, "InternalServerError", "provider_auth"),
        (500, "InternalServerError", "provider_error"),
        (402, "APIError", "insufficient_quota"),
    ],
)
def test_a_failing_provider_is_never_an_answer(
    status: int, name: str, code: str, node: Node, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(*[Status(status, {"error": {"message": "sk-scripted is bad"}})] * 3)
    told = node.tells(gateway, "failure")
    assert (told["name"], told["code"]) == (name, code)
    assert told["status"] == (402 if status == 402 else 502)


def test_a_providers_rate_limit_is_a_rate_limit_error(
    node: Node, start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    # A gateway of its own: it remembers how long this model does not want to be called.
    provider.script(Status(429, {"error": {"message": "slow down"}}, {"Retry-After": "60"}))
    told = node.tells(start_gateway(), "failure")
    assert (told["name"], told["status"], told["code"]) == ("RateLimitError", 429, "rate_limit_exceeded")


def test_it_comes_again_when_it_was_told_to(node: Node, start_gateway: StartGateway) -> None:
    limits = {"maxAttempts": 3, "lockoutMs": 1500, "exemptLoopback": False}
    told = node.tells(start_gateway(gateway={"auth": {"rateLimit": limits}}), "retries")
    assert told["strangers"] == [401, 401, 401]
    *refused, taken = told["answers"]
    assert [answer["status"] for answer in refused] == [429] * len(refused)
    assert (taken["status"], told["content"]) == (200, "echo: hi")
    waited = (taken["at"] - refused[0]["at"]) / 1000
    assert waited >= float(refused[0]["retryAfter"]) > 0


# --- tools and structured output ---


def test_parse_gives_an_object_of_a_zod_schema(
    node: Node, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.on("dinner", Reply('{"dish": "soup", "courses": 1, "vegan": null}'))
    dish = {"dish": "soup", "courses": 1, "vegan": None}
    assert node.tells(gateway, "parse") == {"parsed": dish, "streamed": dish}
    for request in provider.requests:
        schema = request.body["response_format"]["json_schema"]
        assert (schema["name"], schema["strict"]) == ("menu", True)


@pytest.mark.parametrize("stream", [(), ("stream",)], ids=["whole", "streamed"])
def test_the_tool_runner_calls_the_functions_of_the_client(
    stream: tuple[str, ...], node: Node, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    cities = [("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Oslo"})]
    provider.script(asking(*cities), Reply("It is clear."))
    told = node.tells(gateway, "run_tools", *stream)
    assert (told["asked"], told["content"]) == (["Rome", "Oslo"], "It is clear.")
    first, second = provider.requests
    offered = {tool["function"]["name"]: tool["function"] for tool in first.body["tools"]}
    assert offered["get_weather"]["strict"] is True
    assert results(second) == ['{"city":"Rome","sky":"clear"}', '{"city":"Oslo","sky":"clear"}']


# --- the other endpoints ---


def test_responses_are_kept_and_continued(
    node: Node, generous: GatewayProcess, provider: ScriptedProvider
) -> None:
    told = node.tells(generous, "responses")
    assert told["first"]["output_text"] == "echo: my name is Ada"
    assert told["second"]["output_text"] == "echo: who am I?"
    assert told["second"]["previous_response_id"] == told["first"]["id"] == told["kept"]["id"]
    said = [message["content"] for message in provider.requests[-1].body["messages"][1:]]
    assert said == ["my name is Ada", "echo: my name is Ada", "who am I?"]


def test_responses_are_streamed(node: Node, generous: GatewayProcess) -> None:
    told = node.tells(generous, "responses_stream")
    kinds = [event["type"] for event in told["events"]]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event["sequence_number"] for event in told["events"]] == list(range(len(kinds)))
    assert told["text"] == "echo: one two"
    assert (told["usage"]["input_tokens"], told["usage"]["output_tokens"]) == (11, 7)


def test_responses_are_parsed(node: Node, generous: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.script(Reply('{"dish": "soup", "courses": 1}'))
    assert node.tells(generous, "responses_parse") == {"dish": "soup", "courses": 1}


def test_responses_call_functions(node: Node, generous: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.script(asking(("get_weather", {"city": "Rome"})), Reply("It is clear."))
    told = node.tells(generous, "responses_tools")
    assert [(call["name"], call["arguments"]) for call in told["calls"]] == [
        ("get_weather", '{"city": "Rome"}')
    ]
    assert told["text"] == "It is clear."
    assert results(provider.requests[-1]) == ["clear sky"]


def test_embeddings_come_as_floats_however_they_are_sent(
    node: Node, generous: GatewayProcess, provider: ScriptedProvider
) -> None:
    told = node.tells(generous, "embeddings")
    assert [one["index"] for one in told["usual"]["data"]] == [0, 1]
    for answer in told.values():
        assert [one["embedding"] for one in answer["data"]] == [vector_of("one"), vector_of("two")]
    assert provider.requests[0].path == "/v1/embeddings"
