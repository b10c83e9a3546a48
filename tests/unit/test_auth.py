"""The guard: secrets, the limiter, proxies, and who may do without a secret."""

from __future__ import annotations

import time
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.channels.auth import Guard, bearer_of
from app.channels.client import client_address
from app.channels.limiter import MAX_CLIENTS, FailureLimiter
from app.config import AuthConfig, RateLimitConfig
from app.errors import GatewayError, TooManyFailures, Unauthorized

SECRET = "s3cret-token"
OUTSIDE = "203.0.113.7"
LOCAL = "127.0.0.1"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(
    clock: Clock, *, proxies: tuple[str, ...] = (), limits: Mapping[str, Any] = {}, **auth: Any
) -> Guard:
    config = AuthConfig.model_validate({"token": SECRET, "rateLimit": {"maxAttempts": 3, **limits}} | auth)
    return Guard(config, [ip_network(proxy) for proxy in proxies], monotonic=clock)


def environ(bearer: str | None = None, peer: str = OUTSIDE, **headers: str) -> dict[str, str]:
    wsgi = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    if bearer is not None:
        wsgi["HTTP_AUTHORIZATION"] = f"Bearer {bearer}"
    return {"REMOTE_ADDR": peer} | wsgi


def outcome(guard: Guard, env: dict[str, str]) -> int:
    """200, or the status of the error."""
    try:
        guard.check(env)
    except GatewayError as error:
        return error.status
    return 200


# the bearer


@pytest.mark.parametrize(
    ("header", "bearer"),
    [
        ("Bearer tok", b"tok"),
        ("bEaReR    tok  ", b"tok"),
        ("Bearer a b", b"a b"),
        ("Bearer \xe9", b"\xe9"),
        ("Bearer \u20ac", b"?"),
        ("Bearer ", None),
        ("Bearer", None),
        ("tok", None),
        ("Basic dG9r", None),
        ("Bearer\ttok", None),
        ("", None),
    ],
)
def test_the_bearer_is_what_follows_the_scheme(header: str, bearer: bytes | None) -> None:
    assert bearer_of({"HTTP_AUTHORIZATION": header}) == bearer


@pytest.mark.parametrize(
    "fields", [{"mode": "token", "token": SECRET}, {"mode": "password", "password": SECRET}]
)
def test_the_right_secret_gets_in_and_no_other(clock: Clock, fields: dict[str, str]) -> None:
    guard = Guard(AuthConfig.model_validate(fields), monotonic=clock)

    assert outcome(guard, environ(SECRET)) == 200
    for wrong in (None, "", "wrong", SECRET + "x", SECRET[:-1], SECRET.upper(), f"{SECRET},{SECRET}"):
        assert outcome(guard, environ(wrong)) == 401, wrong


@pytest.mark.parametrize("bearer", ["\xe9", "\xff" * 50, "\u20ac", "\x00"])
def test_a_bearer_that_is_not_ascii_is_just_wrong(clock: Clock, bearer: str) -> None:
    assert outcome(make(clock), environ(bearer)) == 401


def test_a_secret_may_be_any_text(clock: Clock) -> None:
    guard = make(clock, token="pässwörd-€")

    assert outcome(guard, environ("pässwörd-€".encode().decode("latin-1"))) == 200
    assert outcome(guard, environ("password-?")) == 401


@given(st.text(st.characters(max_codepoint=255), max_size=30))
def test_no_header_gets_in_or_breaks_the_guard(header: str) -> None:
    guard = make(Clock())

    assert outcome(guard, {"REMOTE_ADDR": OUTSIDE, "HTTP_AUTHORIZATION": header}) == 401


# the limiter


def test_the_try_after_too_many_wrong_ones_is_locked_out(clock: Clock) -> None:
    guard = make(clock)

    assert [outcome(guard, environ("wrong")) for _ in range(5)] == [401, 401, 401, 429, 429]


def test_while_locked_neither_the_right_secret_nor_none_gets_another_answer(clock: Clock) -> None:
    guard = make(clock)
    for _ in range(3):
        outcome(guard, environ("wrong"))

    assert outcome(guard, environ(SECRET)) == 429
    assert outcome(guard, environ()) == 429


def test_the_lock_says_when_it_ends_and_then_ends(clock: Clock) -> None:
    guard = make(clock)
    for _ in range(3):
        outcome(guard, environ("wrong"))

    clock.now += 100.5
    with pytest.raises(TooManyFailures) as caught:
        guard.check(environ(SECRET))
    assert caught.value.headers == {"Retry-After": "200"}

    clock.now += 199.4
    assert outcome(guard, environ(SECRET)) == 429
    clock.now += 0.2
    assert outcome(guard, environ(SECRET)) == 200


