"""Slash commands: what a person on a chat surface says to the gateway and not to the agent.

Only a chat surface obeys them, and only where a message is nothing but a command. What they answer
is for the person: it is not stored, and no model sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from ..agents.models import THINKING, Candidate
from ..agents.registry import Agent, AgentRegistry
from ..cancel import CancelReason
from ..errors import ConfigError, InvalidRequest, StoreError
from ..messages import UserMessage
from ..sessions.records import Run as RunRecord
from ..sessions.records import Session, SessionSettings
from ..sessions.store import Store
from ..tools.exec import Commands
from .run import RunRequest
from .service import RunService

# Name -> (arguments, what it does). One without arguments is a command only if it stands alone.
COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "new": ("[model] [text]", "begin a new conversation; the text is its first message"),
        "reset": ("[model] [text]", "the same as /new"),
        "stop": ("", "stop the answer, those that wait, and background commands"),
        "status": ("", "agent, model, context, tokens and cost of this conversation"),
        "model": ("[list|provider/model|default]", "show or choose the model of this conversation"),
        "think": (f"[{'|'.join(THINKING)}|default]", "show or choose how hard the model thinks"),
        "compact": ("[focus]", "summarise the older part of this conversation now"),
        "usage": ("[off|tokens|full]", "choose what is told of it after each answer"),
        "whoami": ("", "which agent and session this is"),
        "help": ("", "this list"),
        "commands": ("", "this list"),
    }
)
_COMMAND = re.compile(r"\s*/([a-z]+)(?:\s(.*))?", re.DOTALL | re.IGNORECASE | re.ASCII)
_FIRST_WORD = re.compile(r"\s*(\S+)(?:\s(.*))?", re.DOTALL)
_STOP_WORDS = frozenset({"stop", "abort", "interrupt"})
_USAGE = ("off", "tokens", "full")


@dataclass(frozen=True, slots=True)
class Command:
    """A command by name, and the rest of its message as it was written."""

    name: str
    rest: str = ""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What a command comes to.

    :ivar text: for the person; may be empty if a run answers.
    :ivar request: the run to start now; None if the text is all.
    """

    text: str = ""
    request: RunRequest | None = None


def parse_command(text: str) -> Command | None:
    """The command that ``text`` is; None if it is a message to the agent, whatever it begins with."""
    match = _COMMAND.fullmatch(text)
    if match is None:
        return None
    name, rest = match[1].lower(), match[2] or ""
    if name not in COMMANDS or (rest.strip() and not COMMANDS[name][0]):
        return None
    return Command(name, rest)


def is_stop_word(text: str) -> bool:
    """True if ``text`` is one word that asks to stop; it means that only while something runs."""
    return text.strip().rstrip(".!").lower() in _STOP_WORDS


