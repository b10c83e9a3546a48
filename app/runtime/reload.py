"""Another configuration without another process: all of it that can change, or nothing.

Everything new is made first, beside the old; then a few references are replaced. A run that is under way
ends with what it began with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from ..agents.cooldown import Cooldowns
from ..agents.registry import AgentRegistry
from ..config import Config, SessionConfig
from ..config.schema import Document
from ..errors import ConfigError, GatewayError
from ..log import get_logger
from ..providers.base import Provider
from ..runs.attempt import RunParts
from ..runs.executor import Executor
from ..runs.service import RunService
from .live import Live

# Everything below these keys holds for the next run; all else for the next start.
HOT = (
    "agents.list",
    "agents.entries",
    *(
        f"agents.defaults.{name}"
        for name in (
            *("workspace", "model", "embeddingModel", "params", "thinkingDefault", "userTimezone"),
            *("timeoutSeconds", "firstTokenTimeoutSeconds", "stallTimeoutSeconds", "maxRounds"),
            *("bootstrapMaxChars", "bootstrapTotalMaxChars", "compaction", "subagents.maxSpawnDepth"),
        )
    ),
    "models.providers",
    "session.reset",
    "session.maintenance",
    *(f"tools.{name}" for name in ("profile", "allow", "deny", "alsoAllow", "byProvider", "byChannel")),
    *(f"tools.exec.{name}" for name in ("security", "ask", "allowlist", "approvalTimeoutSeconds")),
    "messages",
    "skills",
)
# A process of its own with a model in its memory.
_NOT_HOT = ("models.providers.embedded",)
# Of these sections nothing is hot, so that the old ones stay.
_STAYING = ("gateway", "mcp", "logging", "state", "state_dir")

_LOOK = 1.0  # seconds between two looks at the files
_SETTLING = 2.0  # seconds until every run that was being admitted can be seen
_OFTEN = 10.0  # seconds between two looks whether the old providers are still in use

_log = get_logger("reload")

_Stamp: TypeAlias = dict[Path, tuple[int, int, int] | None]


@dataclass(frozen=True, slots=True)
class Built:
    """What is made from a configuration anew."""

    providers: Mapping[str, Provider]
    agents: AgentRegistry
    parts: RunParts
    models: list[str]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What has changed: the keys that hold now, and those that wait for a restart."""

    applied: tuple[str, ...]
    waiting: tuple[str, ...]


@dataclass(frozen=True)
class Changing:
    """What gets new contents: ``models`` is what people are shown of the configured ones."""

    live: Live
    agents: AgentRegistry
    runs: RunService
    models: list[str]
    cooldowns: Cooldowns


