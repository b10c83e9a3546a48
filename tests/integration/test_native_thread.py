"""The real thread that blocks for green ones; each test is a process that gevent has patched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from openclaw_gunicorn import native_thread

_ROOT = Path(__file__).parents[2]
_HEAD = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, threading
from openclaw_gunicorn import native_thread
real = gevent.monkey.get_original("threading", "Event")
call = native_thread()
"""


def told(code: str) -> list[str]:
    """The lines that ``code`` prints behind the usual head."""
    done = subprocess.run(
        [sys.executable, "-c", _HEAD + code], cwd=_ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_where_nobody_patched_anything_there_is_none() -> None:
    assert native_thread() is None


def test_calls_return_and_raise_and_are_made_in_order_by_one_thread_that_is_not_the_callers() -> None:
    code = """
get_ident = gevent.monkey.get_original("threading", "get_ident")
made, idents = [], set()

def note(number):
    made.append(number)
    idents.add(get_ident())
    if number % 10 == 3:
        raise LookupError(number)
    return -number

def ask(number):
    try:
        return call(lambda: note(number))
    except LookupError as error:
        return f"failed {error}"

asking = [gevent.spawn(ask, number) for number in range(1000)]
gevent.joinall(asking)
print(made == list(range(1000)), len(idents), get_ident() in idents)
print([one.value for one in asking[:5]])
"""
    assert told(code) == ["True 1 False", "[0, -1, -2, 'failed 3', -4]"]


def test_others_go_on_while_a_call_blocks_and_whoever_waits_may_be_killed() -> None:
    code = """
gate = real()
blocked = gevent.spawn(call, lambda: gate.wait(30))
behind = gevent.spawn(call, lambda: "next")
turns = 0
while turns < 100:
    gevent.sleep(0)
    turns += 1
print(blocked.ready(), behind.ready())
blocked.kill()
gate.set()
print(behind.get(), blocked.successful(), call(lambda: "still there"))
"""
    assert told(code) == ["False False", "next True still there"]


def test_a_fork_begins_with_a_thread_of_its_own() -> None:
    code = """
import os
print(call(lambda: "parent"), flush=True)
child = os.fork()
if not child:
    print(call(lambda: "child"), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(call(lambda: "parent again"))
"""
    assert told(code) == ["parent", "child", "parent again"]


def test_a_busy_loop_does_many_calls_in_one_of_its_rounds() -> None:
    code = """
done = 0
rounds = 0

def ask():
    global done
    call(lambda: None)
    done += 1

def spin():
    global rounds
    while done < 200:
        rounds += 1
        for _ in range(200_000):
            pass
        gevent.sleep(0)

gevent.joinall([gevent.spawn(spin), *(gevent.spawn(ask) for _ in range(200))])
print(done, rounds < 100)
"""
    assert told(code) == ["200 True"]
