import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.messages import AssistantMessage, ImagePart, TextPart, Thoughts, ToolCall, ToolMessage, UserMessage
from app.sessions.entries import UnreadableEntry, decode, encode

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
parts = st.builds(TextPart, st.text()) | st.builds(ImagePart, st.text(), st.text(), st.none() | st.text())
calls = st.builds(ToolCall, st.text(), st.text(), st.text())
items = st.dictionaries(st.text(), json_values, max_size=3)
thoughts = st.builds(Thoughts, st.text(), st.lists(items, max_size=3).map(tuple))
messages = st.one_of(
    st.builds(UserMessage, st.lists(parts).map(tuple)),
    st.builds(AssistantMessage, st.text(), st.lists(calls).map(tuple), st.none() | thoughts),
    st.builds(ToolMessage, st.text(), st.text(), st.text(), st.booleans()),
)
near_messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system"]) | json_values},
    optional=dict.fromkeys(("content", "tool_calls", "thoughts", "call_id", "name", "is_error"), json_values),
)


@given(messages)
def test_every_message_comes_back_as_it_was(message):
    assert decode(encode(message)) == message


@given(st.text() | near_messages.map(json.dumps) | json_values.map(json.dumps))
def test_any_text_is_a_message_or_unreadable(text):
    try:
        message = decode(text)
    except UnreadableEntry:
        return

    assert decode(encode(message)) == message


def test_the_stored_shape_of_each_role():
    user = UserMessage((TextPart("hi"), ImagePart("image/png", "aGk=")))
    assistant = AssistantMessage("ok", (ToolCall("c1", "read", '{"path":"a"}'),))
    tool = ToolMessage("c1", "read", "text", is_error=True)

    assert [json.loads(encode(message)) for message in (user, assistant, tool)] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "hi"},
                {"type": "image", "mime": "image/png", "data": "aGk="},
            ],
        },
        {
            "role": "assistant",
            "content": "ok",
            "tool_calls": [{"id": "c1", "name": "read", "arguments": '{"path":"a"}'}],
        },
        {"role": "tool", "call_id": "c1", "name": "read", "content": "text", "is_error": True},
    ]


def test_thoughts_are_stored_with_their_message_as_they_came():
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "x\u2603"}
    message = AssistantMessage("ok", (), Thoughts("anthropic/claude", (thought,)))

    assert json.loads(encode(message)) == {
        "role": "assistant",
        "content": "ok",
        "tool_calls": [],
        "thoughts": {"ref": "anthropic/claude", "items": [thought]},
    }
    assert decode(encode(message)) == message


def test_a_message_stored_before_there_were_thoughts_has_none():
    assert decode('{"role":"assistant","content":"ok","tool_calls":[]}') == AssistantMessage("ok")


def test_a_lone_surrogate_is_replaced_rather_than_refused():
    assert decode(encode(UserMessage.of("a\ud800b"))) == UserMessage.of("a\ufffdb")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[]", '{"role":"user"}', '{"role":"user","content":"x"}', "\ud800"),
        '{"role":"assistant","content":"","tool_calls":[],"thoughts":null}',
        '{"role":"assistant","content":"","tool_calls":[],"thoughts":{"ref":"a/b","items":["x"]}}',
    ],
)
def test_text_that_no_message_was_encoded_to_is_unreadable(text):
    with pytest.raises(UnreadableEntry):
        decode(text)
