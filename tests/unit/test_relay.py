"""Runs as other processes hear of them: all of the text, one end, whenever somebody begins to listen."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from app.bus.local import LocalBus
from app.errors import Fenced, GatewayError
from app.events import (
    TERMINAL,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
    TextDelta,
    ToolStarted,
)
from app.messages import Usage
from app.runs.executor import Executor
from app.runs.relay import Relay
from app.runs.remote import RemoteRun
from app.runs.run import Listener, Run, RunRequest


class Clock:
    """Stands still; what is to be done later is done when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[Callable[[], object]] = []

    def __call__(self) -> float:
        return self.now

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        self.due.append(action)

    def pass_time(self) -> None:
        due, self.due = self.due, []
        for action in due:
            action()


class Ear:
    """Hears of all runs of others."""

    def __init__(self, relay: Relay) -> None:
        self.events: dict[str, list[RunEvent]] = {}
        self.runs: list[RemoteRun] = []
        relay.follow(self.observe)

    def observe(self, run: RemoteRun) -> Listener:
        self.runs.append(run)
        return self.events.setdefault(run.id, []).append

    def text(self, run_id: str) -> str:
        return "".join(e.text for e in self.events[run_id] if isinstance(e, TextDelta))


def a_run(number: int = 1, key: str = "chat") -> Run:
    request = RunRequest(f"r{number}", "main", key, False, "tests", (), 1_000)
    return Run(request)


def completed(text: str) -> RunCompleted:
    return RunCompleted(text, "stop", Usage(1, 2))


def two(bus: LocalBus, clock: Clock) -> tuple[Relay, Relay]:
    return tuple(Relay(bus, name, clock.after, monotonic=clock) for name in ("one", "two"))  # type: ignore[return-value]


def test_a_listener_elsewhere_hears_a_run_to_its_end() -> None:
    clock = Clock()
    here, there = two(LocalBus(), clock)
    ear = Ear(there)
    there.attend(lambda: True)
    hear = here.observe(a_run())

    for event in (RunStarted(5), TextDelta("a"), TextDelta("b"), ToolStarted("c", "read", "{}")):
        hear(event)
    hear(TextDelta("c"))
    hear(completed("abc"))

    assert ear.runs == [RemoteRun("r1", "chat", "main", False)]
    tool = ToolStarted("c", "read", "{}")
    assert ear.events["r1"] == [RunStarted(5), TextDelta("ab"), tool, TextDelta("c"), completed("abc")]


def test_what_is_said_goes_together_for_a_moment() -> None:
    clock = Clock()
    here, there = two(LocalBus(), clock)
    ear = Ear(there)
    there.attend(lambda: True)
    hear = here.observe(a_run())

    hear(TextDelta("a"))
    hear(TextDelta("b"))
    assert ear.events == {}
    clock.pass_time()

    assert ear.events["r1"] == [TextDelta("ab")]


def test_nothing_is_said_while_nobody_listens() -> None:
    clock, bus, said = Clock(), LocalBus(), []
    here, _ = two(bus, clock)
    bus.subscribe("runs", said.append)
    hear = here.observe(a_run())

    for event in (RunStarted(5), TextDelta("a"), completed("a")):
        hear(event)

    assert said == []


def test_whoever_comes_late_is_told_all_of_what_was_said() -> None:
    clock = Clock()
    here, there = two(LocalBus(), clock)
    ear = Ear(there)
    hear = here.observe(a_run())
    hear(RunStarted(5))
    hear(TextDelta("early "))

    there.attend(lambda: True)
    clock.pass_time()
    assert ear.events["r1"] == [RunStarted(5), TextDelta("early ")]
    hear(TextDelta("late"))
    hear(completed("early late"))

    assert ear.text("r1") == "early late"
    assert sum(isinstance(event, TERMINAL) for event in ear.events["r1"]) == 1


def test_a_third_listener_does_not_make_the_second_hear_it_twice() -> None:
    clock, bus = Clock(), LocalBus()
    here, there = two(bus, clock)
    third = Relay(bus, "three", clock.after, monotonic=clock)
    ears = [Ear(there), Ear(third)]
    there.attend(lambda: True)
    hear = here.observe(a_run())
    hear(RunStarted(5))
    hear(TextDelta("one "))
    clock.pass_time()

    third.attend(lambda: True)
    clock.pass_time()
    hear(TextDelta("two"))
    hear(completed("one two"))

    for ear in ears:
        assert ear.text("r1") == "one two"
        assert ear.events["r1"].count(RunStarted(5)) == 1


