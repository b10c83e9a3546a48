"""May this command run? The policy decides, and where it says so an operator does."""

from __future__ import annotations

import shlex
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from ..events import ApprovalRequested, ApprovalResolved
from ..log import get_logger
from .commands import executables, judge
from .exec_policy import ApprovalsFile, ExecPolicy
from .registry import ToolContext, ToolError

Decision: TypeAlias = Literal["allow-once", "allow-always", "deny"]
Outcome: TypeAlias = Decision | Literal["expired"]
Watcher: TypeAlias = "Callable[[Approval, Outcome | None], None]"

_log = get_logger("exec")

# Programs whose business is to run what their arguments say: to allow one for ever is to allow
# everything for ever. The list cannot be complete; it is for the obvious ones, and an operator who
# means it can still write any of them into the configuration's allow list.
_RUNNERS = frozenset(
    """ash awk bash bun busybox bwrap capsh cargo choom chroot chrt cmake cpulimit csh dash deno doas
    docker ed emacs env ex expect fakeroot find firejail fish flock gawk gcc gdb git-shell go ionice
    java jshell julia ksh kubectl less linux ltrace lua m4 make mawk more nice ninja node nohup npm npx
    nsenter nvim osascript parallel perl php pip pkexec pnpm podman poetry prlimit pwsh pytest python
    rsync ruby run-parts runuser script sed setarch setpriv setsid sh ssh ssh-agent stdbuf strace su
    sudo systemd-run tar taskset tclsh tcsh time timeout tmux tox unshare uv uvx valgrind vi vim watch
    xargs yarn zsh""".split()  # noqa: SIM905 - a list would fill the page
)


