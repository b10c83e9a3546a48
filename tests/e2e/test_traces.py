"""Traces of a real gateway, as a collector gets them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess, wait_until
from tests.e2e.http_client import chat, send
from tests.e2e.otlp import Collector, Span
from tests.e2e.tool_runs import asking
from tests.scripted_provider import Reply, ScriptedProvider, Status

PATIENCE = 15.0
SECRET_WORDS = "the swordfish swims at dawn"
INTERNAL, CLIENT = 1, 3


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def environment(collector: Collector, **more: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_SERVICE_NAME": "agents-of-tests",
        **more,
    }


AGENTS = {
    "defaults": {
        "model": {"primary": "scripted/model", "fallbacks": ["scripted/spare"]},
        "embeddingModel": "scripted/vectors",
        "subagents": {"maxSpawnDepth": 1},
    },
}


@pytest.fixture(scope="module")
def traced(start_gateway: StartGateway, collector: Collector) -> GatewayProcess:
    return start_gateway(env=environment(collector), agents=AGENTS, tools={"profile": "coding"})


@pytest.fixture(scope="module")
def telling(start_gateway: StartGateway, collector: Collector) -> GatewayProcess:
    """A gateway whose operator wants to read along."""
    wish = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
    return start_gateway(env=environment(collector, **wish))


def new_trace() -> tuple[str, str, dict[str, str]]:
    """The ids of a client's trace and span, and the header that says so."""
    trace, span = uuid.uuid4().hex, uuid.uuid4().hex[:16]
    return trace, span, {"traceparent": f"00-{trace}-{span}-01"}


def spans_of(collector: Collector, trace: str, count: int) -> list[Span]:
    """The spans of a trace, once there are so many; no more than that."""

    def come() -> list[Span] | None:
        found = [span for span in collector.spans if span.trace == trace]
        return found if len(found) >= count else None

    found: list[Span] = wait_until(come, PATIENCE, f"{count} spans")
    assert len(found) == count
    return found


def test_a_run_with_a_tool_and_a_failover_is_one_tree(
    traced: GatewayProcess, collector: Collector, provider: ScriptedProvider
) -> None:
    trace, client, headers = new_trace()
    usage = {"usage": (100, 20, 120), "cached": 60}
    asks = asking(("read", {"path": "none.txt"}))
    provider.script(Status(404), Reply(**{**vars(asks), "usage": (11, 7, 18)}), Reply(SECRET_WORDS, **usage))
    answer = chat(traced, SECRET_WORDS, headers=headers | {"x-openclaw-session-key": "agent:main:traced"})
    assert answer.text == SECRET_WORDS
    run, failed, asked, tool, told = spans_of(collector, trace, 5)

    assert [span.name for span in (run, failed, asked, tool, told)] == [
        "invoke_agent main", "chat model", "chat spare", "execute_tool read", "chat spare",
    ]  # fmt: skip
    assert run.parent == client
    assert {span.parent for span in (failed, asked, tool, told)} == {run.id}
    assert [span.kind for span in (run, failed, asked, tool, told)] == [
        INTERNAL, CLIENT, CLIENT, INTERNAL, CLIENT,
    ]  # fmt: skip
    for span in (failed, asked, tool, told):
        assert run.start <= span.start <= span.end <= run.end
    assert [span.failed for span in (run, failed, asked, tool, told)] == [False, True, False, True, False]

    session = send(traced, method="GET", path="/api/sessions/agent:main:traced").json["session"]
    assert run.attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.id": "main",
        "gen_ai.agent.name": "main",
        "gen_ai.conversation.id": session["sessionId"],
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "spare",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 111,
        "gen_ai.usage.output_tokens": 27,
        "gen_ai.usage.cache_read.input_tokens": 60,
        "openclaw.channel": "openai",
        "openclaw.run.id": answer.json["id"],
    }
    called = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "scripted"}
    assert failed.attributes == called | {
        "gen_ai.request.model": "model",
        "error.type": "model_not_found",
        "http.response.status_code": 404,
    }
    first = told.attributes.pop("openclaw.time_to_first_token")
    assert 0 < first <= (told.end - told.start) / 1e9 + 0.002
    assert told.attributes == called | {
        "gen_ai.request.model": "spare",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 60,
        "gen_ai.response.finish_reasons": ["stop"],
    }
    assert asked.attributes["gen_ai.response.finish_reasons"] == ["tool_calls"]
    assert tool.attributes == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "read",
        "gen_ai.tool.call.id": asks.tool_calls[0]["id"],
        "gen_ai.tool.type": "function",
        "error.type": "tool_error",
    }
    assert run.resource["service.name"] == "agents-of-tests"
    everything = json.dumps([vars_of(span) for span in (run, failed, asked, tool, told)])
    assert "swordfish" not in everything
    assert "none.txt" not in everything


def vars_of(span: Span) -> Any:
    return [span.name, span.attributes, span.resource]


