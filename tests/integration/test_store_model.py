"""Any sequence of calls, beside a plain model of what a store is."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from app.errors import Fenced, StoreError
from app.messages import ToolMessage, Usage, UserMessage
from app.sessions.records import (
    Entry,
    ModelCall,
    NewEntry,
    Run,
    RunEnd,
    RunStart,
    Session,
    SessionSettings,
    UsageQuery,
    UsageRow,
)
from app.sessions.sql import open_store
from tests.integration.stores import ENGINES, place_for, said, start

KEYS = st.sampled_from(["k1", "k2", "k3"])
CHOICES = st.none() | st.sampled_from(["a/b", "high", "\N{SNOWMAN}"])
SETTINGS = st.builds(SessionSettings, CHOICES, CHOICES, CHOICES)
PRICES = st.sampled_from([None, 0.0, 0.25, 0.5, 4.0])
COUNTS = st.integers(0, 9)
USAGES = st.builds(Usage, *[COUNTS] * 5)


class StoreBesideItsModel:
    """A real store, and a model of it: sessions and entries by session id, runs by id.

    Each of the operations draws its values, calls the store and checks what comes back.
    """

    def __init__(self, place):
        self.place = place
        self.store = open_store(place)
        self.now = 0
        self.sessions, self.entries, self.runs = {}, {}, {}

    def tick(self):
        self.now += 1000
        return self.now

    def holder(self, key):
        return next((session for session in self.sessions.values() if session.key == key), None)

    def any_session(self, data):
        return self.sessions[data.draw(st.sampled_from(sorted(self.sessions)))]

    def any_run(self, data):
        """Mostly one that is not over."""
        still_on = sorted(run.id for run in self.runs.values() if run.ended_at is None)
        ended = sorted(set(self.runs) - set(still_on))
        return self.runs[data.draw(st.sampled_from(still_on * 3 + ended))]

    def extend(self, session_id, run_id, entries, **changes):
        """The model's half of adding entries; the seq of the first."""
        session = self.sessions.get(session_id)
        if session is None:
            return 0
        first = session.message_count + 1
        for seq, entry in enumerate(entries, first):
            self.entries[session_id].append(Entry(seq, entry.message, entry.stop, self.now, run_id))
        count = session.message_count + len(entries)
        self.sessions[session_id] = replace(session, message_count=count, updated_at=self.now, **changes)
        return first if entries else 0

    def begin(self, data):
        now, run_id, key = self.tick(), f"r{len(self.runs)}", data.draw(KEYS)
        parent = data.draw(st.none() | KEYS)
        kept = data.draw(st.sampled_from([True, True, True, False]))
        holder = self.holder(key)
        session_id = None if not kept else holder.id if holder else f"s{now}"
        if kept and holder is None:
            self.sessions[session_id] = Session(
                *(session_id, key, "main", now, now, 0, 0, 0, "mock/one"), parent_key=parent
            )
            self.entries[session_id] = []
        messages = [UserMessage.of(f"{run_id}-{n}") for n in range(data.draw(COUNTS))]
        entries = [NewEntry(message) for message in messages]
        expected = self.extend(session_id, run_id, entries, active_at=now) if kept else 0
        run = RunStart(run_id, key, session_id, "main", "openai", "mock/one", now, parent)
        assert self.store.begin(run, messages) == expected
        self.runs[run_id] = Run(
            *(run_id, key, session_id, "main", "openai", "mock/one", now, "in_progress", None, Usage()),
            *(None, None, None, 0),
        )

    def begin_beside_the_session_of_the_key(self, data):
        key = data.draw(KEYS)
        if self.holder(key):
            with pytest.raises(StoreError):
                self.store.begin(start(f"r{len(self.runs)}", f"s{self.tick()}", key), [UserMessage.of("x")])

    def append(self, data):
        if self.runs:
            run, now = self.any_run(data), self.tick()
            entries = [NewEntry(ToolMessage(f"c{n}", "read", f"{now}")) for n in range(data.draw(COUNTS))]
            if run.ended_at is not None and run.session_id is not None and entries:
                with pytest.raises(Fenced):
                    self.store.append(run.session_id, run.id, entries, now)
                return
            expected = self.extend(run.session_id, run.id, entries) if entries else 0
            assert self.store.append(run.session_id, run.id, entries, now) == expected

    def finish(self, data):
        if not self.runs:
            return
        run, now, usage, cost = self.any_run(data), self.tick(), data.draw(USAGES), data.draw(PRICES)
        context, entries = data.draw(st.sampled_from([0, 7, 8])), [said("answer")]
        calls = tuple(ModelCall("mock/one", 0, "overloaded", 529, n) for n in range(data.draw(COUNTS)))
        end = ("completed", "stop", usage, "mock/two", None, None, now, 1, cost, context, calls)
        self.store.finish(RunEnd(run.id, *end), entries)
        if run.ended_at is not None:
            return
        ended = {"status": "completed", "finish_reason": "stop", "ended_at": now, "attempts": 1}
        self.runs[run.id] = replace(run, **ended, model="mock/two", usage=usage, cost=cost, calls=calls)
        if session := self.sessions.get(run.session_id):
            self.extend(
                *(session.id, run.id, entries),
                input_tokens=session.input_tokens + usage.input,
                output_tokens=session.output_tokens + usage.output,
                cost=session.cost + (cost or 0),
                context_tokens=context or session.context_tokens,
                model="mock/two",
                active_at=now,
            )

    def compact(self, data):
        if not self.sessions:
            return
        session, now = self.any_session(data), self.tick()
        last = session.message_count
        near = [place + step for place in (session.kept_from, last + 1) for step in (-1, 0, 1)]
        kept_from = data.draw(st.sampled_from(near) | st.integers(-1, last + 3))
        possible = session.kept_from < kept_from <= last + 1
        assert self.store.compact(session.id, f"until {kept_from}", kept_from, now) is possible
        if possible:
            changes = {"summary": f"until {kept_from}", "kept_from": kept_from, "updated_at": now}
            changes |= {"context_tokens": 0}
            self.sessions[session.id] = replace(session, **changes, compactions=session.compactions + 1)

    def configure(self, data):
        now, key, made = self.tick(), data.draw(KEYS), data.draw(SETTINGS)
        holder = self.holder(key)
        assert self.store.configure(key, made, now) is (holder is not None)
        if holder:
            self.sessions[holder.id] = replace(holder, settings=made, updated_at=now)

    def archive(self, data):
        now, key = self.tick(), data.draw(KEYS)
        holder = self.holder(key)
        assert self.store.archive(key, now) is (holder is not None)
        if holder:
            name = f"archived:{holder.id}:{key}"
            self.sessions[holder.id] = replace(holder, key=name, archived_at=now)

    def delete(self, data):
        if self.sessions:
            session = self.sessions.pop(self.any_session(data).id)
            del self.entries[session.id]
            assert self.store.delete_session(session.key) is True

    def restart(self, data):
        self.store.close()
        self.store = open_store(self.place)
        if isinstance(self.place, str):  # others may live there, so nobody is dead before the sweep
            swept = {run.id for run in self.store.sweep(self.tick())}
            assert swept == {run.id for run in self.runs.values() if run.ended_at is None}
        for run_id, run in self.runs.items():
            if run.ended_at is None:
                record = self.store.get_run(run_id)
                assert (record.status, record.error_code) == ("failed", "interrupted")
                self.runs[run_id] = record

    def check_sessions(self):
        listed = {session.id: session for session in self.store.list_sessions(None, 999, archived=True)}
        assert listed == self.sessions
        live = {session.id for session in self.sessions.values() if session.archived_at is None}
        assert {session.id for session in self.store.list_sessions(None, 999)} == live
        for session in self.sessions.values():
            entries = tuple(self.entries[session.id])
            whole, loaded = self.store.transcript(session.key), self.store.load(session.key)
            assert (whole.session, whole.history) == (session, entries)
            assert (loaded.session, loaded.history) == (session, entries[session.kept_from - 1 :])

    def check_runs(self):
        assert {run.id: run for run in self.store.list_runs(None, 999)} == self.runs
        ended = [run for run in self.runs.values() if run.ended_at is not None]
        usage = sum((run.usage for run in ended), Usage())
        unpriced = [run for run in ended if run.cost is None and run.usage.total]
        total = UsageRow((), len(ended), usage, sum(run.cost or 0 for run in ended), len(unpriced))
        assert self.store.usage(UsageQuery(by=())) == [total]


OPERATIONS = [
    *["begin", "begin", "append", "finish", "finish", "compact", "compact"],
    *["begin_beside_the_session_of_the_key", "configure", "archive", "delete", "restart"],
]


# Without shrinking: that would take minutes, and thirty calls can be read as they are.
@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=30, deadline=None, phases=[Phase.generate])
@given(data=st.data())
def test_any_sequence_of_calls_leaves_what_a_plain_model_says(engine, data):
    with tempfile.TemporaryDirectory() as folder, place_for(engine, Path(folder)) as place:
        both = StoreBesideItsModel(place)
        try:
            for operation in data.draw(st.lists(st.sampled_from(OPERATIONS), min_size=10, max_size=30)):
                getattr(both, operation)(data)
                both.check_sessions()
                both.check_runs()
        finally:
            both.store.close()
