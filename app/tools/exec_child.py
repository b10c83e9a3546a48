"""The warden of one command: starts it, waits for it, and leaves nothing of it behind.

A program, not a module: the gateway runs this file by its path, so it imports nothing of the
package. Its standard input, output and error are the command's own; its one argument is the
descriptor of a socket to the gateway. There it gets one line of JSON, the order; whatever follows,
above all the end of the connection (the gateway is gone), means: end the command. It answers with
one line once nothing of the command is left, and the end of the connection says that it is over.

Where the kernel allows it the command lives in a PID namespace of its own, with a ``/proc`` that
shows nothing else, and this program's third incarnation is process 1 in there::

    warden            started by the gateway, only waits
    └── middle        has left the old namespaces, only waits
        └── keeper    process 1 of the new ones
            └── shell

Each dies with its parent, and with process 1 the kernel ends its whole namespace. Elsewhere the
warden is the keeper itself: all orphans of the command become its children.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any, NoReturn

_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER = 1, 24, 36
_CAP_SYS_ADMIN = 21
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
_MS_RDONLY, _MS_REMOUNT, _MS_REC = 0x1, 0x20, 0x4000
_MS_BIND, _MS_PRIVATE, _MS_NOSUID_NODEV_NOEXEC = 0x1000, 0x44000, 0xE

_TICK = 0.05  # seconds between two looks at the number of processes
_LINGER = 0.3  # seconds that a command's last helpers get to end by themselves
_ROUND = 0.01  # seconds between two rounds of SIGKILL


def main() -> None:
    """Carry out the order that comes through the socket."""
    control = int(sys.argv[1])
    os.set_inheritable(control, False)
    order = _read_order(control)
    if not (order["isolate"] and _LINUX and _isolated(control, order)):
        _keep(control, order, isolated=False)


def _read_order(control: int) -> dict[str, Any]:
    text = b""
    while not text.endswith(b"\n"):
        more = os.read(control, 65536)
        if not more:
            sys.exit()
        text += more
    order: dict[str, Any] = json.loads(text)
    return order


def _isolated(control: int, order: dict[str, Any]) -> bool:
    """True if the command has run, in namespaces of its own; False if there can be none."""
    readable, writable = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(readable)
        _middle(control, order, writable)
    os.close(writable)
    entered = os.read(readable, 1) != b""
    os.close(readable)
    if entered:
        _let_go_of_stdio()
    os.waitpid(middle, 0)
    return entered


def _middle(control: int, order: dict[str, Any], entered: int) -> NoReturn:
    try:
        _leave_namespaces(order["processes"])
        _die_with_parent()
        keeper = os.fork()
        if keeper == 0:
            _die_with_parent()
            _furnish(order)
            os.write(entered, b"+")
            os.close(entered)
            _keep(control, order, isolated=True)
            os._exit(0)
        os.close(entered)
        _let_go_of_stdio()
        os.waitpid(keeper, 0)
    finally:  # whatever went wrong: not a second warden
        os._exit(0)


def _leave_namespaces(processes: int) -> None:
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        _call("unshare", _CLONE_NEWNS | _CLONE_NEWPID)
        return
    _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - pathlib takes long to import
            file.write(text)
    if _kernel() >= (5, 14):  # older ones count every process of the user, wherever it lives
        _limit(resource.RLIMIT_NPROC, 8 * processes)  # it counts threads too


def _furnish(order: dict[str, Any]) -> None:
    """Give the new namespace a ``/proc`` of its own, nothing to read where secrets are, and nothing
    to write where the gateway keeps its state."""
    _call("mount", b"none", b"/", None, ctypes.c_ulong(_MS_PRIVATE), None)
    if order["sealed"]:
        with suppress(OSError):
            _seal(os.fsencode(order["sealed"]), os.fsencode(order["workspace"]))
    for path in order["hidden"]:
        with suppress(OSError):  # it does not exist
            _call("mount", b"/dev/null", os.fsencode(path), None, ctypes.c_ulong(_MS_BIND), None)
    _call("mount", b"proc", b"/proc", b"proc", ctypes.c_ulong(_MS_NOSUID_NODEV_NOEXEC), None)
    if os.geteuid() == 0:  # else the command could take the fresh one away and see the old one
        _call("prctl", _PR_CAPBSET_DROP, _CAP_SYS_ADMIN, 0, 0, 0)


def _seal(directory: bytes, workspace: bytes) -> None:
    """Make ``directory`` read-only, but for a workspace in it, which becomes a mount of its own before."""
    _call("mount", workspace, workspace, None, ctypes.c_ulong(_MS_BIND), None)
    _call("mount", directory, directory, None, ctypes.c_ulong(_MS_BIND | _MS_REC), None)
    _call("mount", None, directory, None, ctypes.c_ulong(_MS_BIND | _MS_REMOUNT | _MS_RDONLY), None)


def _keep(control: int, order: dict[str, Any], *, isolated: bool) -> None:
    if _LINUX:
        _call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    answer = _Keeper(control, order, isolated).run()
    with suppress(OSError):  # the gateway is gone
        os.write(control, json.dumps(answer).encode() + b"\n")


class _Keeper:
    """Parent of the shell, and in the end of all that the command has started."""

    def __init__(self, control: int, order: dict[str, Any], isolated: bool) -> None:
        self._control = control
        self._order = order
        self._isolated = isolated
        self._status: int | None = None
        self._woken, wake = os.pipe()
        for fd in self._woken, wake:
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._shell = os.fork()
        if self._shell == 0:
            _become(order)
        _let_go_of_stdio()

    def run(self) -> dict[str, Any]:
        """Wait for the end and clear up; returns the answer to the gateway."""
        crowded = self._watch()
        left = 0
        if self._status is not None and self._wait(_LINGER):
            left = self._population()
        if not crowded and self._reap():
            self._signal(signal.SIGTERM)
            self._wait(self._order["grace"])
        self._signal(signal.SIGKILL)
        while self._wait(_ROUND):
            self._signal(signal.SIGKILL)
        code = None if self._status is None else os.waitstatus_to_exitcode(self._status)
        return {"code": code, "crowded": crowded, "left": left}

    def _watch(self) -> bool:
        """Until the shell has ended or shall end; True if the command has too many processes."""
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(self._woken, select.POLLIN)
        while True:
            if any(fd == self._control for fd, _ in poller.poll(_TICK * 1000)):
                return False
            self._drain_wakeups()
            self._reap()
            if self._status is not None:
                return False
            if self._population() > self._order["processes"]:
                return True

    def _wait(self, seconds: float) -> bool:
        """Until all processes have ended, but no longer than this; True if some have not."""
        deadline = time.monotonic() + seconds
        while self._reap():
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            select.select([self._woken], [], [], left)
            self._drain_wakeups()
        return False

    def _reap(self) -> bool:
        """Bury the dead; True while somebody is alive. Who is alive has an ancestor here."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._shell:
                    self._status = status
        except ChildProcessError:
            return False

    def _drain_wakeups(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)

    def _population(self) -> int:
        return len(_processes()) - 1 if self._isolated else len(_descendants(os.getpid()))

    def _signal(self, number: int) -> None:
        """To all, by groups: within a group nobody can fork away from a signal."""
        if self._isolated:
            with suppress(ProcessLookupError):
                os.kill(-1, number)
            return
        groups = set(_descendants(os.getpid()).values()) if _LINUX else {self._shell}
        for group in groups:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)


