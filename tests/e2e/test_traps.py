"""The traps of the HTTP surface, by their numbers: B1-B27 are behaviour, P1-P20 the platform's.

B6 and B13 are in ``test_sessions_http.py``; B16-B19, B27, P12, P13 and P15 in
``test_streams.py``. B21 comes with client tools.
"""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import TOKEN, GatewayProcess, wait_until
from tests.e2e.http_client import (
    PATH,
    Answer,
    Connection,
    chat,
    chat_body,
    request_bytes,
    send,
    stream_events,
    stream_text,
)
from tests.scripted_provider import Reply, ScriptedProvider, Status, call
from tests.scripted_provider import chunk as sse

STOP = sse(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])


def spoken(provider: ScriptedProvider) -> list[dict[str, Any]]:
    """What the model was told last, without the system prompt."""
    messages: list[dict[str, Any]] = provider.requests[-1].body["messages"]
    return [message for message in messages if message["role"] != "system"]


def system_prompt(provider: ScriptedProvider) -> str:
    text: str = provider.requests[-1].body["messages"][0]["content"]
    return text


def converse(gateway: GatewayProcess, *messages: dict[str, Any], **fields: Any) -> Answer:
    return chat(gateway, **({"messages": list(messages)} | fields))


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


# --- B1: the order of checks ---


def test_b1_a_path_is_looked_at_before_method_and_bearer(disabled: GatewayProcess) -> None:
    for method in ("POST", "GET", "OPTIONS"):
        answer = send(disabled, method=method, token=None)
        assert (answer.status, answer.error["code"]) == (404, "endpoint_disabled")


def test_b1_a_method_is_looked_at_before_the_bearer(gateway: GatewayProcess) -> None:
    answer = send(gateway, method="GET", token=None)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_b1_the_bearer_is_looked_at_before_the_body(gateway: GatewayProcess) -> None:
    with Connection(gateway) as connection:
        connection.send(request_bytes(token=None, headers={"Content-Length": "1000"}))
        assert connection.read().status == 401


def test_b1_the_size_is_looked_at_before_the_fields(hasty: GatewayProcess) -> None:
    answer = send(hasty, {"model": 5, "padding": "x" * 100_000})
    assert answer.status == 413


def test_b1_the_fields_are_looked_at_before_agent_and_session(gateway: GatewayProcess) -> None:
    headers = {"x-openclaw-session-key": "cron:1"}
    fields = {"model": "openclaw:nobody"}
    answers = [
        send(gateway, {"messages": 5, **fields}, headers=headers),
        chat(gateway, headers=headers, **fields),
        chat(gateway, headers=headers),
    ]
    assert [(a.status, a.error["param"]) for a in answers] == [
        (400, "messages"),
        (404, "model"),
        (400, "x-openclaw-session-key"),
    ]


# --- B2-B5: agents ---


@pytest.mark.parametrize("fields", [{}, {"model": None}, {"model": "openclaw/default"}, {"model": ""}])
def test_b2_the_default_agent_is_the_configured_one(
    fields: dict[str, Any], strict: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply(tool_calls=[call("session_status")]))
    assert chat(strict, **({"model": "openclaw"} | fields)).status == 200
    assert "agent: omega" in spoken(provider)[-1]["content"]


def test_b2_without_any_agent_configured_there_is_main(
    hasty: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply(tool_calls=[call("session_status")]))
    assert chat(hasty).status == 200
    assert "agent: main" in spoken(provider)[-1]["content"]


