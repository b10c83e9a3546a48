"""Who may run what, and what an operator's word changes."""

from __future__ import annotations

import itertools
import json
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from app.cancel import Cancelled, CancelReason, CancelToken
from app.events import ApprovalRequested, ApprovalResolved, ProgressEvent
from app.tools.approvals import Approval, Approvals, Decision, ExecGate, Proposal
from app.tools.exec_policy import ApprovalsFile, ExecPolicy
from app.tools.registry import ToolContext, ToolError


@dataclass
class Office:
    """A gate, a run in front of it, and what became known of both."""

    directory: Path
    policy: ExecPolicy
    approvals: Approvals = field(default_factory=Approvals)
    events: list[ProgressEvent] = field(default_factory=list)
    clock: list[str] = field(default_factory=list)
    cancel: CancelToken = field(default_factory=CancelToken)

    @property
    def path(self) -> Path:
        return self.directory / "state" / "exec-approvals.json"

    @property
    def bin(self) -> Path:
        return self.directory / "bin"

    def proposal(self, command: str, **variables: str) -> Proposal:
        return Proposal(command, self.directory / "workspace", str(self.bin), variables)

    def admit(self, command: str, **variables: str) -> str:
        gate = ExecGate(lambda _: self.policy, self.approvals, ApprovalsFile(self.path))
        context = ToolContext(
            "main",
            "agent:main:main",
            "run-1",
            "p/m",
            self.directory / "workspace",
            1,
            self.cancel,
            call_id="call-1",
            emit=self.events.append,
            off_the_clock=self.off_the_clock,
        )
        return gate.admit(context, self.proposal(command, **variables))

    def refusal(self, command: str, **variables: str) -> str:
        with pytest.raises(ToolError) as caught:
            self.admit(command, **variables)
        return str(caught.value)

    @contextmanager
    def off_the_clock(self) -> Iterator[None]:
        self.clock.append("stopped")
        yield
        self.clock.append("goes on")

    def write(self, content: Any) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def office(tmp_path: Path) -> Callable[..., Office]:
    for name in ("bin", "workspace"):
        (tmp_path / name).mkdir()
    for program in ("bin/git", "bin/rm", "bin/python3", "bin/taskset", "workspace/mine"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    return lambda **policy: Office(tmp_path, ExecPolicy(**policy))


@contextmanager
def operator(approvals: Approvals, act: Callable[[Approval], object]) -> Iterator[list[Approval]]:
    """Somebody in another thread who acts on each command that waits."""
    seen: list[Approval] = []
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            for approval in approvals.pending():
                if approval not in seen:
                    seen.append(approval)
                    act(approval)
            time.sleep(0.005)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def answering(office: Office, decision: Decision) -> Any:
    return operator(office.approvals, lambda approval: office.approvals.resolve(approval.id, decision))


# The policy


@pytest.mark.parametrize("ask", ["off", "on-miss", "always"])
def test_deny_refuses_everything_and_asks_nobody(office: Callable[..., Office], ask: str) -> None:
    assert office(security="deny", ask=ask, allowlist=("git",)).refusal("git") == (
        "Commands are not allowed for this agent."
    )


@pytest.mark.parametrize("ask", ["off", "on-miss"])
def test_full_runs_the_command_as_it_is(office: Callable[..., Office], ask: str) -> None:
    assert office(security="full", ask=ask).admit("rm -rf $HOME > x &") == "rm -rf $HOME > x &"


def test_what_is_on_the_allow_list_runs_as_it_was_judged(office: Callable[..., Office]) -> None:
    bench = office(security="allowlist", ask="on-miss", allowlist=("git",))

    assert bench.admit("git status") == f"{bench.bin}/git status"


@pytest.mark.parametrize("command", ["rm x", "git; rm x", "git $(rm x)", "git > x"])
def test_what_is_not_on_the_allow_list_is_refused(office: Callable[..., Office], command: str) -> None:
    assert (
        office(security="allowlist", ask="off", allowlist=("git",))
        .refusal(command)
        .startswith("Not on the allow list: allowed are git, joined by")
    )


def test_a_variable_of_the_agent_s_own_is_not_on_any_allow_list(office: Callable[..., Office]) -> None:
    bench = office(security="allowlist", ask="off", allowlist=("git",))

    assert "Not on the allow list" in bench.refusal("git fetch", GIT_SSH_COMMAND="rm x")


# Asking


@pytest.mark.parametrize(
    ("security", "ask", "command", "asked"),
    [
        ("allowlist", "on-miss", "rm", True),
        ("allowlist", "on-miss", "git", False),
        ("allowlist", "always", "git", True),
        ("full", "always", "git", True),
        ("full", "on-miss", "rm", False),
    ],
)
def test_when_an_operator_is_asked(
    office: Callable[..., Office], security: str, ask: str, command: str, asked: bool
) -> None:
    bench = office(security=security, ask=ask, allowlist=("git",))

    with answering(bench, "allow-once") as seen:
        bench.admit(command)

    assert len(seen) == asked


def test_an_operator_who_allows_a_command_lets_it_run_once(office: Callable[..., Office]) -> None:
    bench = office(security="allowlist", ask="on-miss")

    with answering(bench, "allow-once") as seen:
        assert bench.admit("rm x > y") == "rm x > y"
        assert bench.admit("rm x > y") == "rm x > y"

    assert len(seen) == 2
    assert not bench.path.exists()


def test_an_operator_who_denies_a_command_keeps_it_from_running(office: Callable[..., Office]) -> None:
    bench = office(security="allowlist", ask="on-miss")

    with answering(bench, "deny"):
        assert bench.refusal("rm x") == "The operator has denied this command."


def test_the_operator_sees_all_of_the_command(office: Callable[..., Office]) -> None:
    bench = office(security="allowlist", ask="on-miss")

    with answering(bench, "allow-once") as seen:
        bench.admit("git fetch", GIT_SSH_COMMAND="rm x")

    (approval,) = seen
    assert approval.command == "GIT_SSH_COMMAND='rm x' git fetch"
    assert approval.directory == str(bench.directory / "workspace")
    assert (approval.agent_id, approval.session_key, approval.run_id) == ("main", "agent:main:main", "run-1")
    assert approval.expires_at - approval.created_at == 120_000
    assert bench.events == [
        ApprovalRequested(approval.id, "call-1", approval.command, approval.directory, approval.expires_at),
        ApprovalResolved(approval.id, "allow-once"),
    ]
    assert bench.clock == ["stopped", "goes on"]


def test_a_command_that_nobody_answers_is_not_run(office: Callable[..., Office]) -> None:
    bench = office(security="allowlist", ask="on-miss", timeout_seconds=0.05)

    text = bench.refusal("rm x")

    assert "nobody answered within 0.05 seconds" in text
    assert isinstance(bench.events[-1], ApprovalResolved)
    assert bench.events[-1].decision == "expired"
    assert bench.approvals.pending() == []


@pytest.mark.parametrize(
    ("fallback", "command", "runs"),
    [("full", "rm", True), ("allowlist", "git", True), ("allowlist", "rm", False), ("deny", "git", False)],
)
def test_the_fallback_decides_when_nobody_answers(
    office: Callable[..., Office], fallback: str, command: str, runs: bool
) -> None:
    bench = office(
        security="full", ask="always", allowlist=("git",), ask_fallback=fallback, timeout_seconds=0.02
    )

    if runs:
        assert bench.admit(command).endswith(command)
    else:
        assert "nobody answered" in bench.refusal(command)


def test_an_answer_counts_once_and_only_while_somebody_waits(office: Callable[..., Office]) -> None:
    bench = office(security="allowlist", ask="on-miss")
    answers: list[bool] = []

    def act(approval: Approval) -> None:
        answers.append(bench.approvals.resolve(approval.id, "deny"))
        answers.append(bench.approvals.resolve(approval.id, "allow-once"))

    with operator(bench.approvals, act) as seen:
        bench.refusal("rm x")

    assert answers == [True, False]
    assert not bench.approvals.resolve(seen[0].id, "allow-once")
    assert not bench.approvals.resolve("unknown", "deny")


def test_a_cancelled_run_stops_waiting(office: Callable[..., Office]) -> None:
    bench = office(security="allowlist", ask="on-miss")

    with (
        operator(bench.approvals, lambda _: bench.cancel.cancel(CancelReason.USER)),
        pytest.raises(Cancelled),
    ):
        bench.admit("rm x")

    assert bench.approvals.pending() == []


def test_watchers_hear_of_both_ends_until_they_leave(office: Callable[..., Office]) -> None:
    bench = office(security="allowlist", ask="on-miss")
    heard: list[tuple[str, str | None]] = []

    def broken(approval: Approval, outcome: str | None) -> None:
        raise ValueError("a channel's own trouble")

    bench.approvals.subscribe(broken)
    leave = bench.approvals.subscribe(lambda approval, outcome: heard.append((approval.command, outcome)))
    with answering(bench, "allow-once"):
        bench.admit("rm x")
        leave()
        leave()
        bench.admit("rm y")

    assert heard == [("rm x", None), ("rm x", "allow-once")]


# Always


def test_what_is_always_allowed_is_not_asked_again(office: Callable[..., Office]) -> None:
    bench = office(security="allowlist", ask="on-miss")

    with answering(bench, "allow-always") as seen:
        assert bench.admit("git a | rm b") == "git a | rm b"
    assert bench.admit("rm c; git d") == f"{bench.bin}/rm c; {bench.bin}/git d"

    assert len(seen) == 1
    stored = json.loads(bench.path.read_text())
    assert stored["version"] == 1
    assert [e["pattern"] for e in stored["agents"]["main"]["allowlist"]] == [
        f"{bench.bin}/git",
        f"{bench.bin}/rm",
    ]
    assert stat.S_IMODE(bench.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ("rm x > y", {}),
        ("python3 x.py", {}),
        ("git; python3 x.py", {}),
        ("taskset 1 rm", {}),
        ("{workspace}/mine", {}),
        ("missing", {}),
        ("git", {"GIT_PAGER": "rm"}),
    ],
)
def test_what_is_too_open_is_allowed_only_once(
    office: Callable[..., Office], command: str, variables: dict[str, str]
) -> None:
    bench = office(security="allowlist", ask="on-miss")

    with answering(bench, "allow-always"):
        bench.admit(command.format(workspace=bench.directory / "workspace"), **variables)

    assert not bench.path.exists()