def test_a_missing_secret_does_not_count(clock: Clock) -> None:
    guard = make(clock)

    assert {outcome(guard, environ()) for _ in range(20)} == {401}
    assert outcome(guard, environ(SECRET)) == 200


def test_the_right_secret_clears_the_history(clock: Clock) -> None:
    guard = make(clock)

    answers = [outcome(guard, environ(secret)) for secret in ("w", "w", SECRET, "w", "w", SECRET)]

    assert answers == [401, 401, 200, 401, 401, 200]


def test_failures_outside_the_window_are_forgotten(clock: Clock) -> None:
    guard = make(clock)
    for _ in range(10):
        assert outcome(guard, environ("wrong")) == 401
        clock.now += 30.1


def test_one_client_does_not_lock_out_another(clock: Clock) -> None:
    guard = make(clock)
    for _ in range(4):
        outcome(guard, environ("wrong"))

    assert outcome(guard, environ(SECRET, peer="203.0.113.8")) == 200


def test_an_ipv4_address_written_as_ipv6_is_the_same_client(clock: Clock) -> None:
    guard = make(clock)
    for _ in range(3):
        outcome(guard, environ("wrong", peer=f"::ffff:{OUTSIDE}"))

    assert outcome(guard, environ(SECRET, peer=OUTSIDE)) == 429


def test_all_addresses_of_an_ipv6_network_are_one_client(clock: Clock) -> None:
    guard = make(clock)
    for number in range(3):
        outcome(guard, environ("wrong", peer=f"2001:db8:0:1:{number}::7"))

    assert outcome(guard, environ(SECRET, peer="2001:db8:0:1:ffff::1")) == 429
    assert outcome(guard, environ(SECRET, peer="2001:db8:0:2::7")) == 200


def test_an_ipv6_address_may_name_its_interface(clock: Clock) -> None:
    guard = make(clock)

    answers = [outcome(guard, environ("wrong", peer=f"fe80::{number}%eth0")) for number in range(1, 5)]

    assert answers == [401, 401, 401, 429]


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_slowed_down_but_never_locked_out(clock: Clock, peer: str) -> None:
    guard = make(clock, limits={"maxAttempts": 1})
    before = time.monotonic()

    assert outcome(guard, environ("wrong", peer=peer)) == 401

    assert time.monotonic() - before >= 0.25
    assert outcome(guard, environ(SECRET, peer=peer)) == 200


def test_each_wrong_try_on_this_machine_takes_longer_until_one_is_right(clock: Clock) -> None:
    guard = make(clock)

    def seconds() -> float:
        before = time.monotonic()
        assert outcome(guard, environ("wrong", peer=LOCAL)) == 401
        return time.monotonic() - before

    first, second = seconds(), seconds()
    guard.check(environ(SECRET, peer=LOCAL))
    third = seconds()

    assert 0.25 <= first < 0.5 <= second < 1.0
    assert 0.25 <= third < 0.5


def test_without_the_exemption_this_machine_is_locked_out_like_any_other(clock: Clock) -> None:
    guard = make(clock, limits={"exemptLoopback": False})

    answers = [outcome(guard, environ("wrong", peer=LOCAL)) for _ in range(4)]

    assert answers == [401, 401, 401, 429]


def test_what_a_proxy_on_this_machine_passes_on_is_not_exempt(clock: Clock) -> None:
    guard = make(clock)

    answers = [outcome(guard, environ("wrong", LOCAL, x_forwarded_for="9.9.9.9")) for _ in range(4)]

    assert answers == [401, 401, 401, 429]
    assert outcome(guard, environ(SECRET, LOCAL)) == 200


def test_the_limiter_remembers_a_bounded_number_of_clients(clock: Clock) -> None:
    limiter = FailureLimiter(RateLimitConfig(max_attempts=2), clock)
    limiter.record("locked", may_lock=True)
    limiter.record("locked", may_lock=True)

    for number in range(MAX_CLIENTS + 500):
        limiter.record(f"client {number}", may_lock=True)

    assert len(limiter._clients) <= MAX_CLIENTS
    with pytest.raises(TooManyFailures):
        limiter.check("locked")


def test_when_everybody_is_locked_new_clients_are_refused_until_the_locks_end(clock: Clock) -> None:
    limiter = FailureLimiter(RateLimitConfig(max_attempts=1), clock)
    for number in range(MAX_CLIENTS):
        limiter.record(f"client {number}", may_lock=True)

    with pytest.raises(TooManyFailures):
        limiter.record("one more", may_lock=True)

    clock.now += 301
    assert limiter.record("one more", may_lock=True) == 1


