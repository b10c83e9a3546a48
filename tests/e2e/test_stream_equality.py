"""Whatever a model does: the stream, put together, is the answer in one piece, field for field."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.folding import folded
from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.http_client import chat, stream_events
from tests.scripted_provider import Reply, ScriptedProvider, ScriptedReply, Status, call

TEXTS = st.text(max_size=12) | st.sampled_from(
    ["<think>", "</think>", "NO_REPLY", '{"a":', "1}", "\n\n", "👍🏽"]
)
ARGUMENTS = st.sampled_from(['{"city":"Ulm"}', "{}", "", '{"city":', "{'city': 'Ulm',}", "[1]"]) | st.text(
    max_size=700
).map(lambda text: {"city": text})
NAMES = st.sampled_from(["weather", "clock", "session_status", "nobody"])
CALLS = st.lists(st.tuples(NAMES, ARGUMENTS, st.sampled_from(["c1", "c2", "c3", ""])), max_size=3)
USAGE = st.none() | st.tuples(st.integers(1, 99), st.integers(1, 99)).map(lambda u: (*u, sum(u)))


@st.composite
def replies(draw: st.DrawFn) -> ScriptedReply:
    if draw(st.integers(0, 9)) == 0:
        return Status(draw(st.sampled_from([400, 401, 404])), {"error": {"message": "no"}})
    chunks = draw(st.lists(TEXTS, max_size=4))
    return Reply(
        chunks=[text for text in chunks if text],
        reasoning=draw(st.sampled_from(["", "", "Hm."])),
        tool_calls=[call(name, arguments, one) for name, arguments, one in draw(CALLS)],
        finish_reason=draw(st.sampled_from(["stop", "stop", "stop", "length", "content_filter"])),
        usage=draw(USAGE),
        # Only what nobody tries again: what a model has shown is never taken back.
        error_after=draw(st.sampled_from([None, None, None, 2])) if len("".join(chunks)) > 12 else None,
        error={"message": "no", "type": "invalid_request_error"},
    )


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "clock", "session_status")
]
FIELDS: list[dict[str, Any]] = [
    {},
    {"tools": TOOLS[:2]},
    {"tools": TOOLS, "tool_choice": "required"},
    {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "clock"}}},
    {"tools": TOOLS, "tool_choice": "none"},
    {"tools": TOOLS, "parallel_tool_calls": False},
    {"functions": [tool["function"] for tool in TOOLS[:2]]},
    {"response_format": {"type": "json_object"}},
    {"tools": TOOLS[:1], "response_format": {"type": "json_object"}},
    {"include_reasoning": True},
    {"stop": ["1"], "max_tokens": 5},
]


def anonymous(body: dict[str, Any]) -> dict[str, Any]:
    """The body without what is different each time."""
    return {name: value for name, value in body.items() if name not in ("id", "created")}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(replies(), min_size=1, max_size=4), st.sampled_from(FIELDS))
def test_the_folded_stream_is_the_whole_answer(
    gateway: GatewayProcess, provider: ScriptedProvider, script: list[ScriptedReply], fields: dict[str, Any]
) -> None:
    provider.script(*script)
    before = len(provider.requests)
    whole = chat(gateway, **fields)
    between = len(provider.requests)
    provider.unscript()
    provider.script(*script)
    streamed = chat(gateway, stream=True, stream_options={"include_usage": True}, **fields)

    assert streamed.status == 200
    assert anonymous(folded(stream_events(streamed.body))) == anonymous(whole.json)
    assert (whole.status == 200) == ("choices" in whole.json)
    assert len(provider.requests) - between == between - before
    provider.unscript()