def test_what_else_is_in_the_file_stays(office: Callable[..., Office]) -> None:
    bench = office(security="allowlist", ask="on-miss")
    entry = {"id": "1", "pattern": "/usr/bin/wc", "lastUsedAt": 5, "note": "mine"}
    bench.write(
        {
            "version": 1,
            "socket": {"path": "/run/x", "token": "t"},
            "defaults": {"autoAllowSkills": True},
            "agents": {"other": {"security": "deny"}, "main": {"allowlist": [entry], "extra": 1}},
        }
    )

    with answering(bench, "allow-always"):
        bench.admit("git")

    stored = json.loads(bench.path.read_text())
    assert stored["socket"] == {"path": "/run/x", "token": "t"}
    assert stored["defaults"] == {"autoAllowSkills": True}
    assert stored["agents"]["other"]["security"] == "deny"
    assert stored["agents"]["main"]["extra"] == 1
    assert stored["agents"]["main"]["allowlist"][0] == entry
    assert stored["agents"]["main"]["allowlist"][1]["pattern"] == f"{bench.bin}/git"


def test_two_threads_that_remember_lose_nothing(tmp_path: Path) -> None:
    file = ApprovalsFile(tmp_path / "exec-approvals.json")
    threads = [threading.Thread(target=file.remember, args=("main", [f"/bin/{n}"])) for n in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(file.narrow("main", ExecPolicy()).allowlist) == [f"/bin/{n}" for n in range(8)]


# The file


def test_without_a_file_the_configuration_holds(office: Callable[..., Office]) -> None:
    assert office(security="full", ask="off").admit("rm x") == "rm x"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", {"version": 2}, {"agents": {"main": {"security": "sometimes"}}},
     {"agents": {"main": {"allowlist": ["git"]}}}, {"agents": {"main": {"allowlist": [{"id": "1"}]}}}],
)  # fmt: skip
def test_a_broken_file_lets_nothing_run(
    office: Callable[..., Office], content: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bench = office(security="full", ask="off")
    bench.write(content)

    assert bench.refusal("git") == (
        "No command can be run: the operator's approvals file is broken. Tell the user."
    )
    assert "exec-approvals.json cannot be used" in caplog.text


def test_a_file_that_cannot_be_read_lets_nothing_run(office: Callable[..., Office]) -> None:
    bench = office(security="full", ask="off")
    bench.path.mkdir(parents=True)

    assert "approvals file is broken" in bench.refusal("git")


SECURITY, ASK = ("deny", "allowlist", "full"), ("always", "on-miss", "off")


@pytest.mark.parametrize(("configured", "said"), list(itertools.product(SECURITY, (None, *SECURITY))))
def test_the_stricter_security_holds(tmp_path: Path, configured: Any, said: str | None) -> None:
    path = tmp_path / "exec-approvals.json"
    path.write_text(json.dumps({"version": 1, "defaults": {"security": said, "askFallback": said}}))

    policy = ApprovalsFile(path).narrow("main", ExecPolicy(security=configured, ask_fallback=configured))

    stricter = min(configured, said or configured, key=SECURITY.index)
    assert (policy.security, policy.ask_fallback) == (stricter, stricter)


@pytest.mark.parametrize(("configured", "said"), list(itertools.product(ASK, (None, *ASK))))
def test_the_stricter_word_on_asking_holds(tmp_path: Path, configured: Any, said: str | None) -> None:
    path = tmp_path / "exec-approvals.json"
    path.write_text(json.dumps({"version": 1, "agents": {"main": {"ask": said}}}))

    policy = ApprovalsFile(path).narrow("main", ExecPolicy(ask=configured))

    assert policy.ask == min(configured, said or configured, key=ASK.index)


def test_an_agent_s_own_word_comes_before_everybody_s_and_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "exec-approvals.json"
    everybody = {"security": "deny", "allowlist": [{"pattern": "/bin/all"}]}
    main = {"security": "allowlist", "allowlist": [{"pattern": "/bin/mine"}]}
    path.write_text(
        json.dumps({"version": 1, "defaults": {"ask": "always"}, "agents": {"*": everybody, "main": main}})
    )
    file, configured = ApprovalsFile(path), ExecPolicy(security="full", ask="off", allowlist=("git",))

    mine, other = file.narrow("main", configured), file.narrow("other", configured)

    assert mine == replace(
        configured, security="allowlist", ask="always", allowlist=("git", "/bin/all", "/bin/mine")
    )
    assert other == replace(configured, security="deny", ask="always", allowlist=("git", "/bin/all"))