class LossyBus(LocalBus):
    """Forgets some of what is said of runs, as an engine does that is away for a moment."""

    def __init__(self, lost: set[int]) -> None:
        super().__init__()
        self._lost = lost
        self._count = 0

    def publish(self, topic: str, message: bytes) -> None:
        self._count += 1
        if self._count not in self._lost:
            super().publish(topic, message)

    def wanted(self, topic: str) -> bool:
        return True

    def mend(self) -> None:
        """Forget nothing from now on."""
        self._lost = set()


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=12),
    flushes=st.sets(st.integers(0, 12)),
    lost=st.sets(st.integers(2, 12), max_size=4),
)
def test_what_gets_lost_on_the_way_is_made_up_for(
    pieces: list[str], flushes: set[int], lost: set[int]
) -> None:
    clock = Clock()
    bus = LossyBus(lost)
    here, there = two(bus, clock)
    ear = Ear(there)
    there.attend(lambda: True)
    hear = here.observe(a_run())
    said = ""

    for number, piece in enumerate(pieces):
        hear(TextDelta(piece))
        said += piece
        if number in flushes:
            clock.now += 2
            clock.pass_time()
        assert said.startswith(ear.text("r1") if "r1" in ear.events else "")
    clock.now += 2
    bus.mend()
    hear(TextDelta("."))
    clock.pass_time()
    clock.pass_time()

    assert ear.text("r1") == said + "."


def test_runs_that_are_lost_with_their_process_end_once_for_everybody() -> None:
    clock, bus = Clock(), LocalBus()
    dead, there = two(bus, clock)
    third = Relay(bus, "three", clock.after, monotonic=clock)
    ears = [Ear(there), Ear(third)]
    for relay in (there, third):
        relay.attend(lambda: True)
    hear = dead.observe(a_run())
    hear(TextDelta("so far"))
    clock.pass_time()

    there.tell_end(RemoteRun("r1", "chat", "main", False), RunFailed(Fenced()))
    hear(TextDelta(" and on"))  # it was frozen, and comes back
    hear(RunFailed(Fenced()))
    clock.pass_time()

    for ear in ears:
        assert ear.text("r1") == "so far"
        assert [type(event) for event in ear.events["r1"]] == [TextDelta, RunFailed]


def test_a_run_that_is_taken_over_is_heard_of_at_first_hand_only() -> None:
    clock = Clock()
    here, there = two(LocalBus(), clock)
    ear = Ear(there)
    there.attend(lambda: True)
    here.observe(a_run())(RunStarted(5))
    clock.pass_time()

    there.observe(a_run())
    clock.now += 20

    assert there.silent() == []
    assert ear.events["r1"] == [RunStarted(5)]


def test_a_run_that_falls_silent_ends_as_its_record_says() -> None:
    clock = Clock()
    here, there = two(LocalBus(), clock)
    ear = Ear(there)
    there.attend(lambda: True)
    here.observe(a_run())(TextDelta("so far"))
    clock.pass_time()
    assert there.silent() == []

    clock.now += 20
    (run,) = there.silent()
    there.settle(run, None)
    assert there.silent() == []
    clock.now += 20
    there.settle(run, RunFailed(GatewayError("gone")))

    assert isinstance(ear.events["r1"][-1], RunFailed)
    assert there.silent() == []


def test_those_who_leave_hear_the_runs_they_know_to_their_ends_and_no_others() -> None:
    clock = Clock()
    here, there = two(LocalBus(), clock)
    ear = Ear(there)
    there.attend(lambda: True)
    known = here.observe(a_run(1))
    known(TextDelta("a"))
    clock.pass_time()

    there.attend(lambda: False)
    unknown = here.observe(a_run(2))
    unknown(TextDelta("b"))
    clock.pass_time()
    known(completed("a"))
    unknown(completed("b"))

    assert list(ear.events) == ["r1"]
    assert ear.events["r1"][-1] == completed("a")


def test_frames_reach_the_clients_of_other_processes_only() -> None:
    clock = Clock()
    here, there = two(LocalBus(), clock)
    seen: list[tuple[str, str, bytes]] = []
    here.on_frame(lambda *frame: seen.append(("here", "", frame[2])))
    there.on_frame(lambda *frame: seen.append(frame))
    there.attend(lambda: True)

    here.send_frame("sessions.changed", "sessions", b'{"a":1}')

    assert seen == [("sessions.changed", "sessions", b'{"a":1}')]


def test_many_runs_at_once_are_told_whole_with_real_threads() -> None:
    executor, bus = Executor(), LocalBus()
    here, there = (Relay(bus, name, executor.after) for name in ("one", "two"))
    ear = Ear(there)
    there.attend(lambda: True)

    def speak(number: int) -> None:
        hear = here.observe(a_run(number))
        for piece in range(200):
            hear(TextDelta(f"{number}.{piece} "))
        hear(completed("done"))

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    executor.close()

    for number in range(8):
        assert ear.text(f"r{number}") == "".join(f"{number}.{piece} " for piece in range(200))
        assert ear.events[f"r{number}"][-1] == completed("done")
