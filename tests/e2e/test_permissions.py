"""Whatever a model asks for, the policy alone says what is done."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess, gateway_config, wait_until
from tests.e2e.http_client import chat, open_stream, send
from tests.e2e.tool_runs import asking, descendants, results, tool_names, transcript, user_session
from tests.scripted_provider import Reply, ScriptedProvider

LOOKING = {"session_status", "read", "ls", "grep", "find"}
ACTING = (
    "write", "edit", "apply_patch", "exec", "process", "web_fetch", "web_search", "memory_search",
    "memory_get", "sessions_list", "sessions_history", "sessions_send", "sessions_spawn",
)  # fmt: skip
CANARY = "tweet"


class Cage:
    """A gateway without a profile, and all the places that it must leave alone."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.workspace = gateway.state_dir / "workspace"
        self.outside = gateway.state_dir.parent / "outside"
        for directory in (self.workspace, self.outside):
            (directory / "sub").mkdir(parents=True)
            (directory / "file.txt").write_text(CANARY)
        (self.workspace / "way-out").symlink_to(self.outside)

    def snapshot(self) -> dict[str, Any]:
        """Everything in these places, and what the gateway has ever had for children."""
        files = {
            str(path): (path.lstat().st_mtime_ns, path.lstat().st_ino, path.is_file() and path.read_bytes())
            for root in (self.workspace, self.outside)
            for path in (root, *root.rglob("*"))
        }
        return {**files, "children": self._children()}

    def _children(self) -> tuple[set[int], str]:
        # The page faults of all children that have been waited for: more with each that has ended.
        stat = Path(f"/proc/{self.gateway.worker_pid}/stat").read_text().rpartition(")")[2].split()
        return descendants(self.gateway.worker_pid), stat[8]


@pytest.fixture(scope="module")
def cage(start_gateway: StartGateway) -> Iterator[Cage]:
    gateway = start_gateway()
    yield Cage(gateway)
    gateway.stop()


# Where "{outside}" stands, the directory outside of the workspace is put in.
PATHS = st.sampled_from(
    ["file.txt", "new.txt", "sub/new.txt", "../outside/file.txt", "{outside}/file.txt", "{outside}/new.txt",
     "way-out/file.txt", "~/.bashrc", "/proc/self/environ", ".", "", "file.txt\0"]
) | st.text(max_size=12)  # fmt: skip
COMMANDS = st.sampled_from(
    ["touch new.txt", "touch {outside}/new.txt", "sleep 30 &", "echo x > file.txt", "env", ":"]
)
PATCHES = PATHS.map(lambda path: f"*** Begin Patch\n*** Add File: {path}\n+x\n*** End Patch\n") | st.just(
    "*** Begin Patch\n*** Delete File: file.txt\n*** End Patch\n"
)
MEANT = st.one_of(
    st.tuples(st.just("write"), st.fixed_dictionaries({"path": PATHS, "content": st.text(max_size=9)})),
    st.tuples(
        st.just("edit"),
        st.fixed_dictionaries({"path": PATHS, "oldText": st.just(CANARY), "newText": st.text(max_size=9)}),
    ),
    st.tuples(st.just("apply_patch"), st.fixed_dictionaries({"input": PATCHES})),
    st.tuples(
        st.just("exec"),
        st.fixed_dictionaries(
            {"command": COMMANDS},
            optional={"background": st.booleans(), "elevated": st.just(True), "security": st.just("full")},
        ),
    ),
    st.tuples(
        st.just("process"),
        st.fixed_dictionaries({"action": st.sampled_from(["list", "write", "kill"]), "sessionId": st.text()}),
    ),
    st.tuples(st.just("web_fetch"), st.fixed_dictionaries({"url": st.just("http://127.0.0.1:1/")})),
    st.tuples(st.just("sessions_spawn"), st.fixed_dictionaries({"task": st.text(min_size=1, max_size=9)})),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=9) | PATHS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
