"""Turns in stores, and stores of every engine."""

from contextlib import contextmanager

from app.messages import AssistantMessage, Usage, UserMessage
from app.sessions.records import (
    NewEntry,
    RunEnd,
    RunStart,
)
from tests.engines import postgres_server

KEY = "agent:main:openai-user:alice"
SPENT = Usage(10, 5)


def start(run_id, session_id="s1", key=KEY, agent_id="main", at=1000):
    return RunStart(run_id, key, session_id, agent_id, "openai", "mock/one", at)


def end(run_id, status="completed", at=2000):
    return RunEnd(run_id, status, "stop", Usage(10, 5, 2, 1), "mock/two", None, None, at, 1)


def said(text):
    return NewEntry(AssistantMessage(text), "stop")


def take_turn(store, run_id, session_id="s1", key=KEY, agent_id="main", at=1000):
    store.begin(start(run_id, session_id, key, agent_id, at), [UserMessage.of(f"question {run_id}")])
    store.finish(end(run_id, at=at + 1), [said(f"answer {run_id}")])


def charge(store, run_id, at, usage=SPENT, cost=1.0, model="mock/one", **place):
    """A run that has come to this much."""
    store.begin(start(run_id, at=at, **place), [])
    store.finish(RunEnd(run_id, "completed", "stop", usage, model, None, None, at + 1, 1, cost=cost), [])


def texts(store, key=KEY):
    return [entry.message.text for entry in store.load(key).history]


ENGINES = ("sqlite", "postgres")


@contextmanager
def place_for(engine, folder):
    """Where a new store of this engine is: what ``open_store`` takes."""
    if engine == "sqlite":
        yield folder
        return
    with postgres_server().database() as url:
        yield url