# proxies

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("192.0.2.1")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", None, "203.0.113.7"),
        ("203.0.113.7", "9.9.9.9", "203.0.113.7"),
        ("10.1.2.3", None, "10.1.2.3"),
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "9.9.9.9", "9.9.9.9"),
        ("10.1.2.3", "6.6.6.6, 9.9.9.9", "9.9.9.9"),
        ("10.1.2.3", "6.6.6.6, 9.9.9.9, 10.0.0.9, 192.0.2.1", "9.9.9.9"),
        ("10.1.2.3", "10.0.0.1, 10.0.0.2", "10.1.2.3"),
        ("10.1.2.3", "9.9.9.9, garbage", "10.1.2.3"),
        ("10.1.2.3", "127.0.0.1", "127.0.0.1"),
        ("10.1.2.3", "::ffff:9.9.9.9", "9.9.9.9"),
        ("::ffff:10.1.2.3", "9.9.9.9", "9.9.9.9"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("192.0.2.1", "9.9.9.9", "9.9.9.9"),
        ("192.0.2.2", "9.9.9.9", "192.0.2.2"),
        ("", "9.9.9.9", "None"),
    ],
)
def test_the_client_is_the_rightmost_address_no_proxy_of_ours_has(
    peer: str, forwarded: str | None, client: str
) -> None:
    env = environ(peer=peer) if forwarded is None else environ(peer=peer, x_forwarded_for=forwarded)

    assert str(client_address(env, TRUSTED)) == client


def test_a_trusted_proxys_clients_are_counted_apart(clock: Clock) -> None:
    guard = make(clock, proxies=("10.0.0.0/8",))
    for _ in range(3):
        outcome(guard, environ("wrong", "10.0.0.1", x_forwarded_for="6.6.6.6"))

    assert outcome(guard, environ(SECRET, "10.0.0.1", x_forwarded_for="6.6.6.6")) == 429
    assert outcome(guard, environ(SECRET, "10.0.0.2", x_forwarded_for="9.9.9.9")) == 200


def test_nobody_escapes_the_limiter_by_inventing_addresses(clock: Clock) -> None:
    guard = make(clock)

    answers = [outcome(guard, environ("wrong", x_forwarded_for=f"9.9.9.{number}")) for number in range(4)]

    assert answers == [401, 401, 401, 429]


# no secret


@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        (LOCAL, {}, 200),
        ("::1", {}, 200),
        (LOCAL, {"authorization": "Bearer whatever"}, 200),
        (LOCAL, {"origin": "http://localhost:3000"}, 200),
        (LOCAL, {"origin": "http://127.0.0.1"}, 200),
        (LOCAL, {"origin": "http://[::1]:5173"}, 200),
        (LOCAL, {"origin": "https://evil.example"}, 401),
        (LOCAL, {"origin": "http://localhost.evil.example"}, 401),
        (LOCAL, {"origin": "http://localhost@evil.example"}, 401),
        (LOCAL, {"origin": "null"}, 401),
        (LOCAL, {"origin": "http://[broken"}, 401),
        (LOCAL, {"origin": ""}, 401),
        (LOCAL, {"x_forwarded_for": "9.9.9.9"}, 401),
        (LOCAL, {"forwarded": "for=9.9.9.9"}, 401),
        (OUTSIDE, {}, 401),
        (OUTSIDE, {"origin": "http://localhost"}, 401),
    ],
)
def test_without_a_secret_only_this_machine_gets_in(
    clock: Clock, peer: str, headers: dict[str, str], status: int
) -> None:
    assert outcome(make(clock, mode="none"), environ(peer=peer, **headers)) == status


def test_an_operator_may_open_the_gateway_but_not_to_other_peoples_pages(clock: Clock) -> None:
    guard = make(clock, mode="none", allowOpenNetwork=True)

    assert outcome(guard, environ(peer=OUTSIDE)) == 200
    assert outcome(guard, environ(peer=OUTSIDE, origin="https://evil.example")) == 401


def test_a_refusal_does_not_say_what_was_wrong(clock: Clock) -> None:
    guard = make(clock)

    for env in (environ(), environ("wrong")):
        with pytest.raises(Unauthorized) as caught:
            guard.check(env)
        assert (str(caught.value), caught.value.headers) == ("Unauthorized", {"WWW-Authenticate": "Bearer"})
