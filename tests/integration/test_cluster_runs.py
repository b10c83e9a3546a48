"""What several processes do together: lanes, cancelling, coming back to a run, taking over what is left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from app.cancel import CancelReason, CancelToken
from app.config import load_config
from app.errors import (
    ConfigError,
    EventsLost,
    GatewayDraining,
    GatewayError,
    InvalidRequest,
    SessionBusy,
    StoreError,
)
from app.events import TERMINAL, RunCancelled, RunCompleted, RunEvent, RunFailed, RunStarted, TextDelta
from app.runs.elsewhere import RemoteJournaledRun
from app.runs.journal import JournaledRun
from app.runs.outcomes import STARTED, UNDER_WAY, Outcomes
from app.runs.remote import RemoteRun
from app.runs.run import Listener
from app.runtime import Runtime
from app.runtime.state import Place, open_state, place_of
from app.tools.registry import ToolContext
from tests.engines import postgres_server
from tests.integration.cluster import members
from tests.integration.runs import answer, ask, read, request, transcript, wait_until
from tests.redis_engine import RedisEngine
from tests.scripted_provider import Hang, Reply, ScriptedProvider

LEASE = 1.5

Member = Callable[..., Runtime]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisEngine]:
    with RedisEngine() as engine:
        yield engine


@pytest.fixture
def database() -> Iterator[str]:
    with postgres_server().database() as url:
        yield url


@pytest.fixture
def member(model: ScriptedProvider, tmp_path: Path, database: str, redis: RedisEngine) -> Iterator[Member]:
    redis.command("FLUSHALL")
    with members(tmp_path, model.base_url, database, redis.url, lease=LEASE) as member:
        yield member


@pytest.fixture
def two(member: Member) -> tuple[Runtime, Runtime]:
    return member(), member()


def sayings(runtime: Runtime, key: str) -> list[str]:
    return [text for _, text, _ in transcript(runtime, key)]


# lanes


def test_turns_of_one_session_come_one_after_the_other_whoever_is_asked(
    two: tuple[Runtime, Runtime], model: ScriptedProvider
) -> None:
    runs = [ask(runtime, f"q{i}{name}") for i in range(5) for name, runtime in zip("ab", two, strict=True)]

    for run in runs:
        answer(run)

    asked = [f"q{i}{name}" for i in range(5) for name in "ab"]
    assert sayings(two[0], "chat") == [text for q in asked for text in (q, f"echo: {q}")]
    assert model.max_active == 1
    assert all(len(runtime.state.lanes or ()) == 0 for runtime in two)


def test_different_sessions_do_not_wait_for_each_other(
    two: tuple[Runtime, Runtime], model: ScriptedProvider
) -> None:
    model.on("slow", Hang())
    slow = ask(two[0], "slow", key="one")
    wait_until(lambda: model.active == 1)

    assert answer(ask(two[1], "quick", key="two")).text == "echo: quick"
    slow.cancel(CancelReason.USER)
    read(slow)


def test_who_is_still_coming_in_when_the_gateway_leaves_is_sent_elsewhere(
    member: Member, database: str
) -> None:
    leaving = member()
    outcome: list[BaseException] = []

    def come() -> None:
        try:
            ask(leaving, "hi", key="agent:main:busy")
        except GatewayError as error:
            outcome.append(error)

    with psycopg.connect(database) as elsewhere:
        lock = "pg_advisory_xact_lock(hashtextextended('openclaw:agent:main:busy', 0))"
        elsewhere.execute(f"SELECT {lock}")
        coming = threading.Thread(target=come)
        coming.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_until(lambda: elsewhere.execute(waiting).fetchone() == (1,))
        leaving.runs.drain(0)
        assert leaving.state.worker is not None
        leaving.state.worker.close()
    coming.join()

    assert [type(error) for error in outcome] == [GatewayDraining]
    assert answer(ask(member(), "hi", key="agent:main:busy")).text == "echo: hi"


def test_a_session_is_full_for_all_of_them_together(member: Member, model: ScriptedProvider) -> None:
    a, b = member(maxPendingPerSession=2), member(maxPendingPerSession=2)
    model.on("slow", Hang())
    runs = [ask(a, "slow"), ask(b, "next")]

    for runtime in (a, b):
        with pytest.raises(SessionBusy):
            ask(runtime, "one too many")

    for run in runs:
        run.cancel(CancelReason.USER)
        read(run)
    assert answer(ask(a, "now")).text == "echo: now"


def test_whoever_waits_may_be_cancelled_and_holds_nobody_up(
    two: tuple[Runtime, Runtime], model: ScriptedProvider
) -> None:
    a, b = two
    model.on("slow", Hang())
    first, second, third = ask(a, "slow"), ask(b, "second"), ask(a, "third")

    second.cancel(CancelReason.USER)
    assert read(second) == [RunCancelled(CancelReason.USER)]
    first.cancel(CancelReason.USER)
    read(first)

    assert answer(third).text == "echo: third"


def test_the_lanes_go_on_without_a_bell(model: ScriptedProvider, tmp_path: Path, database: str) -> None:
    with RedisEngine() as engine, members(tmp_path, model.base_url, database, engine.url) as member:
        a, b = member(), member()
        model.on("slow", Reply("slowly", delay=0.3))
        first, second = ask(a, "slow"), ask(b, "next")
        engine.kill()

        assert answer(first).text == "slowly"
        assert answer(second).text == "echo: next"


# cancelling


def test_a_run_can_be_stopped_from_elsewhere(two: tuple[Runtime, Runtime], model: ScriptedProvider) -> None:
    a, b = two
    model.on("slow", Hang())
    run = ask(a, "slow")
    wait_until(lambda: model.active == 1)

    assert b.runs.is_live(run.id)
    assert b.runs.cancel(run.id, CancelReason.USER)

    assert read(run)[-1] == RunCancelled(CancelReason.USER)
    assert not b.runs.is_live(run.id)
    assert not b.runs.cancel(run.id, CancelReason.USER)


def test_a_session_can_be_stopped_from_elsewhere(
    two: tuple[Runtime, Runtime], model: ScriptedProvider
) -> None:
    a, b = two
    model.on("slow", Hang())
    run = ask(a, "slow")
    wait_until(lambda: model.active == 1)

    assert b.runs.active(["chat"]) == {"chat": [run.id]}
    assert b.chat.stop("chat") == [run.id]

    assert read(run)[-1] == RunCancelled(CancelReason.USER)
    assert b.runs.active(["chat"]) == {"chat": []}


def test_without_a_bell_a_run_hears_of_its_end_with_its_next_sign_of_life(
    model: ScriptedProvider, tmp_path: Path, database: str
) -> None:
    with (
        RedisEngine() as engine,
        members(tmp_path, model.base_url, database, engine.url, lease=LEASE) as member,
    ):
        a, b = member(), member()
        model.on("slow", Hang())
        run = ask(a, "slow")
        wait_until(lambda: model.active == 1)
        engine.kill()

        assert b.runs.cancel(run.id, CancelReason.USER)

        assert read(run)[-1] == RunCancelled(CancelReason.USER)


# coming back to a run


def start(runtime: Runtime, text: str, **fields: object) -> JournaledRun:
    return runtime.journal.start(request(text, **fields), card={"kind": "test"})


def elsewhere(runtime: Runtime, run_id: str) -> RemoteJournaledRun:
    found = runtime.journal.get(run_id)
    assert isinstance(found, RemoteJournaledRun)
    return found


def rest(reader: object) -> list[RunEvent]:
    events: list[RunEvent] = []

    def over() -> bool:
        events.extend(reader.get(0.2))  # type: ignore[attr-defined]
        return bool(events) and isinstance(events[-1], TERMINAL)

    wait_until(over)
    return events


@pytest.mark.parametrize("ephemeral", [True, False])
def test_a_run_is_read_elsewhere_event_by_event(
    two: tuple[Runtime, Runtime], model: ScriptedProvider, *, ephemeral: bool
) -> None:
    a, b = two
    model.script(Reply("one two three four five", delay=0.05))
    run = start(a, "hi", ephemeral=ephemeral)
    wait_until(lambda: b.journal.get(run.id))
    with elsewhere(b, run.id).read() as reader, run.read() as own:
        assert rest(reader) == rest(own)

    over = elsewhere(b, run.id)
    assert over.ending == run.ending
    assert (over.started_at, over.agent_id, over.card.about) == (run.started_at, "main", {"kind": "test"})


def test_a_reader_goes_on_elsewhere_where_it_left_off(
    two: tuple[Runtime, Runtime], model: ScriptedProvider
) -> None:
    a, b = two
    model.script(Reply("one two three four five"))
    run = start(a, "hi")
    with run.read() as own:
        whole = rest(own)

    for after in range(len(whole)):
        with elsewhere(b, run.id).read(after) as reader:
            assert rest(reader) == whole[after:]
            assert reader.position == len(whole)


def test_what_has_not_been_said_yet_cannot_be_read(
    two: tuple[Runtime, Runtime], model: ScriptedProvider
) -> None:
    a, b = two
    model.script(Hang())
    run = start(a, "hi")
    wait_until(lambda: run.started_at and elsewhere(b, run.id).started_at)

    with pytest.raises(InvalidRequest):
        elsewhere(b, run.id).read(7)
    assert elsewhere(b, run.id).cancel(CancelReason.USER)
    with elsewhere(b, run.id).read() as reader:
        assert rest(reader)[-1] == RunCancelled(CancelReason.USER)


def test_a_run_that_was_deleted_elsewhere_is_gone_everywhere(
    two: tuple[Runtime, Runtime], model: ScriptedProvider
) -> None:
    a, b = two
    run = start(a, "hi")
    wait_until(lambda: run.ending)

    assert b.journal.forget(run.id)

    assert b.journal.get(run.id) is None
    wait_until(lambda: a.journal.get(run.id) is None)
    assert not b.journal.forget(run.id)


@pytest.mark.parametrize("lost", [slice(0, 1), slice(1, 2), slice(None)], ids=["first", "second", "all"])
def test_a_run_of_which_a_part_was_evicted_is_not_told_as_if_it_were_whole(
    two: tuple[Runtime, Runtime], model: ScriptedProvider, redis: RedisEngine, lost: slice
) -> None:
    a, b = two
    model.script(Reply("one two three four five", delay=0.08))
    run = start(a, "hi")
    wait_until(lambda: run.ending)
    with Redis(port=redis.port) as engine:
        log = f"openclaw:log:log:{run.id}"
        wait_until(lambda: any(isinstance(event, RunCompleted) for event in b.journal.heard(run.id)))
        numbers = [number for number, _ in engine.xrange(log)]
        assert len(numbers) > 3
        engine.xdel(log, *numbers[lost])

    try:
        with elsewhere(b, run.id).read() as reader:
            ending = rest(reader)[-1]
    except EventsLost:  # the beginning
        return

    assert isinstance(ending, RunFailed)
    assert isinstance(ending.error, EventsLost)


def test_a_stream_goes_on_after_redis_was_away(
    model: ScriptedProvider, tmp_path: Path, database: str
) -> None:
    with RedisEngine() as engine, members(tmp_path, model.base_url, database, engine.url) as member:
        a, b = member(), member()
        text = " ".join(map(str, range(60)))
        model.script(Reply(text, delay=0.05))
        run = start(a, "hi")
        wait_until(lambda: b.journal.get(run.id))
        with elsewhere(b, run.id).read() as reader:
            engine.restart(after=0.5)
            events = rest(reader)

        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == text
        assert isinstance(events[-1], RunCompleted)


# all events of all runs


def test_events_of_a_run_reach_whoever_listens_elsewhere(
    two: tuple[Runtime, Runtime], model: ScriptedProvider
) -> None:
    a, b = two
    heard: list[RunEvent] = []

    def observe(_: RemoteRun) -> Listener:
        return heard.append

    assert b.state.relay is not None
    b.state.relay.follow(observe)
    b.state.relay.attend(lambda: True)
    wait_until(lambda: a.state.relay and a.state.relay.wanted)
    model.script(Reply("one two three", delay=0.02))

    run = ask(a, "hi")
    own = read(run)
    wait_until(lambda: heard and isinstance(heard[-1], TERMINAL))

    assert isinstance(heard[0], RunStarted)
    assert "".join(e.text for e in heard if isinstance(e, TextDelta)) == "one two three"
    assert heard[-1] == own[-1]


# what is left behind


def outcomes_of(runtime: Runtime) -> Outcomes:
    outcomes = Outcomes(runtime.runs, runtime.store, lambda: 5_000, runtime.state.bus)
    runtime.runs.observe(outcomes.observe)
    runtime.state.resume_with(outcomes.resume)
    return outcomes


def test_what_was_acknowledged_and_not_begun_is_done_by_another_one(
    two: tuple[Runtime, Runtime], model: ScriptedProvider
) -> None:
    a, b = two
    outcomes_of(b)
    model.on("slow", Hang())
    blocking = ask(a, "slow")
    wait_until(lambda: model.active == 1)
    waiting = request("do this")
    outcomes_of(a).start(waiting, lambda: None)

    a.close()

    assert isinstance(read(blocking)[-1], RunFailed)

    def done() -> bool:
        record = b.store.get_run(waiting.run_id)
        return record is not None and record.status == "completed"

    wait_until(done)
    assert sayings(b, "chat")[-2:] == ["do this", "echo: do this"]
    assert [text for text in sayings(b, "chat") if text == "do this"] == ["do this"]


def test_a_run_asked_for_at_two_places_under_one_id_is_begun_once(
    two: tuple[Runtime, Runtime], model: ScriptedProvider
) -> None:
    begun: list[str] = []
    standings: list[object] = []
    both = [outcomes_of(runtime) for runtime in two]
    barrier = threading.Barrier(2)
    wanted = request("once")

    def ask_for_it(outcomes: Outcomes) -> None:
        barrier.wait()
        standings.append(
            outcomes.once(wanted.run_id, lambda: outcomes.start(wanted, lambda: begun.append("x")))
        )

    threads = [threading.Thread(target=ask_for_it, args=(outcomes,)) for outcomes in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert begun == ["x"]
    assert STARTED in standings
    wait_until(lambda: not two[0].runs.is_live(wanted.run_id))
    assert sayings(two[0], "chat") == ["once", "echo: once"]


def test_a_run_under_way_elsewhere_is_said_to_be_so(
    two: tuple[Runtime, Runtime], model: ScriptedProvider
) -> None:
    a, b = two
    first, second = outcomes_of(a), outcomes_of(b)
    model.on("slow", Hang())
    wanted = request("slow")
    first.start(wanted, lambda: None)
    wait_until(lambda: model.active == 1)

    assert second.once(wanted.run_id, lambda: pytest.fail("begun again")) is UNDER_WAY

    b.runs.cancel(wanted.run_id, CancelReason.USER)
    wait_until(lambda: not b.runs.is_live(wanted.run_id))


# what people are asked and told


def wait_for_a_word(runtime: Runtime) -> tuple[threading.Thread, list[str], CancelToken]:
    """A command that waits for an operator's word, and what becomes of it."""
    heard: list[str] = []
    cancel = CancelToken()
    context = ToolContext("main", "chat", "run-1", "p/m", Path(), 1, cancel)

    def wait() -> None:
        heard.append(runtime.tools.approvals.request(context, "rm x", "/", 30))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, heard, cancel