class ChatSurface:
    """Obeys the commands of all chat surfaces of a gateway. Any thread may call any method.

    :param resolve_model: the candidate for ``provider/model``; raises :class:`ConfigError`.
    :param models: what ``/model list`` shows.
    :param new_id: makes session ids.
    :param clock: Unix time in milliseconds.
    """

    def __init__(
        self,
        *,
        agents: AgentRegistry,
        store: Store,
        runs: RunService,
        commands: Commands,
        resolve_model: Callable[[str], Candidate],
        models: Sequence[str],
        new_id: Callable[[], str],
        clock: Callable[[], int],
    ) -> None:
        self._agents = agents
        self._store = store
        self._runs = runs
        self._commands = commands
        self._resolve_model = resolve_model
        self._models = models
        self._new_id = new_id
        self._clock = clock

    def command(self, request: RunRequest) -> ChatReply | None:
        """Obey the message of ``request`` if it is a command; None if it is for the agent.

        Waits for no run. What ``request`` asks for is not started here, nor is the reply's request.

        :raises AgentNotFound: no such agent.
        :raises InvalidRequest: the session belongs to another agent.
        :raises StoreError: the state could not be read or written.
        """
        text = _text(request)
        if is_stop_word(text) and self._live(request.session_key):
            return ChatReply(self._stop(request))
        command = parse_command(text)
        if command is None:
            return None
        place = self._place(request)
        match command:
            case Command("new" | "reset", rest):
                return self._begin_anew(request, place, rest)
            case Command("compact", focus):
                return ChatReply(request=replace(request, messages=(), compact=focus.strip()))
            case Command("stop"):
                return ChatReply(self._stop(request))
            case Command("status"):
                return ChatReply(self._status(place))
            case Command("model", rest):
                return ChatReply(self._model(place, rest.strip()))
            case Command("think", rest):
                return ChatReply(self._think(place, rest.strip().lower()))
            case Command("usage", rest):
                return ChatReply(self._usage(place, rest.strip().lower()))
            case Command("whoami"):
                return ChatReply(f"Agent: {place.agent.id}\nSession: {place.key}\nChannel: {request.channel}")
        return ChatReply(_help())

    def stop(self, session_key: str) -> list[str]:
        """Stop a session's runs, its sub-agents and its background commands; the ids of its runs."""
        stopped = self._runs.cancel_session(session_key, CancelReason.USER)
        self._commands.kill_session(session_key)
        return stopped

    def configure(self, agent_id: str, session_key: str, settings: SessionSettings) -> None:
        """Settle what a person has chosen, also for a session in which nothing was said yet.

        :raises StoreError: the state could not be written.
        """
        now = self._clock()
        if not self._store.configure(session_key, settings, now):
            self._store.create(session_key, self._new_id(), agent_id, now)
            self._store.configure(session_key, settings, now)

    def usage_line(self, run_id: str) -> str | None:
        """What to say after the answer of a finished run; None if nobody wants to know."""
        try:
            record = self._store.get_run(run_id)
            session = self._store.session(record.session_key) if record else None
        except StoreError:  # who asked has the answer, which is what counts
            return None
        if record is None or session is None or session.settings.usage not in ("tokens", "full"):
            return None
        line = _tokens(record.usage.input, record.usage.output)
        if session.settings.usage == "tokens":
            return line
        window = self._window(record)
        context = [_share(session.context_tokens, window)] if window else []
        return " · ".join((line, *_cost(record.cost), *context, record.model))

    def _live(self, session_key: str) -> list[str]:
        return self._runs.active([session_key])[session_key]

    def _place(self, request: RunRequest) -> _Place:
        agent = self._agents.get(request.agent_id)
        session = self._store.session(request.session_key)
        if session is not None and session.agent_id != agent.id:
            raise InvalidRequest(f"The session belongs to agent {session.agent_id!r}.", param="session_key")
        return _Place(agent, request.session_key, session)

    def _begin_anew(self, request: RunRequest, place: _Place, rest: str) -> ChatReply:
        candidate, text = self._chosen_first(rest)
        self.stop(place.key)
        self._store.archive(place.key, self._clock())
        told = "New session started."
        if candidate is not None:
            self._configure(_Place(place.agent, place.key, None), SessionSettings(model=candidate.ref))
            told += f" Model: {candidate.ref}."
        if not text.strip():
            return ChatReply(told)
        return ChatReply(told, replace(request, messages=(UserMessage.of(text),)))

    def _chosen_first(self, rest: str) -> tuple[Candidate | None, str]:
        """The model that ``rest`` begins with, if it does, and the text behind it."""
        match = _FIRST_WORD.fullmatch(rest)
        if match is None or "/" not in match[1]:
            return None, rest
        try:
            return self._resolve_model(match[1]), match[2] or ""
        except ConfigError:  # and/or, either/or, …
            return None, rest

    def _stop(self, request: RunRequest) -> str:
        key = request.session_key
        commands = len(self._commands.running(key))
        runs = len(self.stop(key))
        parts = (_count(runs, "run"), _count(commands, "background command"))
        told = " and ".join(part for part in parts if part)
        return f"Stopped {told}." if told else "Nothing is running."

    def _status(self, place: _Place) -> str:
        session = place.session
        candidate, why = self._candidate(place)
        runs = len(self._live(place.key))
        lines = [
            f"Agent: {place.agent.id}",
            f"Model: {candidate.ref} ({why})",
            f"Thinking: {_thinking(place)}",
            f"Context: {_share(session.context_tokens if session else 0, candidate.info.context_window)}",
            f"Compactions: {session.compactions if session else 0}",
            f"Session: {place.key}, {session.message_count if session else 0} messages",
            f"Tokens: {' · '.join(_sums(session))}",
            f"Runs: {min(runs, 1)} running, {max(0, runs - 1)} waiting",
            f"Background commands: {', '.join(self._commands.running(place.key)) or 'none'}",
        ]
        return "\n".join(lines)

    def _model(self, place: _Place, ref: str) -> str:
        current, why = self._candidate(place)
        if not ref:
            return f"Model: {current.ref} ({why}). Choose with /model list, provider/model or default."
        if ref.lower() == "list":
            refs = sorted({*self._models, current.ref})
            return "\n".join(f"{'*' if one == current.ref else '-'} {one}" for one in refs)
        if ref.lower() == "default":
            self._configure(place, replace(place.settings, model=None))
            return f"Model set to the agent's own, {place.agent.model_ref}."
        try:
            chosen = self._resolve_model(ref)
        except ConfigError as error:
            return str(error)
        self._configure(place, replace(place.settings, model=chosen.ref))
        return f"Model set to {chosen.ref}."

    def _think(self, place: _Place, level: str) -> str:
        options = f"{', '.join(THINKING)} or default"
        if not level:
            return f"Thinking: {_thinking(place)}. Choose {options}."
        if level not in (*THINKING, "default"):
            return f"There is no such level of thinking. Choose {options}."
        settings = replace(place.settings, thinking=None if level == "default" else level)
        place = self._configure(place, settings)
        return f"Thinking set to {_thinking(place)}."

    def _usage(self, place: _Place, choice: str) -> str:
        if choice not in _USAGE:
            now = place.settings.usage or "off"
            return f"Usage after each answer: {now}. Choose {', '.join(_USAGE[:-1])} or {_USAGE[-1]}."
        self._configure(place, replace(place.settings, usage=choice))
        return f"Usage after each answer: {choice}."

    def _configure(self, place: _Place, settings: SessionSettings) -> _Place:
        self.configure(place.agent.id, place.key, settings)
        return replace(place, session=self._store.session(place.key))

    def _candidate(self, place: _Place) -> tuple[Candidate, str]:
        """The model that will answer, and why this one."""
        own = place.agent.candidates[0]
        if place.settings.model is None:
            return own, "the agent's own"
        try:
            return self._resolve_model(place.settings.model), "chosen for this conversation"
        except ConfigError:
            return own, f"the agent's own; {place.settings.model} is no longer known"

    def _window(self, record: RunRecord) -> int | None:
        try:
            return self._resolve_model(record.model).info.context_window
        except ConfigError:
            return None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a command was given; ``session`` is None if nobody has said anything there yet."""

    agent: Agent
    key: str
    session: Session | None

    @property
    def settings(self) -> SessionSettings:
        return self.session.settings if self.session else SessionSettings()


def _text(request: RunRequest) -> str:
    """What was said, if it was nothing but text; else what no command is."""
    match request.messages:
        case (UserMessage(images=()) as message,):
            return message.text
    return ""


def _thinking(place: _Place) -> str:
    if place.settings.thinking:
        return f"{place.settings.thinking} (chosen for this conversation)"
    own = place.agent.params.reasoning_effort
    return "up to the model" if own is None else f"{'off' if own == 'none' else own} (the agent's own)"


def _sums(session: Session | None) -> tuple[str, ...]:
    if session is None:
        return (_tokens(0, 0),)
    return (_tokens(session.input_tokens, session.output_tokens), *_cost(session.cost or None))


def _tokens(put_in: int, put_out: int) -> str:
    return f"{put_in:,} in, {put_out:,} out"


def _cost(dollars: float | None) -> tuple[str, ...]:
    return () if dollars is None else (f"${dollars:,.4f}",)


def _share(used: int, window: int) -> str:
    return f"{used:,} of {window:,} tokens ({100 * used // window} %)"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}" if number else ""


def _help() -> str:
    lines = (f"/{name} {arguments}".rstrip() + f": {what}" for name, (arguments, what) in COMMANDS.items())
    return "\n".join((*lines, "Anything else goes to the agent."))