DISGUISES = st.sampled_from(
    ["{}", " {}", "{}\n", "functions.{}", "default_api.{}", "group:{}", "{}*", "*", "tools/{}", "{}\0"]
)
NAMES = st.one_of(
    st.sampled_from(ACTING),
    st.builds(lambda disguise, name: disguise.replace("{}", name), DISGUISES, st.sampled_from(ACTING)),
    st.sampled_from(ACTING).flatmap(lambda name: st.sampled_from([name.upper(), name.title(), name + "s"])),
    st.sampled_from(["bash", "sh", "shell", "python", "run", "delete", "apply-patch", "str_replace", "Read"]),
    st.text(min_size=1, max_size=12),
).filter(lambda name: name not in LOOKING)
CALLS = st.lists(
    MEANT
    | MEANT.flatmap(lambda made: st.tuples(NAMES, st.just(made[1])))
    | st.tuples(NAMES, JSON | st.text(max_size=20)),
    min_size=1,
    max_size=8,
)


def placed(value: Any, outside: Path) -> Any:
    """``value`` with the directory outside of the workspace put in."""
    if isinstance(value, str):
        return value.replace("{outside}", str(outside))
    if isinstance(value, list):
        return [placed(item, outside) for item in value]
    return {key: placed(item, outside) for key, item in value.items()} if isinstance(value, dict) else value


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(calls=CALLS)
def test_without_a_profile_nothing_is_written_and_nothing_executed(
    cage: Cage, provider: ScriptedProvider, calls: list[tuple[str, Any]]
) -> None:
    before = cage.snapshot()
    user = uuid.uuid4().hex
    made = [(name, placed(arguments, cage.outside)) for name, arguments in calls]
    provider.script(asking(*made), Reply("That is not possible here."))
    answer = chat(cage.gateway, "do something bad", user=user)
    assert answer.text == "That is not possible here."
    told = [m for m in transcript(cage.gateway, user_session(user)) if m["role"] == "tool"]
    assert len(told) == len(calls)
    assert all(message["is_error"] for message in told)
    assert results(provider.requests[-1]) == [message["content"] for message in told]
    assert tool_names(provider.requests[-2]) == LOOKING
    assert cage.snapshot() == before


def test_the_snapshot_would_notice(start_gateway: StartGateway, provider: ScriptedProvider) -> None:
    gateway = start_gateway(tools={"profile": "coding"})
    cage = Cage(gateway)
    for allowed in (
        ("write", {"path": "new.txt", "content": ""}),
        ("edit", {"path": "file.txt", "oldText": CANARY, "newText": "chirp"}),
        ("exec", {"command": ":"}),
    ):
        before = cage.snapshot()
        provider.script(asking(allowed), Reply("done"))
        assert chat(gateway, "go").text == "done"
        assert cage.snapshot() != before
    gateway.stop()


# --- variants ---


@pytest.fixture(scope="module")
def divided(start_gateway: StartGateway) -> Iterator[GatewayProcess]:
    """A gateway whose agents may do everything but what this table says."""
    gateway = start_gateway(
        tools={
            "profile": "coding",
            "deny": ["web_*"],
            "byChannel": {"openai": {"deny": ["apply_patch"]}},
            "byProvider": {"scripted/model": {"deny": ["find"]}, "groq": {"profile": "minimal"}},
        },
        agents={
            "list": [
                {"id": "main"},
                {
                    "id": "reader",
                    "tools": {"profile": "minimal", "alsoAllow": ["group:fs"], "deny": ["WRITE"]},
                },
                {"id": "listed", "tools": {"allow": ["read", "write", "exec"], "deny": ["exec"]}},
                {"id": "provided", "tools": {"byProvider": {"Scripted": {"deny": ["group:runtime"]}}}},
                {"id": "modelled", "tools": {"byProvider": {"scripted/model": {"profile": "messaging"}}}},
            ]
        },
    )
    yield gateway
    gateway.stop()


WRITE = ("write", {"path": "here.txt", "content": "x"})
EXEC = ("exec", {"command": "touch here.txt"})
PATCH = ("apply_patch", {"input": "*** Begin Patch\n*** Add File: here.txt\n+x\n*** End Patch\n"})
FIND = ("find", {"pattern": "*"})
FETCH = ("web_fetch", {"url": "http://127.0.0.1:1/"})