def test_an_operator_may_answer_at_any_process(two: tuple[Runtime, Runtime]) -> None:
    a, b = two
    thread, heard, _ = wait_for_a_word(a)
    wait_until(b.tools.approvals.pending)
    (approval,) = b.tools.approvals.pending()
    assert (approval.command, approval.run_id) == ("rm x", "run-1")
    assert a.tools.approvals.pending() == [approval]

    assert b.tools.approvals.resolve(approval.id, "allow-once")

    thread.join(10)
    assert heard == ["allow-once"]
    wait_until(lambda: b.tools.approvals.pending() == [])
    assert not b.tools.approvals.resolve(approval.id, "deny")


def test_news_of_a_session_are_told_once_wherever_its_next_turn_is(two: tuple[Runtime, Runtime]) -> None:
    a, b = two
    a.news.post("chat", "first")
    a.news.post("other", "not for you")
    b.news.post("chat", "second")
    taken: list[str] = []

    def both_are_there() -> bool:
        taken.extend(b.news.take("chat"))
        return sorted(taken) == ["first", "second"]

    wait_until(both_are_there)
    assert a.news.take("other") == ["not for you"]


# a database without a Redis


def test_a_second_gateway_on_a_database_without_a_redis_is_refused(
    model: ScriptedProvider, tmp_path: Path, database: str
) -> None:
    with members(tmp_path, model.base_url, database, "", lease=LEASE) as member:
        first = member()
        assert answer(ask(first, "hi")).text == "echo: hi"

        with pytest.raises(StoreError, match="REDIS_URL"):
            member()

        assert answer(ask(first, "still")).text == "echo: still"
        first.close()
        assert answer(ask(member(), "again")).text == "echo: again"


@pytest.mark.parametrize("value", ["soon", "0", "-3", "nan", "1e9"])
def test_a_lease_that_is_no_time_is_refused(tmp_path: Path, value: str) -> None:
    env = {"OPENCLAW_STATE_DIR": str(tmp_path), "OPENCLAW_LEASE_SECONDS": value}
    with pytest.raises(ConfigError, match="OPENCLAW_LEASE_SECONDS"):
        place_of(load_config({"gateway": {"auth": {"token": "a-token-of-tests"}}}, env), env)


def test_a_redis_without_a_database_is_ignored_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, runtime: Runtime
) -> None:
    place = Place(tmp_path / "alone", redis_url="redis://127.0.0.1:1")
    state = open_state(place, runtime.executor, per_session=5)

    assert not state.shared
    assert "no use without a database" in caplog.text
    state.close()
