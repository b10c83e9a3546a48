"""Callers whom a host names: their sessions are theirs, whatever they call them."""

from __future__ import annotations

import pytest
from flask import Flask, Request
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from app import Caller
from app.channels.caller import OWNER
from app.channels.cors import require_same_site
from app.errors import Forbidden, InvalidRequest
from app.sessions.keys import (
    ARCHIVED,
    conversation_key,
    fresh_key,
    is_conversation_key,
    is_response_key,
    name_of,
    namespace_of,
)

names = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=20) | st.sampled_from(
    ["ann", "Ann", "a:b", "caller:ann", "%61nn", "a%3ab", "ann:x", "_", "%", "é"]
)
rests = st.text(max_size=40) | st.sampled_from(
    ["main", "caller:ann:main", "caller:bob:x", "agent:main:caller:ann:main", ":", "openai-user:ann"]
)


@given(one=names, other=names, rest=rests)
def test_no_caller_can_name_a_session_of_another(one: str, other: str, rest: str) -> None:
    key = Caller(one).key(f"agent:main:{rest}")

    assert Caller(one).owns(key)
    assert name_of(namespace_of(key)) == one
    assert Caller(one).owns(f"{ARCHIVED}1f:{key}")
    assert Caller(other).owns(key) == (one == other)
    assert Caller(one).key(key) == key, "what they are shown, they may send"
    assert Caller(other).owns(key.lower()) == (one == other), "some keys are made lower"


@given(one=names, other=names, name=st.text(max_size=20), another=st.text(max_size=20))
def test_no_caller_can_say_the_private_name_of_another(one: str, other: str, name: str, another: str) -> None:
    if one != other:
        assert Caller(one).private(name) != Caller(other).private(another)


@given(rest=rests)
def test_the_owner_is_confined_to_nothing_and_callers_own_nothing_of_theirs(rest: str) -> None:
    key = f"agent:main:{rest}"

    assert OWNER.key(key) == key
    assert OWNER.owns(key)
    assert OWNER.private(key) == key
    assert not Caller("zoe").owns(key) or rest.startswith("caller:zoe:")


def test_who_shares_a_namespace_shares_its_sessions() -> None:
    one, other = Caller("ann", namespace="team"), Caller("bob", namespace="team")

    assert other.owns(one.key("agent:main:plan"))
    assert not Caller("ann").owns(one.key("agent:main:plan"))


def test_sessions_of_responses_are_known_as_such_in_a_namespace_too() -> None:
    caller = Caller("ann")

    assert is_response_key(caller.key(fresh_key("main", "1", "openresponses")))
    assert is_conversation_key(caller.key(conversation_key("main", "c1")))
    assert not is_response_key(caller.key("agent:main:x:openresponses:1"))


@pytest.mark.parametrize(
    "fields",
    [{"id": ""}, {"id": "x" * 129}, {"id": "ann", "scopes": frozenset({"operator.reads"})}],
)
def test_a_caller_that_cannot_be_one_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"caller needs|no scope"):
        Caller(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (["operator.read"], ["operator.read"]),
        (["operator.write"], ["operator.read", "operator.write"]),
        ([], []),
        (["operator.admin"], ["operator.read", "operator.write", "operator.approvals", "operator.admin"]),
    ],
)
def test_write_includes_read_and_admin_everything(scopes: list[str], allowed: list[str]) -> None:
    caller = Caller("ann", scopes=frozenset(scopes))

    for scope in ("operator.read", "operator.write", "operator.approvals", "operator.admin"):
        if scope in allowed:
            caller.require(scope)  # type: ignore[arg-type]
        else:
            with pytest.raises(Forbidden, match=scope):
                caller.require(scope)  # type: ignore[arg-type]


def asked(method: str = "POST", body: bytes = b"{}", **headers: str) -> Request:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    builder = EnvironBuilder("/v1/x", "https://shop.example", method=method, data=body, headers=sent)
    return Flask("host").request_class(builder.get_environ())


JSON = "application/json"


@pytest.mark.parametrize(
    "request_",
    [
        asked("GET", Origin="https://evil.example"),  # whose page cannot read the answer
        asked(Content_Type=JSON),
        asked(Content_Type="application/json; charset=utf-8", Origin="https://shop.example"),
        asked(Content_Type=JSON, Origin="HTTPS://SHOP.example"),
        asked(Content_Type=JSON, Origin="https://friend.example"),
        asked(Content_Type=JSON, Origin="https://other-name.example", Sec_Fetch_Site="same-origin"),
        asked(body=b"", Origin="https://shop.example"),
        asked("DELETE", b""),
    ],
)
def test_pages_of_the_host_and_programs_may_send(request_: Request) -> None:
    require_same_site(request_, {"https://friend.example"})


@pytest.mark.parametrize(
    "request_",
    [
        asked(Content_Type=JSON, Origin="https://evil.example"),
        asked(Content_Type=JSON, Origin="https://shop.example.evil.example"),
        asked(Content_Type=JSON, Origin="null"),
        asked(Content_Type=JSON, Origin="https://[evil"),
        asked(Content_Type=JSON, Sec_Fetch_Site="cross-site"),
        asked(Content_Type=JSON, Origin="https://shop.example", Sec_Fetch_Site="same-site"),
        asked("DELETE", b"", Origin="https://evil.example"),
        asked(body=b"", Origin="https://evil.example"),
    ],
)
def test_pages_of_others_may_not(request_: Request) -> None:
    with pytest.raises(Forbidden, match="another site"):
        require_same_site(request_, {"https://friend.example"})


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_what_a_form_could_have_sent_is_not_taken(kind: str) -> None:
    with pytest.raises(InvalidRequest, match="application/json") as refused:
        require_same_site(asked(Content_Type=kind), ())
    assert refused.value.status == 415