class Reloader:
    """Reads the configuration again. Any thread may call any method."""

    def __init__(
        self,
        parts: Changing,
        executor: Executor,
        load: Callable[[], Config] | None,
        build: Callable[[Config], Built],
    ) -> None:
        """:param load: reads the configuration from where it came from; None if it was given in code.
        :param build: makes what is new of it; opens and starts nothing.
        """
        self._parts = parts
        self._executor = executor
        self._load = load
        self._build = build
        self._lock = threading.Lock()  # one at a time; guards everything below
        self._began = parts.live.config
        self._files = self._began.files  # those that were read last, whether they could be used or not
        self._retired: list[Provider] = []
        self._closed = False

    def reload(self) -> Reloaded:
        """Read the configuration and let all of it hold that can.

        :raises ConfigError: it cannot be used, and nothing has changed.
        :raises GatewayError: there is nothing to read.
        """
        if self._load is None:
            raise GatewayError("The configuration was given in code: there is nothing to read again.")
        with self._lock:
            new = self._loaded(self._load)
            live = self._parts.live.config
            if live.path is not None and new.path is None:
                raise GatewayError("The configuration file is gone.")
            applied = tuple(filter(_is_hot, changed_keys(live, new)))
            waiting = tuple(key for key in changed_keys(self._began, new) if not _is_hot(key))
            if applied:
                named = replace(new, session=_with_old_key(new.session, live.session))
                built = self._build(named)
                self._apply(replace(named, **{name: getattr(live, name) for name in _STAYING}), built)
        return Reloaded(applied, waiting)

    def _loaded(self, load: Callable[[], Config]) -> Config:
        try:
            new = load()
        except ConfigError as error:
            self._files = error.files or self._files
            raise
        self._files = new.files or self._files
        return new

    def try_reload(self) -> Reloaded | None:
        """As :meth:`reload`; the log says what has come of it. None if nothing has changed."""
        try:
            done = self.reload()
        except GatewayError as error:
            _log.error("the configuration was not reloaded, the old one holds: %s", error)
            return None
        except Exception:
            _log.exception("the configuration was not reloaded, the old one holds")
            return None
        if done.applied:
            _log.info("config change applied: %s", ", ".join(done.applied))
        if done.waiting:
            _log.warning("config change waits for a restart: %s", ", ".join(done.waiting))
        return done if done.applied or done.waiting else None

    def watch(self, seconds: float = _LOOK) -> None:
        """Reload when the files have changed and stayed so for ``seconds``."""
        if self._load is not None:
            stamp = self._stamp()
            self._executor.after(seconds, lambda: self._look(stamp, stamp, seconds))

    def close(self) -> None:
        """Close the providers that nobody needs any more. Safe to call twice."""
        with self._lock:
            self._closed = True
            retired, self._retired = self._retired, []
        _close(retired)

    def _look(self, known: _Stamp, last: _Stamp, seconds: float) -> None:
        now = self._stamp()
        if now != known and now == last:
            self._executor.spawn("openclaw-reload", lambda: self._follow(now, seconds))
        else:
            self._executor.after(seconds, lambda: self._look(known, now, seconds))

    def _follow(self, seen: _Stamp, seconds: float) -> None:
        self.try_reload()
        # The change may have brought other files to look at. What has changed since is seen at the next look.
        now = self._stamp()
        known = seen if now.keys() == seen.keys() else now
        self._executor.after(seconds, lambda: self._look(known, known, seconds))

    def _stamp(self) -> _Stamp:
        return {path: _stamp_of(path) for path in self._files}

    def _apply(self, config: Config, built: Built) -> None:
        parts = self._parts
        old = [one for one in parts.live.providers.values() if one not in built.providers.values()]
        parts.live.adopt(config, built.providers)
        parts.agents.adopt(built.agents)
        parts.runs.adopt(built.parts)
        parts.models[:] = built.models
        parts.cooldowns.forget()  # a new key has not failed yet
        self._retired += old
        self._executor.after(_SETTLING, lambda: self._retire(old, parts.runs.ids()))

    def _retire(self, old: list[Provider], users: Iterable[str]) -> None:
        """Close providers once the runs that may be using them are over."""
        left = [run_id for run_id in users if self._parts.runs.get(run_id) is not None]
        if left:
            self._executor.after(_OFTEN, lambda: self._retire(old, left))
            return
        with self._lock:
            self._retired = [one for one in self._retired if one not in old]
        _close(old)


def changed_keys(old: Config, new: Config) -> list[str]:
    """The keys in which two configurations differ: `agents.defaults.model`, `models.providers.x.apiKey`."""
    names = [name for name in Document.model_fields if hasattr(new, name)]
    return [key for name in names for key in _differing(name, _dump(old, name), _dump(new, name))]


def _dump(config: Config, name: str) -> Any:
    return getattr(config, name).model_dump(by_alias=True)


def _differing(path: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield path
        return
    for key in dict.fromkeys((*old, *new)):
        yield from _differing(f"{path}.{key}", old.get(key), new.get(key))


def _with_old_key(new: SessionConfig, old: SessionConfig) -> SessionConfig:
    """Where runs and channels find main sessions, which must be one place."""
    return new.model_copy(update={"main_key": old.main_key})


def _is_hot(key: str) -> bool:
    return _is_below(key, HOT) and not _is_below(key, _NOT_HOT)


def _is_below(key: str, places: tuple[str, ...]) -> bool:
    return any(f"{key}.".startswith(f"{place}.") for place in places)


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _close(providers: Iterable[Provider]) -> None:
    with ExitStack() as steps:
        for provider in providers:
            steps.callback(provider.close)
