"""Which commands an agent may run: the configuration's word and the approvals file's, the stricter.

``exec-approvals.json`` is OpenClaw's, in the state directory. The operator may write it; the
gateway adds what is always allowed. What else is in it stays as it is.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from ..log import get_logger
from ..wire import InvalidJson, dumps, loads
from .registry import ToolError

Security: TypeAlias = Literal["deny", "allowlist", "full"]
Ask: TypeAlias = Literal["always", "on-miss", "off"]

# The strictest first.
_SECURITY: tuple[Security, ...] = ("deny", "allowlist", "full")
_ASK: tuple[Ask, ...] = ("always", "on-miss", "off")
_EVERYBODY = "*"

_log = get_logger("exec")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ExecPolicy:
    """What may run, and when an operator is asked.

    :ivar security: ``full`` allows every command, ``allowlist`` those that match, ``deny`` none.
    :ivar ask: ``on-miss`` asks about what the allow list does not hold, ``always`` about
        everything; ``off`` never asks, and what is not allowed is refused. To be asked about each
        command is ``allowlist`` with ``on-miss`` and an empty list.
    :ivar allowlist: patterns, see :func:`.commands.judge`.
    :ivar ask_fallback: the security that holds when nobody has answered in time.
    :ivar timeout_seconds: how long an answer may take.
    """

    security: Security = "deny"
    ask: Ask = "on-miss"
    allowlist: tuple[str, ...] = ()
    ask_fallback: Security = "deny"
    timeout_seconds: float = 120.0


class ApprovalsFile:
    """The approvals file at ``path``; it may be missing. Any thread may call any method."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()  # one change at a time

    def narrow(self, agent_id: str, policy: ExecPolicy) -> ExecPolicy:
        """``policy``, made stricter where the file says so, with what the file always allows.

        :raises ToolError: the file is there and cannot be used.
        """
        file = self._read()
        agent, everybody = (file.agents.get(name, _Agent()) for name in (agent_id, _EVERYBODY))
        rules = (agent, everybody, file.defaults)
        entries = [*everybody.allowlist, *agent.allowlist]
        return replace(
            policy,
            security=_stricter(_SECURITY, policy.security, *(r.security for r in rules)),
            ask=_stricter(_ASK, policy.ask, *(r.ask for r in rules)),
            ask_fallback=_stricter(_SECURITY, policy.ask_fallback, *(r.ask_fallback for r in rules)),
            allowlist=policy.allowlist + tuple(entry.pattern for entry in entries),
        )

    def remember(self, agent_id: str, patterns: Iterable[str]) -> None:
        """Always allow these to the agent.

        :raises ToolError: the file is there and cannot be used.
        :raises OSError: it cannot be written.
        """
        with self._lock:
            file = self._read()
            agent = file.agents.setdefault(agent_id, _Agent())
            known = {entry.pattern: entry for entry in agent.allowlist}
            for pattern in patterns:
                entry = known.setdefault(pattern, _Entry(id=str(uuid.uuid4()), pattern=pattern))
                entry.last_used_at = int(time.time() * 1000)
            agent.allowlist = list(known.values())
            self._write(file)

    def _read(self) -> _File:
        try:
            return _File.model_validate(loads(self._path.read_bytes()))
        except FileNotFoundError:
            return _File()
        except (OSError, InvalidJson, ValidationError) as error:
            _log.error("%s cannot be used, so no command is run: %s", self._path, _reason(error))
            raise ToolError(
                "No command can be run: the operator's approvals file is broken. Tell the user."
            ) from None

    def _write(self, file: _File) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = dumps(file.model_dump(by_alias=True, exclude_none=True, mode="json"))
        fd, name = tempfile.mkstemp(prefix=f"{self._path.name}.", dir=self._path.parent)  # mode 0600
        try:
            with os.fdopen(fd, "wb") as temporary:
                temporary.write(content)
                temporary.flush()
                os.fsync(temporary.fileno())
            Path(name).replace(self._path)
        except OSError:
            with suppress(OSError):
                Path(name).unlink()
            raise


class _Part(BaseModel):
    """A part of the file; what it has beyond this is kept."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        hide_input_in_errors=True,
    )


class _Rules(_Part):
    security: Security | None = None
    ask: Ask | None = None
    ask_fallback: Security | None = None


class _Entry(_Part):
    id: str | None = None
    pattern: str = Field(min_length=1)
    last_used_at: float | None = None


class _Agent(_Rules):
    allowlist: list[_Entry] = []


class _File(_Part):
    version: Literal[1] = 1
    defaults: _Rules = _Rules()
    agents: dict[str, _Agent] = {}


def _stricter(order: tuple[_T, ...], configured: _T, *rules: _T | None) -> _T:
    """Of what is configured and the first of ``rules`` that says anything."""
    said = next((rule for rule in rules if rule is not None), configured)
    return min(configured, said, key=order.index)


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return str(error)
