"""Many conversations at once, and what must be true of each of them afterwards."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.messages import AssistantMessage, UserMessage
from app.sessions.records import Entry
from tests.e2e.gateway_process import TOKEN

_TIMEOUT = 120.0
NOTE = "(No answer was given: the previous turn was interrupted.)"


@dataclass
class Turn:
    """One question: by whom, its number, and what became of it.

    :ivar status: of the answer, 0 if the connection was cut.
    """

    speaker: int
    number: int
    text: str
    status: int = 0
    answer: str = ""
    error: str = ""
    seconds: float = 0.0
    ended: float = 0.0

    @property
    def answered(self) -> bool:
        return self.status == 200


@dataclass
class Conversation:
    """A session in which several speakers ask at the same time, each of them one question after another."""

    key: str
    turns: list[Turn] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def converse(
    port: int, conversations: Sequence[Conversation], speakers: int, turns: int, threads: int
) -> None:
    """Have all of it said, through ``port``, by as many clients at a time as there are threads."""
    waiting = [(one, speaker) for one in conversations for speaker in range(speakers)]
    random.Random(7).shuffle(waiting)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                conversation, speaker = waiting.pop()
            for number in range(turns):
                _ask(port, conversation, speaker, number)

    crowd = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()


def _ask(port: int, conversation: Conversation, speaker: int, number: int) -> None:
    turn = Turn(speaker, number, f"{conversation.key} speaker {speaker} question {number}")
    body = json.dumps({"model": "openclaw", "messages": [{"role": "user", "content": turn.text}]})
    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/json",
        "x-openclaw-session-key": conversation.key,
    }
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    received = b""
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        received = response.read()
        value = json.loads(received or b"{}")
        turn.status = response.status
        if response.status == 200:
            turn.answer = value["choices"][0]["message"]["content"]
        else:
            turn.error = f"{value['error']['code']}: {value['error']['message']}"
    except (OSError, http.client.HTTPException, ValueError, TypeError) as error:
        turn.error = turn.error or f"{error!r} after {turn.status} {received[:200]!r}"
        turn.status = turn.status if turn.status >= 400 else 0
    finally:
        connection.close()
    turn.ended = time.monotonic()
    turn.seconds = turn.ended - began
    with conversation.lock:
        conversation.turns.append(turn)


def check(conversation: Conversation, history: Sequence[Entry]) -> None:
    """Nothing that was answered is lost, nothing is there twice, and all of it is in order."""
    said = [entry.message.text for entry in history if isinstance(entry.message, UserMessage)]
    answers = Counter(entry.message.text for entry in history if isinstance(entry.message, AssistantMessage))
    assert [entry.seq for entry in history] == list(range(1, len(history) + 1))
    twice = [text for text, count in Counter(said).items() if count > 1]
    assert not twice, [(e.seq, e.run_id, e.message.text) for e in history if e.message.text in twice]
    assert all(count == 1 for text, count in answers.items() if text != NOTE), "an answer is there twice"
    asked = {turn.text for turn in conversation.turns}
    assert set(said) <= asked
    for turn in conversation.turns:
        if turn.answered:
            assert turn.answer == f"echo: {turn.text}"
            assert _follows(history, turn.text, turn.answer), f"{turn.text!r} is lost or out of place"
    for speaker in {turn.speaker for turn in conversation.turns}:
        order = [text for text in said if f" speaker {speaker} " in text]
        assert order == sorted(order, key=lambda text: int(text.rsplit(" ", 1)[1])), "out of order"
    _check_turns(history)


def _follows(history: Sequence[Entry], question: str, answer: str) -> bool:
    texts = [entry.message.text for entry in history]
    return question in texts and texts[texts.index(question) + 1 : texts.index(question) + 2] == [answer]


def _check_turns(history: Sequence[Entry]) -> None:
    """No run has come between another one's question and its answer."""
    for entry, following in itertools.pairwise(history):
        if isinstance(entry.message, UserMessage) and isinstance(following.message, AssistantMessage):
            ours = following.message.text in (NOTE, f"echo: {entry.message.text}")
            assert ours, (entry, following)


def silence(conversations: Sequence[Conversation]) -> float:
    """The longest time in which no answer came, in seconds."""
    ends = sorted(turn.ended for one in conversations for turn in one.turns if turn.answered)
    return max((later - earlier for earlier, later in itertools.pairwise(ends)), default=0.0)


def spread(
    conversations: Sequence[Conversation], wanted: Callable[[Turn], bool] = lambda turn: turn.answered
) -> list[float]:
    """How long the turns took, the shortest first."""
    return sorted(turn.seconds for one in conversations for turn in one.turns if wanted(turn))
