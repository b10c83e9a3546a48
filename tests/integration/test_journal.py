"""Journaled runs: any number of readers, from any position, who come and go."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cancel import CancelReason, CancelToken
from app.config import load_config
from app.errors import AgentNotFound, EventsLost, GatewayDraining
from app.events import TERMINAL, RunCancelled, RunCompleted, RunEvent, RunFailed, RunStarted, TextDelta
from app.messages import Usage
from app.providers.base import ModelDone, ModelEvent, ModelInfo, ModelRequest
from app.runs.journal import Journal, JournaledRun, JournalLimits, Reader
from app.runtime import Runtime, build_runtime
from tests.integration.runs import PATIENCE, request, shown, wait_until


class Typist:
    """A model that says what the last message asks it to, piece by piece; ``|`` lets ``go`` hold it up."""

    id = "typist"
    credentials = 1

    def __init__(self) -> None:
        self.go = threading.Event()
        self.held = False

    def info(self, model: str) -> ModelInfo:
        return ModelInfo()

    def stream(self, asked: ModelRequest, cancel: CancelToken) -> Iterator[ModelEvent]:
        for piece in asked.messages[-1].text.split(" "):
            if piece == "|":
                self.go.clear()
                self.held = True
                forget = cancel.on_cancel(self.go.set)
                self.go.wait(PATIENCE)
                forget()
                self.held = False
                cancel.raise_if_cancelled()
            else:
                yield TextDelta(piece)
        yield ModelDone("stop", (), Usage(1, 1))

    def close(self) -> None:
        self.go.set()


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(scope="module")
def typist() -> Typist:
    return Typist()


@pytest.fixture(scope="module")
def runtime(typist: Typist, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    env = {"OPENCLAW_STATE_DIR": str(tmp_path_factory.mktemp("state"))}
    document = {
        "gateway": {"auth": {"token": "a-token-of-tests"}},
        "agents": {"defaults": {"model": "typist/m", "maxConcurrent": 50}},
    }
    with closing(build_runtime(load_config(document, env), env, providers=[typist])) as runtime:
        yield runtime


@pytest.fixture
def clock() -> Clock:
    return Clock()


def journal_of(runtime: Runtime, clock: Clock | None = None, **limits: Any) -> Journal:
    after = runtime.executor.after
    return Journal(runtime.runs, after, JournalLimits(**limits), monotonic=clock or Clock())


@pytest.fixture
def journal(runtime: Runtime, clock: Clock) -> Journal:
    return journal_of(runtime, clock)


keys = count(1)


def begin(journal: Journal, asked: str, **options: Any) -> JournaledRun:
    return journal.start(request(asked, key=f"k{next(keys)}", ephemeral=True), **options)


def rest(reader: Reader) -> list[RunEvent]:
    """What comes to a reader, of which the last and only the last is terminal."""
    events: list[RunEvent] = []
    while not (events and isinstance(events[-1], TERMINAL)):
        got = reader.get(PATIENCE)
        assert got, f"nothing came after {events[-3:]}"
        events += got
    assert sum(isinstance(event, TERMINAL) for event in events) == 1
    return events


def all_of(run: JournaledRun, after: int = 0) -> list[RunEvent]:
    with run.read(after) as reader:
        return rest(reader)


def ended(run: JournaledRun) -> bool:
    return run.ending is not None


def goes_on(typist: Typist) -> None:
    """The model, which was held up or soon will be, says the rest."""
    wait_until(lambda: typist.held)
    typist.go.set()


def test_two_readers_get_the_same_from_the_start(journal: Journal, typist: Typist) -> None:
    run = begin(journal, "ab | cd", about="ours")
    with run.read() as one, run.read() as other:
        goes_on(typist)
        rest(one)
        events = rest(other)

    assert shown(events) == "abcd"
    assert isinstance(events[0], RunStarted)
    assert events[-1] == run.ending
    assert journal.get(run.id) is run
    assert run.about == "ours"


def test_who_comes_after_the_end_gets_everything_too(journal: Journal) -> None:
    run = begin(journal, "all of it")
    wait_until(lambda: ended(run))

    assert shown(all_of(run)) == "allofit"


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=600),
    visits=st.lists(st.lists(st.integers(0, 400), max_size=8), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_whoever_leaves_and_comes_back_misses_nothing_and_gets_nothing_twice(
    runtime: Runtime, pieces: list[str], visits: list[list[int]], seed: int
) -> None:
    run = begin(journal_of(runtime), " ".join(pieces))
    results: list[list[RunEvent]] = []

    def follow(stays: list[int]) -> None:
        """Read, leave after about so many events, come back; at last stay to the end."""
        got: list[RunEvent] = []
        for stay in stays:
            with run.read(len(got)) as reader:
                while len(got) < stay and not (got and isinstance(got[-1], TERMINAL)):
                    # What was read may get lost on its way to the client: only a part counts.
                    got += reader.get(PATIENCE)[: random.Random(seed).randrange(1, 40)]
                    if reader.position != len(got):
                        break
        if not (got and isinstance(got[-1], TERMINAL)):
            got += all_of(run, len(got))
        results.append(got)

    threads = [threading.Thread(target=follow, args=(sorted(stays),)) for stays in visits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert len(results) == len(visits)
    assert all(shown(events) == "".join(pieces) for events in results)
    assert all(events == results[0] for events in results)


def test_a_position_beyond_the_end_still_gets_the_end(journal: Journal) -> None:
    run = begin(journal, "ab")
    wait_until(lambda: ended(run))

    assert all_of(run, after=10_000) == [run.ending]


def test_a_run_goes_on_without_a_reader_for_its_time_of_grace(
    runtime: Runtime, journal: Journal, clock: Clock
) -> None:
    run = begin(journal, "ab | cd")
    with run.read() as reader:
        clock.seconds = 1_000.0
        assert reader.get(PATIENCE)
    clock.seconds += journal.limits.grace - 1

    run.nudge()
    assert runtime.runs.get(run.id) is not None
    assert not runtime.runs.get(run.id).token.cancelled  # type: ignore[union-attr]

    clock.seconds += 1
    run.nudge()
    assert rest_is(run, RunCancelled(CancelReason.DISCONNECT))


def rest_is(run: JournaledRun, ending: RunEvent) -> bool:
    return all_of(run)[-1] == ending


def test_who_asks_after_a_run_keeps_it_alive(
    runtime: Runtime, journal: Journal, clock: Clock, typist: Typist
) -> None:
    run = begin(journal, "ab | cd")
    clock.seconds = journal.limits.grace
    run.touch()

    run.nudge()

    goes_on(typist)
    assert shown(all_of(run)) == "abcd"


def test_an_unattended_run_needs_no_reader(journal: Journal, clock: Clock, typist: Typist) -> None:
    run = begin(journal, "ab | cd", unattended=True)
    clock.seconds = 10_000.0
    run.nudge()

    goes_on(typist)
    assert shown(all_of(run)) == "abcd"


def test_the_service_looks_after_runs_that_nobody_reads(runtime: Runtime) -> None:
    run = begin(journal_of(runtime, grace=0.0), "ab | cd")

    wait_until(lambda: ended(run))

    assert run.ending == RunCancelled(CancelReason.DISCONNECT)


def test_a_silent_run_wakes_its_readers_now_and_then(journal: Journal) -> None:
    run = begin(journal, "|")
    with run.read() as reader:
        while reader.get(PATIENCE):
            pass
        run.cancel(CancelReason.USER)
        assert rest(reader) == [RunCancelled(CancelReason.USER)]


def test_to_cancel_twice_is_to_cancel_once(journal: Journal) -> None:
    run = begin(journal, "ab | cd")

    assert run.cancel(CancelReason.USER)
    assert not run.cancel(CancelReason.USER)
    assert rest_is(run, RunCancelled(CancelReason.USER))
    assert not run.cancel(CancelReason.USER)


def test_for_who_has_left_it_is_over(journal: Journal, typist: Typist) -> None:
    run = begin(journal, "ab | cd")
    reader = run.read()
    reader.leave()

    assert reader.get(PATIENCE) == [RunCancelled(CancelReason.DISCONNECT)]
    goes_on(typist)
    assert shown(all_of(run)) == "abcd"


def test_what_ended_is_kept_for_its_time_and_then_forgotten(runtime: Runtime) -> None:
    journal = journal_of(runtime, seconds=0.3)
    run = begin(journal, "ab")
    with run.read() as reader:
        rest(reader)
        assert journal.get(run.id) is run

        wait_until(lambda: journal.get(run.id) is None)

    assert journal.size == 0


def test_what_is_forgotten_goes_on_for_those_who_read_it(journal: Journal, typist: Typist) -> None:
    run = begin(journal, "ab | cd")
    with run.read() as reader:
        assert journal.forget(run.id)
        assert not journal.forget(run.id)
        assert journal.get(run.id) is None
        goes_on(typist)
        assert shown(rest(reader)) == "abcd"

    assert journal.size == 0


def test_a_run_that_is_refused_is_not_kept(runtime: Runtime, journal: Journal) -> None:
    refused = request("x", agent_id="nobody")

    with pytest.raises(AgentNotFound):
        journal.start(refused)

    assert journal.get(refused.run_id) is None
    assert journal.size == 0


def test_a_long_text_can_be_come_back_to_in_its_middle(journal: Journal) -> None:
    run = begin(journal, "x" * 700 + "y" * 300)
    whole = all_of(run)

    assert shown(whole) == "x" * 700 + "y" * 300
    assert shown(all_of(run, after=4)) == "y" * (1_000 - 3 * 256)


def test_the_oldest_events_of_a_long_run_go(runtime: Runtime, typist: Typist) -> None:
    journal = journal_of(runtime, run_bytes=100_000)
    run = begin(journal, "| " + " ".join(["x" * 100] * 5_000))
    with run.read() as slow:
        slow.get(PATIENCE)
        goes_on(typist)
        wait_until(lambda: ended(run))

        late = slow.get(PATIENCE)

    assert isinstance(late[0], RunFailed)
    assert isinstance(late[0].error, EventsLost)
    with pytest.raises(EventsLost):
        run.read()
    assert all_of(run, after=10**6)[-1] == run.ending
    assert isinstance(run.ending, RunCompleted)
    assert len(run.ending.text) == 500_000


def test_runs_that_ended_make_room_for_others_the_first_to_end_first(runtime: Runtime) -> None:
    journal = journal_of(runtime, total_bytes=400_000)
    runs = []
    for _ in range(5):
        runs.append(begin(journal, "x" * 50_000))
        wait_until(lambda: ended(runs[-1]))
        assert journal.size <= 400_000

    assert [journal.get(run.id) is run for run in runs] == [False, False, True, True, True]


def test_what_is_kept_beside_the_events_counts_once_they_are_all_there(
    runtime: Runtime, typist: Typist
) -> None:
    journal = journal_of(runtime, total_bytes=400_000)
    live = begin(journal, "a | b", size=390_000)
    first, second = begin(journal, "x", size=300_000), begin(journal, "x", size=300_000)
    wait_until(lambda: ended(first) and ended(second) and journal.size <= 400_000)

    assert [journal.get(run.id) is not None for run in (first, second)].count(True) == 1
    goes_on(typist)
    assert len(all_of(live)) > 1
    wait_until(lambda: journal.size <= 400_000)
    assert journal.get(live.id) is live


def test_what_made_room_is_gone_from_memory_before_its_time(runtime: Runtime) -> None:
    journal = journal_of(runtime, total_bytes=400_000)
    first = weakref.ref(begin(journal, "x" * 300_000))
    wait_until(lambda: (run := first()) is None or ended(run))
    second = begin(journal, "y" * 300_000)
    wait_until(lambda: ended(second))

    def is_gone() -> bool:
        gc.collect()
        return first() is None

    wait_until(is_gone)


def test_all_together_stay_within_the_limit(runtime: Runtime) -> None:
    journal = journal_of(runtime, total_bytes=1_000_000)
    runs = [begin(journal, " ".join(["y" * 1_000] * 300)) for _ in range(10)]

    wait_until(lambda: all(map(ended, runs)))

    assert journal.size <= 1_000_000 + 10 * 40_000


def test_a_journaled_run_fails_when_the_gateway_stops(typist: Typist, tmp_path: Path) -> None:
    env = {"OPENCLAW_STATE_DIR": str(tmp_path)}
    document = {
        "gateway": {"auth": {"token": "a-token-of-tests"}},
        "agents": {"defaults": {"model": "typist/m"}},
    }
    with closing(build_runtime(load_config(document, env), env, providers=[Typist()])) as runtime:
        run = begin(runtime.journal, "ab | cd")

    ending = all_of(run)[-1]
    assert isinstance(ending, RunFailed)
    assert isinstance(ending.error, GatewayDraining)