def _become(order: dict[str, Any]) -> NoReturn:
    """Turn into the shell."""
    try:
        os.setsid()
        _die_with_parent()
        _limit(resource.RLIMIT_CORE, 0)
        os.nice(5)
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("700")
        for number in signal.SIGPIPE, signal.SIGXFSZ:  # Python ignores them, programs should not
            signal.signal(number, signal.SIG_DFL)
        os.chdir(order["directory"])
        shell = order["shell"]
        os.execve(shell, [shell, "-c", order["command"]], order["environment"])  # noqa: S606
    except OSError as error:
        os.write(2, f"The command cannot be started: {error.strerror}.\n".encode())
    finally:
        os._exit(126)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()] if _LINUX else []  # noqa: PTH208


def _descendants(ancestor: int) -> dict[int, int]:
    """Process ids of all descendants, and the process group of each."""
    parents, groups = {}, {}
    for pid in _processes():
        with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            _, parent, group, *_ = file.read().rpartition(b")")[2].split()
            parents[pid], groups[pid] = int(parent), int(group)
    family = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return {pid: groups[pid] for pid in family - {ancestor}}


def _die_with_parent() -> None:
    if _LINUX:
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL.value, 0, 0, 0)


def _let_go_of_stdio() -> None:
    """So that the command's output ends when the command does."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in 0, 1, 2:
        os.dup2(nothing, fd)
    os.close(nothing)


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    with suppress(ValueError, OSError):
        resource.setrlimit(what, (most, hard if what == resource.RLIMIT_NPROC else most))


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


def _call(function: str, *arguments: Any) -> None:
    """Call a function of the C library.

    :raises OSError: it says -1.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, function)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main()