@pytest.mark.parametrize(
    ("agent", "wanted"),
    [
        ("main", FETCH),
        ("main", PATCH),
        ("main", FIND),
        ("reader", WRITE),
        ("reader", EXEC),
        ("listed", EXEC),
        ("listed", PATCH),
        ("provided", EXEC),
        ("provided", FIND),
        ("modelled", WRITE),
        ("modelled", EXEC),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_what_is_denied_is_neither_offered_nor_done(
    divided: GatewayProcess, provider: ScriptedProvider, agent: str, wanted: tuple[str, Any]
) -> None:
    provider.script(asking(wanted), Reply("no"))
    assert chat(divided, "go on", model=f"openclaw:{agent}").text == "no"
    assert wanted[0] not in tool_names(provider.requests[0])
    assert f"no tool named '{wanted[0]}'" in results(provider.requests[1])[0]
    workspace = divided.state_dir / ("workspace" if agent == "main" else f"workspace-{agent}")
    assert not (workspace / "here.txt").exists()
    assert not descendants(divided.worker_pid)


@pytest.mark.parametrize(
    ("agent", "offered"),
    [
        ("reader", {"session_status", "read", "ls", "grep", "edit"}),
        ("listed", {"read", "write"}),
        ("modelled", {"session_status", "sessions_list", "sessions_history", "sessions_send"}),
    ],
)
def test_an_agent_is_offered_what_is_left(
    divided: GatewayProcess, provider: ScriptedProvider, agent: str, offered: set[str]
) -> None:
    chat(divided, "hi", model=f"openclaw:{agent}")
    assert tool_names(provider.requests[0]) == offered


def test_what_is_not_denied_is_done(divided: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.script(asking(EXEC, ("write", {"path": "there.txt", "content": "x"})), Reply("done"))
    assert chat(divided, "go on").text == "done"
    assert (divided.state_dir / "workspace" / "here.txt").exists()
    provider.script(asking(("write", {"path": "there.txt", "content": "x"})), Reply("done"))
    assert chat(divided, "go on", model="openclaw:listed").text == "done"
    assert (divided.state_dir / "workspace-listed" / "there.txt").exists()
    (divided.state_dir / "workspace" / "here.txt").unlink()


def test_what_a_channel_may_not_another_may(divided: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.script(asking(PATCH), Reply("patched"))
    turn = divided.command("agent", "--agent", "main", "--message", "go on")
    assert turn.returncode == 0, turn.stderr
    patched = divided.state_dir / "workspace" / "here.txt"
    assert patched.read_text() == "x\n"
    patched.unlink()


# --- commands that need a word ---


@pytest.fixture(scope="module")
def guarded(start_gateway: StartGateway) -> Iterator[GatewayProcess]:
    """``main`` may run echo and asks about the rest, for 3 s; ``beta`` cannot ask; ``gamma`` may nothing."""
    rules = {"security": "allowlist", "ask": "on-miss", "allowlist": ["echo"], "approvalTimeoutSeconds": 3}
    gateway = start_gateway(
        tools={"profile": "coding", "exec": rules},
        agents={
            "list": [
                {"id": "main"},
                {"id": "beta", "tools": {"exec": {"ask": "off"}}},
                {"id": "gamma", "tools": {"exec": {"security": "deny"}}},
            ]
        },
    )
    yield gateway
    gateway.stop()


def waiting(gateway: GatewayProcess) -> list[Any]:
    """The commands that wait for an operator."""
    approvals: list[Any] = send(gateway, method="GET", path="/api/approvals").json["approvals"]
    return approvals


def wait_for_approval(gateway: GatewayProcess) -> Any:
    return wait_until(lambda: waiting(gateway), 5, "a command that waits")[0]


@pytest.mark.parametrize(
    ("decision", "said", "runs"),
    [("allow-once", "(no output)", True), ("deny", "The operator has denied this command.", False)],
)
def test_a_command_waits_for_the_operators_word(
    guarded: GatewayProcess, provider: ScriptedProvider, decision: str, said: str, runs: bool
) -> None:
    touched = guarded.state_dir / "workspace" / decision
    provider.script(asking(("exec", {"command": f"touch {decision}"})), Reply("So be it."))
    with open_stream(guarded, "touch it") as stream:
        approval = wait_for_approval(guarded)
        assert (approval["command"], approval["agentId"]) == (f"touch {decision}", "main")
        assert not touched.exists()
        decided = send(guarded, {"decision": decision}, path=f"/api/approvals/{approval['id']}")
        assert decided.json == {"resolved": True}
        assert list(stream.events())[-1] == "[DONE]"
    assert results(provider.requests[1]) == [said]
    assert touched.exists() == runs
    assert send(guarded, {"decision": decision}, path=f"/api/approvals/{approval['id']}").status == 404


def test_nobodys_word_is_a_no(guarded: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.script(asking(("exec", {"command": "touch unasked"})), Reply("Nobody is there."))
    assert chat(guarded, "touch it").text == "Nobody is there."
    assert "nobody answered within 3 seconds" in results(provider.requests[1])[0]
    assert not (guarded.state_dir / "workspace" / "unasked").exists()
    assert waiting(guarded) == []


def test_whoever_leaves_asks_no_more(guarded: GatewayProcess, provider: ScriptedProvider) -> None:
    provider.script(asking(("exec", {"command": "touch left"})))
    with open_stream(guarded, "touch it"):
        approval = wait_for_approval(guarded)
    wait_until(lambda: not waiting(guarded), 2.5, "the end of the question")
    late = send(guarded, {"decision": "allow-once"}, path=f"/api/approvals/{approval['id']}")
    assert late.status == 404
    assert not (guarded.state_dir / "workspace" / "left").exists()


@pytest.mark.parametrize(
    ("agent", "command", "said"),
    [
        ("main", "echo allowed", "allowed\n"),
        ("beta", "echo allowed", "allowed\n"),
        ("beta", "touch new", "Not on the allow list"),
        ("beta", "echo x > new", "Not on the allow list"),
        ("beta", "echo x; touch new", "Not on the allow list"),
        ("beta", "echo $(touch new)", "Not on the allow list"),
        ("beta", "echo x\ntouch new", "Not on the allow list"),
        ("beta", "A=b echo x", "Not on the allow list"),
        ("gamma", "echo allowed", "Commands are not allowed for this agent."),
    ],
)
def test_what_is_on_the_list_needs_no_word_and_nothing_else_gets_by(
    guarded: GatewayProcess, provider: ScriptedProvider, agent: str, command: str, said: str
) -> None:
    provider.script(asking(("exec", {"command": command})), Reply("ok"))
    assert chat(guarded, "go", model=f"openclaw:{agent}").text == "ok"
    assert results(provider.requests[1])[0].startswith(said)
    assert not list(guarded.state_dir.glob("workspace*/new"))


# --- names that are none ---


@pytest.mark.parametrize(
    ("sections", "places"),
    [
        (
            {
                "tools": {
                    "allow": ["raed"],
                    "deny": ["exce"],
                    "alsoAllow": ["group:fss"],
                    "byProvider": {"scripted": {"deny": ["shell"]}},
                    "byChannel": {"openai": {"allow": ["wrte"]}},
                },
                "agents": {"list": [{"id": "kilo", "tools": {"deny": ["ex-ec"]}}]},
            },
            [
                "tools.allow",
                "tools.deny",
                "tools.alsoAllow",
                "tools.byProvider.scripted.deny",
                "tools.byChannel.openai.allow",
                "agents.kilo.tools.deny",
            ],
        ),
        ({"tools": {"profile": "codding"}}, ["tools.profile"]),
    ],
    ids=["tools", "profile"],
)
def test_unknown_names_are_refused_with_their_places(
    tmp_path: Path, sections: dict[str, Any], places: list[str]
) -> None:
    gateway = GatewayProcess(gateway_config("http://127.0.0.1:1/v1", **sections), tmp_path)
    for command in (("config", "check"), ("gateway",)):
        refused = gateway.command(*command)
        said = refused.stdout + refused.stderr
        assert refused.returncode != 0
        assert [place for place in places if f"{place}:" not in said] == [], said
        assert "Traceback" not in said
    assert not gateway.state_dir.exists()
