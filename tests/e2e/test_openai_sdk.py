"""The official OpenAI Python SDK against a real gateway, its strict validation switched on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.openai_client import ask, async_sdk, sdk
from tests.scripted_provider import Hang, Reply, ScriptedProvider, Status


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[OpenAI]:
    with sdk(gateway) as client:
        yield client


def test_it_lists_the_agents_as_models(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["openclaw", "openclaw/default", "openclaw/main", "openclaw/beta"]
    assert all(ask(client, "hi", name) == "echo: hi" for name in names)


@pytest.mark.parametrize(
    "name", ["openclaw", "openclaw/default", "openclaw/beta", "openclaw:main", "agent:beta"]
)
def test_it_retrieves_a_model(name: str, client: OpenAI) -> None:
    model = client.models.retrieve(name)
    assert (model.id, model.object) == (name, "model")


@pytest.mark.parametrize("name", ["gpt-4o", "openclaw/nobody", "openclaw:nobody", "OpenClaw"])
def test_retrieving_an_unknown_model_is_a_not_found_error(name: str, client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve(name)
    assert caught.value.code == "model_not_found"


def test_it_completes(client: OpenAI) -> None:
    before = int(time.time())
    completion = client.chat.completions.create(
        model="openclaw:beta", messages=[{"role": "user", "content": "grüß dich"}]
    )
    assert completion.id.startswith("chatcmpl-")
    assert before <= completion.created <= time.time()
    assert completion.model == "openclaw:beta"
    choice = completion.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", "echo: grüß dich")
    assert (choice.finish_reason, choice.logprobs, choice.message.refusal) == ("stop", None, None)
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (11, 7)
    assert completion.usage.total_tokens == 18


def test_it_streams(client: OpenAI) -> None:
    with client.chat.completions.create(
        model="openclaw", messages=[{"role": "user", "content": "one two"}], stream=True
    ) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "echo: one two"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_it_streams_usage_when_asked(client: OpenAI) -> None:
    with client.chat.completions.create(
        model="openclaw",
        messages=[{"role": "user", "content": "one"}],
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        *chunks, last = stream
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 18


def test_the_stream_helper_puts_the_completion_together(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="openclaw", messages=[{"role": "user", "content": "one two"}]
    ) as stream:
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == "echo: one two"


def test_the_request_id_of_the_raw_response_is_the_completions_id(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="openclaw", messages=[{"role": "user", "content": "hi"}]
    )
    assert raw.headers["content-type"] == "application/json"
    assert raw.headers["cache-control"] == "no-store"
    assert raw.headers["x-content-type-options"] == "nosniff"
    completion = raw.parse()
    assert raw.headers["x-request-id"] == completion.id
    assert completion._request_id == completion.id


def test_a_streamed_response_is_read_line_by_line(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="openclaw", messages=[{"role": "user", "content": "one two"}], stream=True
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-request-id"].startswith("chatcmpl-")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


def test_many_streams_of_the_async_client_do_not_mix(gateway: GatewayProcess) -> None:
    async def stream(client: AsyncOpenAI, text: str) -> tuple[str, str]:
        messages: Any = [{"role": "user", "content": text}]
        async with client.chat.completions.stream(model="openclaw", messages=messages) as events:
            completion = await events.get_final_completion()
        return completion.id, completion.choices[0].message.content or ""

    async def ask_all(texts: list[str]) -> list[tuple[str, str]]:
        async with async_sdk(gateway) as client:
            return await asyncio.gather(*(stream(client, text) for text in texts))

    texts = [f"question {number}" for number in range(20)]
    answers = asyncio.run(ask_all(texts))
    assert [text for _, text in answers] == [f"echo: {text}" for text in texts]
    assert len({completion_id for completion_id, _ in answers}) == len(texts)


def test_parameters_of_the_newest_api_are_taken(client: OpenAI, provider: ScriptedProvider) -> None:
    completion = client.chat.completions.create(
        model="openclaw",
        messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hi"}],
        max_completion_tokens=50,
        temperature=0.5,
        seed=7,
        stop=["END"],
        metadata={"purpose": "test"},
        store=True,
        n=1,
        service_tier="auto",
    )
    assert completion.choices[0].message.content == "echo: hi"
    sent = provider.requests[-1].body
    assert (sent["temperature"], sent["seed"], sent["stop"]) == (0.5, 7, ["END"])
    assert 50 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))


def test_a_conversation_of_only_a_system_message_runs(client: OpenAI) -> None:
    completion = client.chat.completions.create(
        model="openclaw", messages=[{"role": "system", "content": "say hello"}]
    )
    assert completion.choices[0].finish_reason == "stop"


# --- errors ---


def test_a_wrong_key_is_an_authentication_error(gateway: GatewayProcess) -> None:
    with sdk(gateway, "wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        ask(client)
    assert caught.value.type == "unauthorized"
    assert caught.value.response.headers["www-authenticate"] == "Bearer"
    with sdk(gateway) as client:
        assert ask(client) == "echo: hi"


def test_an_unknown_agent_is_a_not_found_error(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="openclaw:nobody")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_disabled_endpoint_is_a_not_found_error(disabled: GatewayProcess) -> None:
    with sdk(disabled) as client, pytest.raises(openai.NotFoundError) as caught:
        ask(client)
    assert caught.value.code == "endpoint_disabled"


@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_parameter_is_a_bad_request_error(stream: bool, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="openclaw", messages=[{"role": "user", "content": "hi"}], temperature=3, stream=stream
        )
    assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")


def test_a_providers_rate_limit_is_a_rate_limit_error_with_its_retry_after(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    # A gateway of its own: it remembers how long this model does not want to be called.
    provider.script(Status(429, {"error": {"message": "slow down"}}, {"Retry-After": "60"}))
    with sdk(start_gateway()) as client, pytest.raises(openai.RateLimitError) as caught:
        ask(client)
    assert caught.value.response.headers["retry-after"] == "60"
    assert caught.value.code == "rate_limit_exceeded"


def test_a_lock_out_is_a_rate_limit_error(lockable: GatewayProcess) -> None:
    with sdk(lockable, "wrong") as client:
        for _ in range(3):
            with pytest.raises(openai.AuthenticationError):
                ask(client)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
    assert caught.value.code == "auth_locked"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 2


def test_a_client_with_retries_comes_again_when_it_was_told_to(lockable: GatewayProcess) -> None:
    answers: list[tuple[int, float, str | None]] = []

    def note(response: Any) -> None:
        answers.append((response.status_code, time.monotonic(), response.headers.get("retry-after")))

    with sdk(lockable, "wrong") as stranger:
        while not answers or answers[-1][0] != 429:
            with pytest.raises(openai.APIStatusError) as caught:
                ask(stranger)
            note(caught.value.response)
    answers.clear()
    http = openai.DefaultHttpxClient(event_hooks={"response": [note]})
    with sdk(lockable, http_client=http) as client:
        assert ask(client.with_options(max_retries=2)) == "echo: hi"
    (refused, at, retry_after), *_, (taken, taken_at, _) = answers
    assert (refused, taken) == (429, 200)
    assert taken_at - at >= float(retry_after or "nan")


def test_a_retry_under_an_idempotency_key_joins_the_run_of_the_first_try(
    client: OpenAI, provider: ScriptedProvider
) -> None:
    provider.script(Reply("It took its time.", delay=0.4))
    completion = client.with_options(timeout=0.7, max_retries=5).chat.completions.create(
        model="openclaw",
        messages=[{"role": "user", "content": "hi"}],
        extra_headers={"Idempotency-Key": f"retry-{time.time_ns()}"},
    )
    assert completion.choices[0].message.content == "It took its time."
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(401, "provider_auth"), (500, "provider_error"), (402, "insufficient_quota")]
)
def test_a_failing_provider_is_never_an_answer(
    status: int, code: str, client: OpenAI, provider: ScriptedProvider
) -> None:
    provider.script(*[Status(status, {"error": {"message": "sk-scripted is bad"}})] * 3)
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client)
    assert caught.value.code == code
    assert caught.value.status_code == (402 if status == 402 else 502)
    assert "sk-scripted" not in str(caught.value)


def test_an_error_in_the_middle_of_a_stream_is_raised(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(Reply("one two three", error_after=2))
    seen: list[str] = []
    with (
        client.chat.completions.create(
            model="openclaw", messages=[{"role": "user", "content": "hi"}], stream=True
        ) as stream,
        pytest.raises(openai.APIError) as caught,
    ):
        seen.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert caught.value.code == "provider_error"


def test_a_provider_that_never_answers_is_a_timeout_status(
    hasty: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Hang())
    with sdk(hasty) as client, pytest.raises(openai.InternalServerError) as caught:
        ask(client)
    assert (caught.value.status_code, caught.value.code) == (504, "provider_timeout")


# --- time-outs of the client ---


def test_a_client_timeout_is_clean_and_ends_the_run(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(Hang())
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.5))
    assert provider.wait_for_disconnect(2)
    assert ask(client) == "echo: hi"


def test_a_client_that_stops_reading_a_stream_ends_the_run(
    client: OpenAI, provider: ScriptedProvider
) -> None:
    provider.script(Reply("one two three", hang_after=1))
    with client.chat.completions.create(
        model="openclaw", messages=[{"role": "user", "content": "hi"}], stream=True
    ) as stream:
        assert next(stream).choices[0].delta.role == "assistant"
        assert provider.wait_for_requests(1)  # who leaves before that is not even asked about
    assert provider.wait_for_disconnect(2)