def test_a_request_without_a_trace_begins_one(traced: GatewayProcess, collector: Collector) -> None:
    answer = chat(traced)

    def run() -> Span | None:
        named = (
            span for span in collector.spans if span.attributes.get("openclaw.run.id") == answer.json["id"]
        )
        return next(named, None)

    span = wait_until(run, PATIENCE, "the run's span")
    assert span.parent == ""
    assert len(spans_of(collector, span.trace, 2)) == 2


def test_a_state_that_is_none_is_left_out_and_logged_in_brief(
    traced: GatewayProcess, collector: Collector
) -> None:
    trace, _, headers = new_trace()
    assert chat(traced, headers=headers | {"tracestate": "is=" + "x" * 4000}).status == 200
    assert chat(traced, headers=headers | {"tracestate": "%not-a-state"}).status == 200
    spans_of(collector, trace, 4)
    said = [line for line in traced.log.splitlines() if "%not-a-state" in line]
    assert said
    assert all(" WARNING openc" in line or " WARNING opentelemetry." in line for line in said)
    assert max(map(len, traced.log.splitlines())) < 1000


def test_a_run_that_fails_says_why(
    traced: GatewayProcess, collector: Collector, provider: ScriptedProvider
) -> None:
    trace, _, headers = new_trace()
    provider.script(Status(400, {"error": {"message": "bad", "type": "invalid_request_error"}}))
    assert chat(traced, headers=headers).status == 400
    run, call = spans_of(collector, trace, 2)

    assert (run.failed, run.attributes["error.type"]) == (True, "provider_rejected_request")
    assert (call.failed, call.attributes["error.type"]) == (True, "format")
    assert "gen_ai.usage.input_tokens" not in call.attributes


def test_a_sub_agents_run_is_below_its_parents(
    traced: GatewayProcess, collector: Collector, provider: ScriptedProvider
) -> None:
    trace, _, headers = new_trace()
    provider.on("count the stars", Reply("nine"))
    provider.script(asking(("sessions_spawn", {"task": "count the stars", "waitSeconds": 20})))
    provider.on("ask", Reply("all done"))
    session = {"x-openclaw-session-key": "agent:main:parent"}
    assert chat(traced, "ask somebody", headers=headers | session).text == "all done"
    spans = spans_of(collector, trace, 6)

    outer, inner = (span for span in spans if span.name == "invoke_agent main")
    assert inner.parent == outer.id
    assert [span.name for span in spans if span.parent == inner.id] == ["chat model"]
    assert sorted(span.name for span in spans if span.parent == outer.id) == [
        "chat model", "chat model", "execute_tool sessions_spawn", "invoke_agent main",
    ]  # fmt: skip


def test_vectors_are_one_span(traced: GatewayProcess, collector: Collector) -> None:
    trace, client, headers = new_trace()
    answer = send(traced, {"model": "x", "input": "a"}, path="/v1/embeddings", headers=headers)
    assert answer.status == 200
    (span,) = spans_of(collector, trace, 1)

    assert (span.name, span.kind, span.parent) == ("embeddings vectors", CLIENT, client)
    assert span.attributes["gen_ai.operation.name"] == "embeddings"
    assert span.attributes["gen_ai.usage.input_tokens"] > 0


def test_what_is_said_is_told_to_who_asks_for_it(
    telling: GatewayProcess, collector: Collector, provider: ScriptedProvider
) -> None:
    trace, _, headers = new_trace()
    provider.script(asking(("read", {"path": "none.txt"})), Reply("as you say"))
    assert chat(telling, SECRET_WORDS, headers=headers).status == 200
    run, _, tool, _ = spans_of(collector, trace, 4)

    asked = json.loads(run.attributes["gen_ai.input.messages"])
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": SECRET_WORDS}]}]
    said = json.loads(run.attributes["gen_ai.output.messages"])
    parts = [{"type": "text", "content": "as you say"}]
    assert said == [{"role": "assistant", "parts": parts, "finish_reason": "stop"}]
    assert json.loads(tool.attributes["gen_ai.tool.call.arguments"]) == {"path": "none.txt"}
    assert "none.txt" in tool.attributes["gen_ai.tool.call.result"]


def test_the_last_spans_go_out_before_the_gateway_does(
    start_gateway: StartGateway, collector: Collector
) -> None:
    gateway = start_gateway(env=environment(collector, OTEL_BSP_SCHEDULE_DELAY="60000"))
    trace, _, headers = new_trace()
    assert chat(gateway, headers=headers).status == 200
    gateway.stop()
    assert len([span for span in collector.spans if span.trace == trace]) == 2


def test_a_collector_that_is_away_delays_no_answer_and_no_end(start_gateway: StartGateway) -> None:
    with Collector() as gone:
        url = gone.url
    gateway = start_gateway(env={"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "10"})
    for _ in range(3):
        assert chat(gateway).status == 200
    gateway.stop()


@pytest.mark.parametrize("off", ["OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=none"])
def test_traces_can_be_switched_off(start_gateway: StartGateway, collector: Collector, off: str) -> None:
    name, _, value = off.partition("=")
    gateway = start_gateway(env=environment(collector, **{name: value}))
    trace, _, headers = new_trace()
    assert chat(gateway, headers=headers).status == 200
    gateway.stop()
    assert not [span for span in collector.spans if span.trace == trace]
