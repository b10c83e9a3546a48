"""Responses that are being made, and those that are stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ....cancel import CancelReason
from ....errors import GatewayError, InvalidRequest, NotFound
from ....events import TERMINAL, RunEvent, RunFailed
from ....messages import Message
from ....runs.elsewhere import RemoteJournaledRun
from ....runs.journal import Journal, KeptRun
from ....runs.run import Listener, Run
from ....runs.service import RunService
from ....sessions.records import Branch, NewResponse, StoredResponse
from ....sessions.store import Store
from ....wire import InvalidJson, dumps, loads
from .answer import Answer, Item
from .ids import input_item_id, is_response_id, response_of_item

_PATIENCE = 5.0  # seconds for a run that was cancelled to end
_LOOK = 0.1  # seconds between two looks whether it has, in another process

_INTERRUPTED = "The gateway stopped before the response was finished."


@dataclass(frozen=True, slots=True)
class Draft:
    """What a response is made from.

    :ivar created_at: Unix milliseconds.
    :ivar echo: the fields of the response that repeat the request.
    :ivar items: what was asked, as it is shown again.
    :ivar system: the text of all system items so far, which holds for those that follow, too.
    :ivar reasoning: the model's reasoning is a part of the output.
    :ivar owner: the namespace of the caller whose it is; "" for the owner of the gateway.
    """

    id: str
    agent_id: str
    created_at: int
    echo: Mapping[str, Any]
    items: tuple[Item, ...] = ()
    system: str = ""
    reasoning: bool = False
    stored: bool = True
    owner: str = ""

    def answer(self, ended_at: Callable[[], int]) -> Answer:
        """The response before anything has happened; ``ended_at`` is asked for Unix seconds."""
        seconds = self.created_at // 1000
        return Answer(self.id, seconds, self.echo, ended_at, reasoning=self.reasoning)

    def failed(self, reason: str) -> dict[str, Any]:
        """The body of the response if nothing came of it."""
        answer = self.answer(lambda: 0)
        for _ in answer.feed(RunFailed(GatewayError(reason))):
            pass
        return answer.body()

    def request(self) -> str:
        """What of it is stored, as JSON."""
        made = {"echo": self.echo, "items": self.items, "system": self.system, "reasoning": self.reasoning}
        return dumps(made | {"owner": self.owner} if self.owner else made).decode()

    @classmethod
    def of(cls, stored: StoredResponse) -> Draft:
        """The draft of a stored response; what cannot be read of it is empty."""
        made = _object(stored.request)
        return cls(
            id=stored.id,
            agent_id=stored.agent_id,
            created_at=stored.created_at,
            echo={"background": False, **made.get("echo", {})},
            items=tuple(made.get("items", ())),
            system=made.get("system", ""),
            reasoning=made.get("reasoning", False),
            owner=made.get("owner", ""),
        )


@dataclass(slots=True)
class _End:
    """When a response was over, in Unix seconds, once it is.

    Apart from the response: an answer that knew the response it is a part of would outlive both.
    """

    seconds: int = 0

    def __call__(self) -> int:
        return self.seconds


@dataclass(slots=True)
class Live:
    """A response that is being made.

    :ivar answer: as it now stands; its run's thread feeds it.
    :ivar end: when it was over, once it is.
    :ivar deleted: it is to be forgotten as soon as it is over.
    """

    draft: Draft
    end: _End = field(default_factory=_End)
    answer: Answer = field(init=False)
    over: threading.Event = field(default_factory=threading.Event)
    deleted: bool = False

    def __post_init__(self) -> None:
        self.answer = self.again()

    def again(self) -> Answer:
        """The same answer from the beginning, for one who reads it as a stream."""
        return self.draft.answer(self.end)


class Ledger:
    """All responses of a gateway. Any thread may call any method.

    :meth:`observe` is an observer of the runs. A response that is stored as open and not live here is
    being made in another process.

    :param journal: where runs are found that other processes have.
    :param clock: Unix time in milliseconds.
    """

    def __init__(self, store: Store, runs: RunService, journal: Journal, clock: Callable[[], int]) -> None:
        self._store = store
        self._runs = runs
        self._journal = journal
        self._clock = clock
        self._live: dict[str, Live] = {}

    def observe(self, run: Run) -> Listener | None:
        """Listens to a run that a response is made of."""
        live = self._live.get(run.id)
        return None if live is None else partial(self._grow, live)

    def _grow(self, live: Live, event: RunEvent) -> None:
        if isinstance(event, TERMINAL):
            live.end.seconds = self._clock() // 1000
        for _ in live.answer.feed(event):
            pass
        if isinstance(event, TERMINAL):
            self._close(live)

    def open(self, draft: Draft, branch: Branch, parent_id: str | None = None) -> tuple[Live, str]:
        """Make room for a response whose run is about to begin, and store it if it is to be stored.

        :param branch: the session that it begins, if it does.
        :returns: the response, and the key of the session that it goes on in.
        :raises NotFound: the response that it follows was deleted.
        """
        key: str | None = branch.key
        if draft.stored:
            made = draft.request()
            worker = self._runs.worker
            new = NewResponse(draft.id, draft.agent_id, draft.created_at, made, parent_id, worker)
            key = self._store.open_response(new, branch)
        if key is None:
            raise no_predecessor(str(parent_id))
        live = self._live[draft.id] = Live(draft)
        return live, key

    def abandon(self, live: Live, branch: Branch) -> None:
        """Take back :meth:`open`: the run was refused."""
        del self._live[live.draft.id]
        if live.draft.stored:
            self._store.abandon_response(live.draft.id, branch)

    def require_own(self, response_id: str, owner: str) -> None:
        """:raises NotFound: for the caller with this namespace, there is no such response."""
        if owner and not _is_of(self._find(response_id)[1], owner):
            raise _not_found(response_id)

    def predecessor(self, response_id: str, owner: str) -> Draft:
        """The stored response that another one follows.

        :param owner: the namespace of the caller who wants to follow it.
        :raises NotFound: there is none, or none of theirs.
        :raises InvalidRequest: it is not over, or nothing can follow it.
        """
        live, stored = self._find(response_id)
        if stored is None or not _is_of(stored, owner):
            raise no_predecessor(response_id)
        if live is not None or stored.open:
            raise _cannot_follow(f"The response {response_id!r} is not finished yet.")
        if stored.last_seq is None:
            raise _cannot_follow(f"The response {response_id!r} ended before it began; follow another one.")
        return Draft.of(stored)

    def said_until(self, response_id: str) -> list[Message]:
        """The whole conversation up to the end of a stored response.

        :raises NotFound: there is none any more.
        """
        said = self._store.response_messages(response_id)
        if said is None:
            raise no_predecessor(response_id)
        return said

    def body(self, response_id: str) -> dict[str, Any]:
        """A stored response as it now stands.

        :raises NotFound: there is none.
        """
        live, stored = self._find(response_id)
        if stored is None:
            raise _not_found(response_id)
        if live is not None:
            return live.answer.body()
        if stored.open:
            return self._so_far(Draft.of(stored)).body()
        return _object(stored.body) or Draft.of(stored).failed(_INTERRUPTED)

    def live_of(self, run: KeptRun) -> Live | None:
        """The response that a run makes or has made; None if it makes none."""
        if isinstance(run.about, Live):
            return run.about
        stored = self._store.get_response(run.id) if isinstance(run, RemoteJournaledRun) else None
        if stored is None:
            return None
        ended_at = _object(stored.body).get("completed_at") or self._clock() // 1000
        return Live(Draft.of(stored), _End(ended_at))

    def input_items(self, response_id: str) -> list[Item]:
        """What a stored response was asked, in order.

        :raises NotFound: there is none.
        """
        _, stored = self._find(response_id)
        if stored is None:
            raise _not_found(response_id)
        return _numbered(Draft.of(stored))

    def references(self, limit: int, owner: str) -> References:
        """Finds the items that one request refers to, up to ``limit`` bytes of them, of its caller's own."""

        def own(response_id: str) -> StoredResponse | None:
            stored = self._find(response_id)[1]
            return stored if _is_of(stored, owner) else None

        return References(own, limit)

    def cancel(self, response_id: str) -> dict[str, Any]:
        """Stop a stored response if it is being made; the response, which is then over.

        :raises NotFound: there is none.
        """
        live, stored = self._find(response_id)
        if live is not None or (stored is not None and stored.open):
            self._stop(response_id, live)
        return self.body(response_id)

    def delete(self, response_id: str) -> None:
        """Forget a stored response; one that is being made is stopped first.

        :raises NotFound: there is none.
        """
        live, stored = self._find(response_id)
        if stored is None:
            raise _not_found(response_id)
        if live is not None:
            live.deleted = True
        if (live is None and not stored.open) or self._stop(response_id, live):
            self._store.delete_response(response_id)

    def _stop(self, response_id: str, live: Live | None) -> bool:
        """Stop a response that is being made; False if it is not over in time."""
        self._runs.cancel(response_id, CancelReason.USER)
        if live is not None:
            return live.over.wait(_PATIENCE)
        until = time.monotonic() + _PATIENCE
        while (stored := self._store.get_response(response_id)) is not None and stored.open:
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK)
        return True

    def _so_far(self, draft: Draft) -> Answer:
        """What is known of a response that another process makes."""
        answer = draft.answer(lambda: self._clock() // 1000)
        for event in self._journal.heard(draft.id):
            for _ in answer.feed(event):
                pass
        return answer

    def _find(self, response_id: str) -> tuple[Live | None, StoredResponse | None]:
        """A response that is stored; the first is None unless it is being made.

        What is not live any more has been closed in the store before.
        """
        if not is_response_id(response_id):
            return None, None
        live = self._live.get(response_id)
        if live is not None and live.answer.over:  # whoever sees its end may go on from there
            live.over.wait(_PATIENCE)
            live = self._live.get(response_id)
        stored = self._store.get_response(response_id)
        return (None, None) if live is not None and live.deleted else (live, stored)

    def _close(self, live: Live) -> None:
        draft = live.draft
        try:
            if draft.stored:
                self._store.close_response(draft.id, dumps(live.answer.body()).decode())
            if live.deleted:
                self._store.delete_response(draft.id)
        finally:
            live.draft = replace(draft, items=(), system="")  # the journal keeps it for a while
            del self._live[draft.id]
            live.over.set()


class References:
    """The items of stored responses that one request refers to. One thread.

    :ivar agents: the ids of those whose responses they are.
    """

    def __init__(self, stored: Callable[[str], StoredResponse | None], limit: int) -> None:
        self.agents: set[str] = set()
        self._stored = stored
        self._left = limit
        self._known: dict[str, dict[str, Item]] = {}

    def find(self, item_id: str) -> Item | None:
        """An item of a stored response's input or output.

        :raises InvalidRequest: together with those found before it is too much.
        """
        response_id = response_of_item(item_id)
        if response_id is None:
            return None
        if response_id not in self._known:
            self._known[response_id] = self._items(response_id)
        item = self._known[response_id].get(item_id)
        self._spend(len(dumps(item)))
        return item

    def _items(self, response_id: str) -> dict[str, Item]:
        stored = self._stored(response_id)
        if stored is None:
            return {}
        self.agents.add(stored.agent_id)
        self._spend(len(stored.request) + len(stored.body or ""))
        output: Iterable[Item] = _object(stored.body).get("output", ())
        return {item["id"]: item for item in (*_numbered(Draft.of(stored)), *output)}

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise InvalidRequest("The items that `input` refers to are too large together.", param="input")


def no_predecessor(response_id: str) -> NotFound:
    """The refusal to follow a response that is not there."""
    error = NotFound(f"Previous response with id {response_id[:100]!r} not found.")
    error.code, error.param = "previous_response_not_found", "previous_response_id"
    return error


def _cannot_follow(why: str) -> InvalidRequest:
    return InvalidRequest(why, param="previous_response_id", code="previous_response_not_usable")


def _not_found(response_id: str) -> NotFound:
    error = NotFound(f"Response with id {response_id[:100]!r} not found.")
    error.code, error.param = "response_not_found", "response_id"
    return error


def _numbered(draft: Draft) -> list[Item]:
    """What was asked, each item with its id."""
    return [
        {"id": input_item_id(draft.id, item["type"], index), **item} for index, item in enumerate(draft.items)
    ]


def _is_of(stored: StoredResponse | None, owner: str) -> bool:
    """True for what a caller with this namespace may see; who has none sees all."""
    return not owner or (stored is not None and Draft.of(stored).owner == owner)


def _object(text: str | None) -> dict[str, Any]:
    """A stored object; an empty one for what cannot be read, as a damaged row may hold anything."""
    if text is None:
        return {}
    try:
        value = loads(text.encode())
    except InvalidJson:
        return {}
    return value if isinstance(value, dict) else {}