def test_b3_the_header_beats_the_model(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    answer = chat(gateway, model="openclaw:main", headers={"X-OpenClaw-Agent-ID": " BETA "})
    assert answer.status == 200
    assert system_prompt(provider).startswith("You are Beta")


@pytest.mark.parametrize("name", ["nobody", "..", "a/b", "be ta", "", "x" * 65])
def test_b4_an_unknown_agent_is_refused_and_nothing_is_created(
    name: str, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    before = sorted(gateway.state_dir.iterdir())
    answers = [chat(gateway, model=f"openclaw:{name}")]
    if name:
        answers.append(chat(gateway, headers={"x-openclaw-agent-id": name}))
    for answer in answers:
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert sorted(gateway.state_dir.iterdir()) == before
    assert provider.requests == []


@pytest.mark.parametrize(
    "model", ["OpenClaw/Beta", "gpt-4o", "openclaw:main", "anthropic/claude", "agent/beta"]
)
def test_b5_the_model_of_the_request_is_echoed(model: str, gateway: GatewayProcess) -> None:
    assert chat(gateway, model=model).json["model"] == model
    events = stream_events(chat(gateway, model=model, stream=True).body)
    assert {event["model"] for event in events[:-1]} == {model}


def test_b5_without_a_model_the_echo_is_openclaw(gateway: GatewayProcess) -> None:
    assert send(gateway, {"messages": [user("hi")]}).json["model"] == "openclaw"


def test_a_strict_gateway_refuses_a_model_that_names_no_agent(strict: GatewayProcess) -> None:
    answer = chat(strict, model="gpt-4o")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


# --- B7-B14: messages and usage ---


def test_b7_all_system_and_developer_texts_join_the_agents_prompt(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    converse(
        gateway,
        {"role": "system", "content": "Be brief."},
        user("hi"),
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
    )
    prompt = system_prompt(provider)
    assert prompt.startswith("You are Main")
    assert "Be brief.\n\nBe kind." in prompt
    assert spoken(provider) == [user("hi")]


def test_b8_a_tool_result_may_be_what_is_answered(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    asked = call("weather", {"city": "Ulm"}, "call_9")
    provider.script(Reply("It is sunny."))
    answer = converse(
        gateway,
        user("weather?"),
        {"role": "assistant", "content": "Let me look.", "tool_calls": [asked]},
        {"role": "tool", "tool_call_id": "call_9", "content": "sunny"},
    )
    assert answer.text == "It is sunny."
    _, calling, result = spoken(provider)
    assert calling["tool_calls"] == [asked]
    assert (result["role"], result["tool_call_id"], result["content"]) == ("tool", "call_9", "sunny")


def test_b8_a_trailing_assistant_turn_is_refused_by_name(gateway: GatewayProcess) -> None:
    answer = converse(gateway, user("hi"), {"role": "assistant", "content": "Well"})
    assert (answer.status, answer.error["code"]) == (400, "prefill_not_supported")


def test_b9_a_conversation_of_only_assistant_turns_runs(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    assert converse(gateway, {"role": "assistant", "content": "say it"}).text == "echo: say it"
    assert spoken(provider) == [user("say it")]


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}, {"content": []}])
def test_b10_an_assistant_turn_that_only_calls_tools_needs_no_content(
    content: dict[str, Any], gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    answer = converse(
        gateway,
        user("weather?"),
        {"role": "assistant", "tool_calls": [call("weather", {}, "call_9")], **content},
        {"role": "tool", "tool_call_id": "call_9", "content": "sunny"},
        user("and now?"),
    )
    assert answer.text == "echo: and now?"
    assert spoken(provider)[1]["tool_calls"][0]["id"] == "call_9"


def test_b11_text_parts_are_joined_by_newlines_and_empty_ones_dropped(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    parts = [
        {"type": "text", "text": "hello"},
        {"type": "text", "text": ""},
        {"type": "input_text", "text": "world"},
    ]
    converse(gateway, user(parts))
    assert provider.requests[-1].user_text == "hello\nworld"


@pytest.mark.parametrize("content", ["", None, []])
def test_b12_an_empty_tool_result_still_completes_its_call(
    content: Any, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    converse(
        gateway,
        user("delete it"),
        {"role": "assistant", "content": None, "tool_calls": [call("delete", {}, "call_9")]},
        {"role": "tool", "tool_call_id": "call_9", "content": content},
        user("done?"),
    )
    result = spoken(provider)[2]
    assert (result["role"], result["tool_call_id"], result["content"]) == ("tool", "call_9", "")


@pytest.mark.parametrize("stream", [False, True])
def test_b14_usage_is_the_sum_over_all_model_calls_of_the_run(
    stream: bool, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("Looking.", tool_calls=[call("session_status")]), Reply("Done."))
    answer = chat(gateway, stream=stream, stream_options={"include_usage": True})
    usage = (stream_events(answer.body)[-2] if stream else answer.json)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (22, 14, 36)


# --- B15, B20, B22-B26: answers ---


def test_b15_a_stream_has_one_id_and_one_time_and_both_are_its_own(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("one two three", delay=0.4))
    start = int(time.time())
    first = stream_events(chat(gateway, stream=True).body)[:-1]
    second = stream_events(chat(gateway, stream=True).body)[:-1]
    assert len({(event["id"], event["created"]) for event in first}) == 1
    assert first[0]["created"] in (start, start + 1)
    assert first[0]["id"] != second[0]["id"]


@pytest.mark.parametrize("stream", [False, True])
def test_b20_text_before_and_after_a_tool_is_two_paragraphs(
    stream: bool, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply("Before tool.", tool_calls=[call("session_status")]), Reply("Hello"))
    assert chat(gateway, stream=stream).text == "Before tool.\n\nHello"


@pytest.mark.parametrize(
    ("status", "code", "shown"),
    [
        (400, "provider_rejected_request", 400),
        (401, "provider_auth", 502),
        (402, "insufficient_quota", 402),
        (403, "provider_auth", 502),
        (404, "model_not_found", 404),
        (503, "provider_overloaded", 503),
    ],
)
def test_b22_a_providers_failure_has_a_status_and_never_becomes_the_answer(
    status: int, code: str, shown: int, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(*[Status(status, {"error": {"message": "boom"}})] * 3)
    answer = chat(gateway)
    assert (answer.status, answer.error["code"]) == (shown, code)
    assert answer.headers["x-request-id"].startswith("chatcmpl-")


def test_b23_a_lock_out_holds_for_the_right_secret_too(lockable: GatewayProcess, address: str) -> None:
    tokens = ["wrong", "wrong", "wrong", "wrong", TOKEN, None]
    answers = [chat_with(lockable, token, source=address) for token in tokens]
    assert [answer.status for answer in answers] == [401, 401, 401, 429, 429, 429]
    assert {(answer.error["type"], answer.error["code"]) for answer in answers[3:]} == {
        ("rate_limited", "auth_locked")
    }


def test_b23_a_lock_out_is_for_one_address_and_some_time(lockable: GatewayProcess, address: str) -> None:
    for _ in range(3):
        chat_with(lockable, "wrong", source=address)
    assert chat_with(lockable, TOKEN, source=address).status == 429
    assert chat_with(lockable, TOKEN, source="127.0.1.1").status == 200
    wait_until(lambda: chat_with(lockable, TOKEN, source=address).status == 200)


def test_b23_a_missing_secret_does_not_count(lockable: GatewayProcess, address: str) -> None:
    assert {chat_with(lockable, None, source=address).status for _ in range(5)} == {401}
    assert chat_with(lockable, TOKEN, source=address).status == 200


def test_b23_a_right_secret_clears_the_count(lockable: GatewayProcess, address: str) -> None:
    tokens = ["wrong", "wrong", TOKEN, "wrong", "wrong", TOKEN]
    statuses = [chat_with(lockable, token, source=address).status for token in tokens]
    assert statuses == [401, 401, 200, 401, 401, 200]


def test_b23_forwarding_headers_of_a_stranger_do_not_move_the_lock_out(
    lockable: GatewayProcess, address: str
) -> None:
    for number in range(3):
        chat_with(lockable, "wrong", headers={"X-Forwarded-For": f"10.0.0.{number}"}, source=address)
    answer = chat_with(lockable, TOKEN, headers={"X-Forwarded-For": "10.0.0.9"}, source=address)
    assert answer.status == 429


def chat_with(gateway: GatewayProcess, token: str | None, **options: Any) -> Answer:
    return send(gateway, chat_body(), token=token, **options)


def test_b24_retry_after_of_a_lock_out_is_in_whole_seconds(lockable: GatewayProcess, address: str) -> None:
    for _ in range(3):
        chat_with(lockable, "wrong", source=address)
    assert chat_with(lockable, TOKEN, source=address).headers["retry-after"] in ("1", "2")


@pytest.mark.parametrize(
    ("given", "shown"), [({"Retry-After": "59.2"}, "60"), ({"retry-after-ms": "30500"}, "31")]
)
def test_b24_retry_after_of_a_provider_is_rounded_up(
    given: dict[str, str], shown: str, start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    # A gateway of its own: it remembers how long this model does not want to be called.
    provider.script(Status(429, {"error": {"message": "slow down"}}, given))
    answer = chat(start_gateway())
    assert (answer.status, answer.headers["retry-after"]) == (429, shown)


@pytest.mark.parametrize("text", ["/status", "/new", "/reset please"])
def test_b25_slash_commands_are_text(text: str, gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    assert chat(gateway, text).text == f"echo: {text}"
    assert spoken(provider) == [user(text)]


def test_b26_usage_comes_in_a_chunk_without_choices_before_done(gateway: GatewayProcess) -> None:
    events = stream_events(chat(gateway, stream=True, stream_options={"include_usage": True}).body)
    *chunks, usage, done = events
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 18
    assert all(chunk["usage"] is None for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_b26_nobody_gets_usage_without_asking(gateway: GatewayProcess) -> None:
    events = stream_events(chat(gateway, stream=True).body)
    assert all("usage" not in event and len(event["choices"]) == 1 for event in events[:-1])


# --- P1-P6: values ---


@pytest.mark.parametrize(
    "bearer", ["é".encode(), "é".encode("latin-1"), b"\xff\xfe", TOKEN.encode() + b"\xe9"]
)
def test_p1_a_bearer_that_is_not_ascii_is_just_wrong(bearer: bytes, gateway: GatewayProcess) -> None:
    request = request_bytes(chat_body(), headers={"Authorization": "Bearer @"}).replace(b"@", bearer, 1)
    with Connection(gateway) as connection:
        assert connection.send(request).read().status == 401
    assert chat(gateway).status == 200


@pytest.mark.parametrize(
    "model", ["openclaw:\u212ailo", "openclaw:ki\nlo", "openclaw:kilo\nx", "openclaw:kilo/x"]
)
def test_p2_an_agents_name_is_matched_as_a_whole_and_in_ascii(
    model: str, strict: GatewayProcess, provider: ScriptedProvider
) -> None:
    assert chat(strict, model=model).status == 404
    assert provider.requests == []
    assert chat(strict, model="openclaw:KILO").status == 200


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_p3_numbers_that_are_not_json_or_not_finite_are_refused(number: str, gateway: GatewayProcess) -> None:
    body = json.dumps(chat_body(temperature=0)).replace('"temperature": 0', f'"temperature": {number}')
    assert_refused(send(gateway, body.encode()))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_p3_only_utf_8_is_read(encoding: str, gateway: GatewayProcess) -> None:
    body = json.dumps(chat_body("grüße"), ensure_ascii=False).encode(encoding)
    assert_refused(send(gateway, body), "invalid_json")


def test_p3_a_byte_order_mark_is_ignored(gateway: GatewayProcess) -> None:
    assert send(gateway, b"\xef\xbb\xbf" + json.dumps(chat_body()).encode()).text == "echo: hi"


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
def test_p4_deep_nesting_is_refused(body: bytes, gateway: GatewayProcess) -> None:
    assert_refused(send(gateway, body))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("lone", ["\\ud83d", "\\ude00", "\\ud83d\\ud83d", "\\ude00\\ud83d"])
def test_p5_lone_surrogates_of_the_client_are_replaced(
    lone: str, stream: bool, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    body = json.dumps(chat_body("a@b", stream=stream, user=None)).replace("@", lone)
    expected = f"a{'�' * lone.count('u')}b"
    assert send(gateway, body.encode()).text == f"echo: {expected}"
    assert provider.requests[-1].user_text == expected


@pytest.mark.parametrize("stream", [False, True])
def test_p5_lone_surrogates_of_the_model_are_replaced(
    stream: bool, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Reply(chunks=["a", "\ud83d", "b"]))
    assert chat(gateway, stream=stream).text == "a�b"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", True),
        ("temperature", "0.5"),
        ("temperature", 2.1),
        ("top_p", -0.1),
        ("max_tokens", True),
        ("max_tokens", 5.5),
        ("max_tokens", 0),
        ("max_completion_tokens", "5"),
        ("seed", 1.5),
        ("seed", True),
        ("stream", "false"),
        ("stream", 1),
        ("user", 5),
        ("model", 5),
        ("stop", ["a"] * 5),
        ("stop", [""]),
        ("n", 2),
        ("messages", "hi"),
        ("messages", []),
        ("messages", None),
    ],
)
def test_p6_a_field_of_the_wrong_kind_is_refused_by_name(
    field: str, value: Any, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    answer = chat(gateway, **{field: value})
    assert answer.status == 400
    assert (answer.error["type"], answer.error["param"]) == ("invalid_request_error", field)
    assert provider.requests == []


def test_p6_a_whole_float_is_an_integer(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    assert chat(gateway, max_tokens=5.0, seed=-3.0).status == 200
    sent = provider.requests[-1].body
    assert (sent["seed"], type(sent["seed"])) == (-3, int)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"hi"', b"5", b"{}", b"{'a': 1}"])
def test_a_body_that_is_not_a_request_is_refused(body: bytes, gateway: GatewayProcess) -> None:
    assert_refused(send(gateway, body))


def test_the_content_type_and_accept_of_a_request_do_not_matter(gateway: GatewayProcess) -> None:
    for headers in ({"Content-Type": "text/plain"}, {"Accept": "text/event-stream"}, {"Accept": "text/html"}):
        answer = chat(gateway, headers=headers)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")


def test_unknown_fields_and_nulls_are_ignored(gateway: GatewayProcess) -> None:
    names = ("temperature", "stop", "tools", "n", "stream", "response_format", "stream_options", "max_tokens")
    assert chat(gateway, **dict.fromkeys(names), future={"a": 1}).status == 200


def assert_refused(answer: Answer, code: str | None = None) -> None:
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert code in (None, answer.error["code"])


# --- P7-P11, P18: HTTP ---


def test_p7_a_content_length_over_the_limit_is_answered_before_the_body(hasty: GatewayProcess) -> None:
    with Connection(hasty) as connection:
        connection.send(request_bytes(headers={"Content-Length": "100001"}))
        answer = connection.read()
        assert (answer.status, answer.error["code"]) == (413, "payload_too_large")
        # What the client sends all the same is no part of its next request.
        connection.send(
            request_bytes(chat_body("smuggled")).ljust(100_001) + request_bytes(chat_body("next"))
        )
        assert connection.read().text == "echo: next"


@pytest.mark.parametrize("size", [100_000, 100_001, 300_000])
def test_p7_a_chunked_body_is_read_whole_or_refused(
    size: int, hasty: GatewayProcess, provider: ScriptedProvider
) -> None:
    body = json.dumps(chat_body("hi")).encode()
    body += b" " * (size - len(body))
    with Connection(hasty) as connection:
        connection.send(chunked_head())
        for start in range(0, size, 5_000):
            piece = body[start : start + 5_000]
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        answer = connection.send(b"0\r\n\r\n").read()
    if size <= 100_000:
        assert answer.text == "echo: hi"
    else:
        assert (answer.status, answer.error["code"]) == (413, "payload_too_large")
        assert provider.requests == []


def chunked_head() -> bytes:
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    ).encode()


def test_p7_the_limit_is_20_mebibytes_unless_configured(gateway: GatewayProcess) -> None:
    body = json.dumps(chat_body("hi")).encode()
    assert send(gateway, body + b" " * (2_000_000 - len(body))).text == "echo: hi"
    with Connection(gateway) as connection:
        connection.send(request_bytes(headers={"Content-Length": str(20 * 2**20 + 1)}))
        assert connection.read().status == 413


def test_a_body_that_does_not_arrive_is_a_408(hasty: GatewayProcess) -> None:
    with Connection(hasty) as connection:
        connection.send(request_bytes(b'{"messages":', headers={"Content-Length": "1000"}))
        answer = connection.read()
    assert (answer.status, answer.error["type"]) == (408, "invalid_request_error")


def test_a_body_shorter_than_announced_starts_nothing(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    with Connection(gateway) as connection:
        connection.send(request_bytes(chat_body(), headers={"Content-Length": "1000"}))
    assert chat(gateway).status == 200
    assert len(provider.requests) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_p8_another_method_is_a_405_in_json_that_names_the_right_one(
    method: str, gateway: GatewayProcess
) -> None:
    answer = send(gateway, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.headers["content-type"] == "application/json"
    if method != "HEAD":
        assert answer.error["code"] == "method_not_allowed"


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "DELETE"])
def test_p8_models_and_probes_are_only_read(method: str, gateway: GatewayProcess) -> None:
    for path in ("/v1/models", "/v1/models/openclaw", "/healthz", "/readyz"):
        answer = send(gateway, method=method, path=path)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        assert answer.error["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    [
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat//completions",
        "/v1/chat%2Fcompletions",
        "/v1/chat%252Fcompletions",
        "/v1/chat/completion%73",
        "/V1/chat/completions",
        "/v1/Chat/Completions",
        "/v1/chat/completions/x",
        "/v1",
        "/v1/",
        "/v1/responses",
        "/api//sessions",
        "/",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_p9_another_spelling_of_a_path_is_another_path(
    path: str, method: str, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    answer = send(gateway, chat_body(), path=path, method=method)
    assert answer.status == 404
    assert answer.error["type"] == "invalid_request_error"
    assert provider.requests == []


def test_p9_a_query_string_does_not_change_the_path(gateway: GatewayProcess) -> None:
    assert send(gateway, chat_body(), path=f"{PATH}?api-version=1").text == "echo: hi"


@pytest.mark.parametrize("path", ["openclaw%2Fbeta", "openclaw/beta", "openclaw:beta", "openclaw%3Abeta"])
def test_a_model_is_found_however_its_name_is_encoded(path: str, gateway: GatewayProcess) -> None:
    answer = send(gateway, method="GET", path=f"/v1/models/{path}")
    assert (answer.status, answer.json["object"]) == (200, "model")


@pytest.mark.parametrize("stream", [False, True])
def test_p10_connection_close_closes_at_once(stream: bool, gateway: GatewayProcess) -> None:
    with Connection(gateway) as connection:
        connection.send(request_bytes(chat_body(stream=stream), headers={"Connection": "close"}))
        answer = connection.read()
        done = time.monotonic()
        assert connection.at_end()
    assert time.monotonic() - done < 0.5
    assert answer.headers["connection"].lower() == "close"


@pytest.mark.parametrize("stream", [False, True])
def test_a_connection_serves_one_request_after_another(stream: bool, gateway: GatewayProcess) -> None:
    with Connection(gateway) as connection:
        for text in ("one", "two", "three"):
            connection.send(request_bytes(chat_body(text, stream=stream)))
            assert connection.read().text == f"echo: {text}"


@pytest.mark.parametrize("stream", [False, True])
def test_an_http_1_0_client_gets_no_chunked_coding(stream: bool, gateway: GatewayProcess) -> None:
    with Connection(gateway) as connection:
        answer = connection.send(request_bytes(chat_body(stream=stream), version="HTTP/1.0")).read()
    assert "transfer-encoding" not in answer.headers
    assert answer.text == "echo: hi"


def test_p11_a_client_that_waits_for_100_continue_is_told_to_go_on(gateway: GatewayProcess) -> None:
    request = request_bytes(chat_body(), headers={"Expect": "100-continue"})
    head, _, body = request.partition(b"\r\n\r\n")
    with Connection(gateway) as connection:
        connection.send(head + b"\r\n\r\n")
        assert connection.read_head()[1] == 100
        assert connection.send(body).read().text == "echo: hi"


def test_content_length_beside_transfer_encoding_is_answered_once_and_closed(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    smuggled = request_bytes(chat_body("smuggled"))
    head = chunked_head().replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n")
    with Connection(gateway) as connection:
        assert connection.send(head + b"0\r\n\r\n" + smuggled).read_head()[1] == 400
        rest = connection.read_to_end()
    assert b"HTTP/1" not in rest
    assert provider.requests == []


@pytest.mark.parametrize("second", [TOKEN, "wrong"])
def test_p18_two_authorization_headers_are_refused(second: str, gateway: GatewayProcess) -> None:
    twice = f"Bearer {TOKEN}\r\nAuthorization: Bearer {second}"
    assert send(gateway, chat_body(), headers={"Authorization": twice}).status == 401
    assert chat(gateway).status == 200


@pytest.mark.parametrize("header", ["bEaReR {}", "bearer   {}  ", "BEARER {}"])
def test_the_scheme_is_written_in_any_case_and_the_secret_is_trimmed(
    header: str, gateway: GatewayProcess
) -> None:
    assert send(gateway, chat_body(), headers={"Authorization": header.format(TOKEN)}).status == 200


@pytest.mark.parametrize(
    "headers", [{"x-api-key": TOKEN}, {"x-openclaw-token": TOKEN}, {"Authorization": TOKEN}]
)
def test_a_secret_anywhere_else_does_not_count(headers: dict[str, str], gateway: GatewayProcess) -> None:
    answer = send(gateway, chat_body(stream=True), token=None, headers=headers, path=f"{PATH}?token={TOKEN}")
    assert (answer.status, answer.error["type"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


# --- P14, P16, P17, P19, P20: the server ---


def test_p14_the_worker_is_geventd(gateway: GatewayProcess) -> None:
    assert "Using worker: gevent" in gateway.log


def test_p16_there_is_one_worker_whatever_the_platform_wishes(strict: GatewayProcess) -> None:
    assert strict.worker_pid != strict.pid


def test_p17_json_is_compact_and_in_utf_8(gateway: GatewayProcess) -> None:
    for stream in (False, True):
        body = chat(gateway, "grüße 😀", stream=stream).body
        assert "grüße 😀".encode() in body if not stream else stream_text(body) == "echo: grüße 😀"
        assert b"\\u" not in body
        assert b'": ' not in body


def test_p19_many_runs_wait_for_their_models_at_the_same_time(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    gate = threading.Event()
    provider.script(*[Reply("done", gate=gate)] * 40)
    with ThreadPoolExecutor(40) as pool:
        answers = [pool.submit(chat, gateway, stream=bool(number % 2)) for number in range(40)]
        together = provider.wait_for_requests(40, 10)
        gate.set()
        assert {answer.result().text for answer in answers} == {"done"}
    assert together
    assert provider.max_active == 40


@pytest.mark.parametrize(
    "fields", [{"temperature": 9}, {"model": "openclaw:nobody"}, {"messages": []}, {"stream_options": 5}]
)
def test_p20_a_bad_request_for_a_stream_still_gets_its_status(
    fields: dict[str, Any], gateway: GatewayProcess
) -> None:
    answer = chat(gateway, **({"stream": True} | fields))
    assert answer.status in (400, 404)
    assert answer.error["message"]


# --- probes and headers ---


@pytest.mark.parametrize("path", ["/healthz", "/health", "/readyz", "/ready"])
def test_probes_need_no_secret(path: str, gateway: GatewayProcess) -> None:
    answer = send(gateway, method="GET", path=path, token=None)
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.json in ({"ok": True, "status": "live"}, {"ready": True})
    head = send(gateway, method="HEAD", path=path, token=None)
    assert (head.status, head.headers["content-length"]) == (200, answer.headers["content-length"])


def test_no_answer_carries_the_secret_a_traceback_or_a_path_of_the_machine(
    gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    provider.script(Status(401, {"error": {"message": f"bad key sk-scripted for {TOKEN}"}}))
    answers = [
        chat(gateway),
        chat(gateway, model="openclaw:nobody"),
        send(gateway, b"{"),
        send(gateway, path="/v1/x"),
    ]
    for answer in answers:
        assert answer.status >= 400
        for secret in (TOKEN, "sk-scripted", "Traceback", str(gateway.state_dir), ".py"):
            assert secret.encode() not in answer.body


def test_wrong_secrets_from_this_machine_are_answered_ever_later(gateway: GatewayProcess) -> None:
    wait_until(lambda: chat(gateway).status == 200)
    times = []
    for _ in range(2):
        start = time.monotonic()
        assert chat_with(gateway, "wrong").status == 401
        times.append(time.monotonic() - start)
    assert chat(gateway).status == 200
    assert times[0] >= 0.25
    assert times[1] >= 0.5


# Whoever connects and says nothing.


def test_only_who_has_asked_before_keeps_a_silent_connection(gateway: GatewayProcess) -> None:
    ready = request_bytes(method="GET", path="/readyz")
    with Connection(gateway) as silent, Connection(gateway) as half, Connection(gateway) as kept:
        half.send(ready[:20])
        assert kept.send(ready).read().status == 200
        assert silent.at_end()
        assert half.at_end()
        time.sleep(1)  # by now it has been silent for longer than they were
        assert kept.send(ready).read().status == 200