@dataclass(frozen=True, slots=True)
class Approval:
    """A command that waits for an operator's word. Times are Unix milliseconds."""

    id: str
    agent_id: str
    session_key: str
    run_id: str
    command: str
    directory: str
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """A command that an agent wants to run.

    :ivar variables: what the agent itself adds to the environment.
    :ivar path: the ``PATH`` that the command will have.
    """

    command: str
    directory: Path
    path: str
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The whole of it, for the operator."""
        assignments = (f"{name}={shlex.quote(value)}" for name, value in self.variables.items())
        return " ".join([*assignments, self.command])


@dataclass(slots=True)
class _Waiting:
    approval: Approval
    answered: threading.Event = field(default_factory=threading.Event)
    decision: Decision | None = None


class Elsewhere(Protocol):
    """What waits in other processes."""

    def pending(self) -> list[Approval]:
        """All that waits in any process, the oldest first."""

    def resolve(self, approval_id: str, decision: Decision) -> bool:
        """Pass a decision on; False if nobody waits for it."""


class Approvals:
    """Brings commands that wait and operators together. Any thread may call any method.

    :ivar elsewhere: other processes, if there are any.
    """

    elsewhere: Elsewhere | None = None

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards both, and each decision
        self._waiting: dict[str, _Waiting] = {}
        self._watchers: list[Watcher] = []

    def request(self, context: ToolContext, command: str, directory: str, timeout: float) -> Outcome:
        """Ask, and wait up to ``timeout`` seconds for the answer. Blocks the run's thread.

        :raises Cancelled: soon after the run is cancelled; nobody can answer any more.
        """
        approval = _approval(context, command, directory, timeout)
        waiting = _Waiting(approval)
        with self._lock:
            self._waiting[approval.id] = waiting
        outcome: Outcome = "expired"
        remove = context.cancel.on_cancel(waiting.answered.set)
        try:
            _log.warning(
                "a command of agent %s waits for an answer: openclaw approvals (%s)",
                context.agent_id, approval.id,
            )  # fmt: skip
            self._tell(approval, None)
            context.emit(
                ApprovalRequested(approval.id, context.call_id, command, directory, approval.expires_at)
            )
            with context.off_the_clock():
                waiting.answered.wait(timeout)
        finally:
            remove()
            with self._lock:
                del self._waiting[approval.id]
                outcome = waiting.decision or "expired"
            self._tell(approval, outcome)
        context.cancel.raise_if_cancelled()
        context.emit(ApprovalResolved(approval.id, outcome))
        return outcome

    def pending(self) -> list[Approval]:
        """What waits for an answer, here or elsewhere."""
        own = self.own()
        known = {approval.id for approval in own}
        others = self.elsewhere.pending() if self.elsewhere is not None else []
        return [*own, *(approval for approval in others if approval.id not in known)]

    def resolve(self, approval_id: str, decision: Decision) -> bool:
        """Answer, wherever it is waited for; False if nobody does any more. The first answer holds."""
        if self.resolve_own(approval_id, decision):
            return True
        return self.elsewhere is not None and self.elsewhere.resolve(approval_id, decision)

    def own(self) -> list[Approval]:
        """What waits for an answer in this process, the oldest first."""
        with self._lock:
            return [waiting.approval for waiting in self._waiting.values()]

    def resolve_own(self, approval_id: str, decision: Decision) -> bool:
        """As :meth:`resolve`, but only what waits in this process."""
        with self._lock:
            waiting = self._waiting.get(approval_id)
            if waiting is None or waiting.decision is not None:
                return False
            waiting.decision = decision
        waiting.answered.set()
        return True

    def subscribe(self, watcher: Watcher) -> Callable[[], None]:
        """Call ``watcher`` with each new approval and None, and again with its outcome.

        In the thread of the run that waits, so it must be quick. Returns a function that ends it.
        """
        with self._lock:
            self._watchers.append(watcher)
        return lambda: self._unsubscribe(watcher)

    def _unsubscribe(self, watcher: Watcher) -> None:
        with self._lock, suppress(ValueError):
            self._watchers.remove(watcher)

    def _tell(self, approval: Approval, outcome: Outcome | None) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            try:
                watcher(approval, outcome)
            except Exception:  # one channel's trouble is not the run's
                _log.exception("an approval could not be announced")


class ExecGate:
    """Decides about each command before it runs.

    :param policy_of: the configured policy of an agent, by its id.
    :param file: narrows the policy, and remembers what is always allowed.
    """

    def __init__(
        self, policy_of: Callable[[str], ExecPolicy], approvals: Approvals, file: ApprovalsFile
    ) -> None:
        self._policy_of = policy_of
        self._approvals = approvals
        self._file = file

    def admit(self, context: ToolContext, proposal: Proposal) -> str:
        """The command line to run in place of the proposed one; may wait for an operator.

        :raises ToolError: it may not run.
        :raises Cancelled: while waiting.
        """
        policy = self._file.narrow(context.agent_id, self._policy_of(context.agent_id))
        if policy.security == "deny":
            raise ToolError("Commands are not allowed for this agent.")
        pinned = _pinned(proposal, policy)
        allowed = proposal.command if policy.security == "full" else pinned
        if policy.ask == "always" or (policy.ask == "on-miss" and allowed is None):
            return self._ask(context, proposal, policy, pinned)
        if allowed is None:
            raise ToolError(f"Not on the allow list: {_advice(policy)}")
        return allowed

    def _ask(self, context: ToolContext, proposal: Proposal, policy: ExecPolicy, pinned: str | None) -> str:
        outcome = self._approvals.request(
            context, proposal.text, str(proposal.directory), policy.timeout_seconds
        )
        if outcome == "deny":
            raise ToolError("The operator has denied this command.")
        if outcome == "allow-always":
            self._remember(context, proposal)
        if outcome != "expired" or policy.ask_fallback == "full":
            return proposal.command
        if policy.ask_fallback == "allowlist" and pinned is not None:
            return pinned
        raise ToolError(
            f"This command needs an operator's approval, and nobody answered within "
            f"{policy.timeout_seconds:g} seconds. It was not run."
        )

    def _remember(self, context: ToolContext, proposal: Proposal) -> None:
        patterns = _lasting(proposal, context.workspace.resolve())
        if not patterns:
            _log.info(
                "agent %s: the command is too open to be always allowed; allowed once", context.agent_id
            )
            return
        try:
            self._file.remember(context.agent_id, patterns)
        except OSError as error:
            _log.warning("what is always allowed could not be stored: %s", error.strerror)


def _approval(context: ToolContext, command: str, directory: str, timeout: float) -> Approval:
    now = int(time.time() * 1000)
    return Approval(
        id=str(uuid.uuid4()),
        agent_id=context.agent_id,
        session_key=context.session_key,
        run_id=context.run_id,
        command=command,
        directory=directory,
        created_at=now,
        expires_at=now + int(timeout * 1000),
    )


def _pinned(proposal: Proposal, policy: ExecPolicy) -> str | None:
    if proposal.variables:  # LD_PRELOAD, GIT_SSH_COMMAND, …: no list of names would be complete
        return None
    return judge(proposal.command, policy.allowlist, proposal.path)


def _advice(policy: ExecPolicy) -> str:
    names = ", ".join(policy.allowlist) or "nothing"
    return (
        f"allowed are {names}, joined by |, &&, || or ;, "
        "without redirections, substitutions, variables or an env of their own."
    )


def _lasting(proposal: Proposal, workspace: Path) -> list[str]:
    """Patterns that allow this command's programs for ever; none if one of them is too open.

    Too open is what runs other programs, and what the agent itself could write.
    """
    found = executables(proposal.command, proposal.path) or []
    names = [name.rstrip("0123456789.-") for e in found for name in (e.location.name, e.real.name)]
    if proposal.variables or not _RUNNERS.isdisjoint(names):
        return []
    if any(e.real.is_relative_to(workspace) or e.location.is_relative_to(workspace) for e in found):
        return []
    return list(dict.fromkeys(str(executable.location) for executable in found))
