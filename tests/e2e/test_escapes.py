"""An agent that may do everything in its workspace, and tries to get out of it."""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.fickle_dns import FickleDns
from tests.e2e.gateway_process import TOKEN, GatewayProcess, free_port, wait_until
from tests.e2e.http_client import chat
from tests.e2e.tool_runs import asking, descendants, marked, new_mark, results, transcript, user_session
from tests.scripted_provider import Reply, ScriptedProvider
from tests.web_site import Site

SECRET = "the-secret-in-the-environment-7f3a"
FILE_SECRET = "the-secret-in-a-file-9c1d"
PROMPT = 2.0  # seconds that somebody else's short answer may take meanwhile


class Prisoner:
    """One agent with all tools, and what it must not get hold of."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.workspace = gateway.state_dir / "workspace"
        self.outside = gateway.state_dir.parent / "outside"
        (self.workspace / "sub").mkdir(parents=True)
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text(FILE_SECRET)
        (self.workspace / "dir-link").symlink_to(self.outside)
        (self.workspace / "file-link").symlink_to(self.outside / "secret.txt")
        (self.workspace / "config-link").symlink_to(gateway.state_dir.parent / "openclaw.json")
        (self.workspace / "proc-link").symlink_to("/proc")
        (self.workspace / "chain").symlink_to("sub/../dir-link")

    def tries(self, provider: ScriptedProvider, *calls: tuple[str, Any]) -> list[tuple[str, bool]]:
        """What a run with these calls was told, and whether as an error; no secret came anywhere."""
        user = uuid.uuid4().hex
        provider.script(asking(*calls), Reply("I tried."))
        answer = chat(self.gateway, "get out", user=user)
        messages = transcript(self.gateway, user_session(user))
        told = [(m["content"], m["is_error"]) for m in messages if m["role"] == "tool"]
        assert results(provider.requests[-1]) == [text for text, _ in told]
        seen = json.dumps([r.body for r in provider.requests]) + json.dumps(messages) + repr(answer)
        seen += self.gateway.log
        for secret in (SECRET, FILE_SECRET, TOKEN, "sk-scripted"):
            assert secret not in seen
        assert answer.text == "I tried."
        return told

    def fails(self, provider: ScriptedProvider, *calls: tuple[str, Any]) -> list[str]:
        """What a run with these calls was told, each time as an error."""
        told = self.tries(provider, *calls)
        assert all(is_error for _, is_error in told), told
        return [text for text, _ in told]

    def is_alone(self) -> bool:
        """True if the gateway's worker has no child left."""
        return not descendants(self.gateway.worker_pid)


@pytest.fixture(scope="module")
def prisoner(start_gateway: StartGateway) -> Iterator[Prisoner]:
    gateway = start_gateway(env={"MY_API_KEY": SECRET, "OPENAI_API_KEY": SECRET}, tools={"profile": "coding"})
    yield Prisoner(gateway)
    gateway.stop()


@pytest.fixture
def mark() -> Iterator[str]:
    mark = new_mark()
    yield mark
    wait_until(lambda: not marked(mark), 15, "the end of all commands")


class Bystander:
    """Somebody else, who keeps asking the gateway things while a test does something heavy."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.slowest = 0.0
        self.answers = 0
        self._gateway = gateway
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        while not self._over.wait(0.1):
            began = time.monotonic()
            if chat(self._gateway, "bystander").text == "fine":
                self.answers += 1
                self.slowest = max(self.slowest, time.monotonic() - began)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def ran_beside_others(
    prisoner: Prisoner, provider: ScriptedProvider, arguments: dict[str, Any]
) -> tuple[str, Bystander]:
    """What a command that fails has said, and how somebody else fared meanwhile."""
    user = uuid.uuid4().hex
    provider.script(asking(("exec", arguments)))
    provider.on("bystander", Reply("fine"))
    provider.on("get out", Reply("I tried."))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(chat, prisoner.gateway, "get out", user=user)
        assert provider.wait_for_requests(1)
        with Bystander(prisoner.gateway) as bystander:
            assert running.result(60).text == "I tried."
            wait_until(lambda: bystander.answers >= 3, 10, "the bystander's answers")
    (told,) = (m for m in transcript(prisoner.gateway, user_session(user)) if m["role"] == "tool")
    assert told["is_error"]
    return told["content"], bystander


# --- files ---


def outside_names(prisoner: Prisoner) -> list[str]:
    worker, master = prisoner.gateway.worker_pid, prisoner.gateway.pid
    return [
        "../../outside/secret.txt",
        "sub/../../../outside/secret.txt",
        str(prisoner.outside / "secret.txt"),
        f"{prisoner.workspace}/../../outside/secret.txt",
        "file-link",
        "dir-link/secret.txt",
        "chain/secret.txt",
        "sub/../dir-link/secret.txt",
        "config-link",
        "../gateway.sqlite3",
        "/proc/self/environ",
        f"/proc/{worker}/environ",
        f"/proc/{master}/environ",
        f"/proc/{worker}/root{prisoner.outside}/secret.txt",
        f"proc-link/{worker}/environ",
        "/dev/zero",
        "~/outside/secret.txt",
    ]


def test_no_name_leads_a_reader_out_of_the_workspace(prisoner: Prisoner, provider: ScriptedProvider) -> None:
    names = outside_names(prisoner)
    for tool in ("read", "ls"):
        told = prisoner.fails(provider, *((tool, {"path": name}) for name in names))
        assert all("outside the workspace" in text or "o such file" in text for text in told), told
    told = prisoner.fails(
        provider,
        *(("grep", {"pattern": "secret|KEY", "path": name}) for name in names),
        *(("find", {"pattern": "*", "path": name}) for name in ("..", "/", "dir-link", "proc-link/self")),
    )
    assert len(told) == len(names) + 4
    assert prisoner.is_alone()


def test_a_search_does_not_follow_links(prisoner: Prisoner, provider: ScriptedProvider) -> None:
    for text, is_error in prisoner.tries(
        provider,
        ("grep", {"pattern": "secret-in|API_KEY"}),
        ("find", {"pattern": "**/secret.txt"}),
        ("find", {"pattern": "**/environ"}),
    ):
        assert not is_error
        assert text in {"No matches.", "Nothing found."}


def test_no_name_leads_a_writer_out_of_the_workspace(prisoner: Prisoner, provider: ScriptedProvider) -> None:
    secret = prisoner.outside / "secret.txt"
    before = secret.stat()
    names = outside_names(prisoner)
    patches = [
        f"*** Begin Patch\n*** {part}\n*** End Patch\n"
        for name in ("../../outside/new.txt", f"{prisoner.outside}/new.txt", "dir-link/new.txt")
        for part in (f"Add File: {name}\n+x", f"Update File: sub/own.txt\n*** Move to: {name}\n@@\n-a\n+b")
    ]
    (prisoner.workspace / "sub" / "own.txt").write_text("a\n")
    prisoner.fails(
        provider,
        *(("write", {"path": name, "content": "x"}) for name in names if not name.startswith("~")),
        *(("edit", {"path": name, "oldText": "secret", "newText": "x"}) for name in names),
        *(("apply_patch", {"input": patch}) for patch in patches),
        ("apply_patch", {"input": "*** Begin Patch\n*** Delete File: file-link\n*** End Patch\n"}),
    )
    assert [path.name for path in prisoner.outside.iterdir()] == ["secret.txt"]
    after = secret.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (prisoner.workspace / "sub" / "own.txt").read_text() == "a\n"


def test_special_files_do_not_hold_anybody_up(prisoner: Prisoner, provider: ScriptedProvider) -> None:
    fifo = prisoner.workspace / "fifo"
    os.mkfifo(fifo)
    began = time.monotonic()
    told = prisoner.fails(
        provider,
        ("read", {"path": "fifo"}),
        ("write", {"path": "fifo", "content": "x"}),
        ("edit", {"path": "fifo", "oldText": "a", "newText": "b"}),
    )
    assert all("not a regular file" in text for text in told)
    assert time.monotonic() - began < 5
    fifo.unlink()


def exchange(one: Path, other: Path) -> None:
    """Let two names change places, in one step."""
    here, exchange = -100, 2
    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange):
        raise OSError(ctypes.get_errno(), "renameat2")


def test_a_directory_that_becomes_a_link_meanwhile_leads_nowhere(
    prisoner: Prisoner, provider: ScriptedProvider
) -> None:
    secret = prisoner.outside / "secret.txt"
    before = secret.stat()
    place, other = prisoner.workspace / "place", prisoner.workspace / "other"
    place.mkdir()
    (place / "secret.txt").write_text("nothing to hide")
    other.symlink_to(prisoner.outside)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            exchange(place, other)

    swapper = threading.Thread(target=swap, daemon=True)
    swapper.start()
    try:
        read, edit = ("read", {"path": "place/secret.txt"}), {"path": "place/secret.txt", "oldText": "secret"}
        told = prisoner.tries(
            provider,
            *[read] * 100,
            *[("write", {"path": "place/secret.txt", "content": "nothing at all"})] * 50,
            *[("edit", {**edit, "newText": "x"})] * 50,
        )
    finally:
        over.set()
        swapper.join()
    assert any("nothing to hide" in text for text, _ in told)
    assert [path.name for path in prisoner.outside.iterdir()] == ["secret.txt"]
    after = secret.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


# --- the environment ---


def test_a_command_does_not_see_the_gateways_environment(
    prisoner: Prisoner, provider: ScriptedProvider
) -> None:
    worker, master = prisoner.gateway.worker_pid, prisoner.gateway.pid
    commands = [
        "env; export; set",
        "cat /proc/self/environ /proc/$PPID/environ /proc/1/environ | tr '\\0' '\\n'",
        f"cat /proc/{worker}/environ /proc/{master}/environ; cat /proc/[0-9]*/environ",
        f"ls /proc/{worker}/fd /proc/{worker}/root; head -c 99 /proc/{worker}/cmdline /proc/{worker}/mem",
        "ps axeww",
        f"kill -0 {worker} && echo reached; kill -0 {master} && echo reached",
    ]
    told = prisoner.tries(provider, *(("exec", {"command": command}) for command in commands))
    assert "PATH=" in told[0][0]
    assert "API_KEY" not in str(told)
    assert "reached" not in told[-1][0].splitlines()
    assert prisoner.is_alone()


def test_a_command_finds_the_configuration_and_the_store_empty(
    prisoner: Prisoner, provider: ScriptedProvider
) -> None:
    state = prisoner.gateway.state_dir
    config = state.parent / "openclaw.json"
    command = f"cat {config} {state}/gateway.sqlite3*; umount {config}; cat {config}; wc -c < {config}"
    told = prisoner.tries(provider, ("exec", {"command": command}))
    assert "\n0" in told[0][0]


def test_a_command_starts_inside_the_workspace_only(prisoner: Prisoner, provider: ScriptedProvider) -> None:
    places = ("..", "/", str(prisoner.outside), "dir-link", "chain", "proc-link", "missing")
    told = prisoner.fails(provider, *(("exec", {"command": "pwd", "workdir": place}) for place in places))
    assert all(text.startswith("workdir: ") for text in told)


# --- the web ---


def test_by_default_no_private_address_is_reached(prisoner: Prisoner, provider: ScriptedProvider) -> None:
    with Site() as site:
        site.page("/", FILE_SECRET)
        port = site.port
        hosts = [
            "127.0.0.1", "localhost", "LOCALHOST.", "127.1", "2130706433", "0x7f000001", "0177.0.0.1",
            "0.0.0.0", "127.0.0.2", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
            "[64:ff9b::7f00:1]", "169.254.169.254", "10.0.0.1", "192.168.1.1", "①②⑦.⓪.⓪.①", "127。0。0。1",
        ]  # fmt: skip
        urls = [f"http://{host}:{port}/" for host in hosts]
        urls += [f"http://public.example@127.0.0.1:{port}/", f"file://{prisoner.outside}/secret.txt"]
        urls += [f"ftp://127.0.0.1:{port}/", f"http:127.0.0.1:{port}/", f"//127.0.0.1:{port}/"]
        began = time.monotonic()
        told = prisoner.fails(provider, *(("web_fetch", {"url": url}) for url in urls))
        assert time.monotonic() - began < 15
        assert "Blocked: private/internal IP address" in told[0]
        assert site.connections == 0


@pytest.fixture(scope="module")
def dns() -> Iterator[FickleDns]:
    """Says 127.0.0.7, then 127.0.0.1, and so on."""
    with FickleDns(["127.0.0.7", "127.0.0.1"]) as dns:
        yield dns


@pytest.fixture(scope="module")
def surfer(start_gateway: StartGateway, dns: FickleDns) -> Iterator[Prisoner]:
    """May reach one private address, 127.0.0.7, and asks the fickle name server."""
    fetch = {"allowPrivate": ["127.0.0.7"], "cacheTtlMinutes": 0, "maxRedirects": 3}
    gateway = start_gateway(env=dns.environment, tools={"profile": "coding", "web": {"fetch": fetch}})
    yield Prisoner(gateway)
    gateway.stop()


@pytest.fixture
def sites() -> Iterator[tuple[Site, Site]]:
    """One at the address that may be reached and one, on the same port, at another."""
    port = free_port()
    with Site(host="127.0.0.7", port=port) as allowed, Site(port=port) as victim:
        victim.page("/", FILE_SECRET)
        allowed.page("/", "<p>the open page</p>")
        yield allowed, victim


def test_a_name_that_changes_its_meaning_leads_nowhere(
    surfer: Prisoner, provider: ScriptedProvider, dns: FickleDns, sites: tuple[Site, Site]
) -> None:
    allowed, victim = sites
    del dns.answers[:]
    url = f"http://rebind.example:{allowed.port}/"
    told = [text for _ in range(8) for text, _ in surfer.tries(provider, ("web_fetch", {"url": url}))]
    assert {"127.0.0.7", "127.0.0.1"} <= set(dns.answers)
    reached = ["the open page" in text for text in told]
    assert any(reached)
    assert not all(reached)
    assert all("Blocked" in text for text, was in zip(told, reached, strict=True) if not was)
    assert allowed.connections == sum(reached)
    assert victim.connections == 0


def test_a_redirect_is_judged_like_a_request(
    surfer: Prisoner, provider: ScriptedProvider, sites: tuple[Site, Site]
) -> None:
    allowed, victim = sites
    targets = [
        f"{victim.url}/",
        f"http://localhost:{victim.port}/",
        f"http://[::ffff:127.0.0.1]:{victim.port}/",
        f"//127.0.0.1:{victim.port}/",
        "http://169.254.169.254/latest/meta-data/",
        f"file://{surfer.outside}/secret.txt",
        "gopher://127.0.0.7/",
    ]
    urls = [
        allowed.page(f"/{number}", "moved", status=302, location=target)
        for number, target in enumerate(targets)
    ]
    surfer.fails(provider, *(("web_fetch", {"url": url}) for url in urls))
    assert allowed.connections == len(urls)
    assert victim.connections == 0
    there = allowed.page("/there", "moved", status=307, location="/")
    ((text, is_error),) = surfer.tries(provider, ("web_fetch", {"url": there}))
    assert "the open page" in text
    assert not is_error


def test_a_name_that_changes_its_meaning_between_redirects_leads_nowhere(
    surfer: Prisoner, provider: ScriptedProvider, sites: tuple[Site, Site]
) -> None:
    allowed, victim = sites
    rebind = f"http://rebind.example:{allowed.port}"
    allowed.page("/again", "moved", status=302, location=f"{rebind}/")
    for _ in range(6):
        surfer.tries(provider, ("web_fetch", {"url": f"{rebind}/again"}))
    assert allowed.connections
    assert victim.connections == 0


# --- commands that take too much, or will not go ---


def test_ten_gigabytes_of_output_end_in_a_short_result(
    prisoner: Prisoner, provider: ScriptedProvider, mark: str
) -> None:
    command = {"command": "yes | head -c 10G", "env": {"MARK": mark}, "timeout": 4}
    began = time.monotonic()
    said, bystander = ran_beside_others(prisoner, provider, command)
    assert time.monotonic() - began < 15
    assert not marked(mark)
    assert "timed out after 4 seconds" in said
    assert len(said) < 20_000
    spilled = sum(p.stat().st_size for p in (prisoner.gateway.state_dir / "scratch").rglob("*.txt"))
    assert spilled <= 65 * 2**20
    assert bystander.slowest < PROMPT


def test_a_fork_bomb_is_put_out(prisoner: Prisoner, provider: ScriptedProvider, mark: str) -> None:
    bomb = {"command": "b() { b | b & }; b; sleep 30", "env": {"MARK": mark}, "timeout": 20}
    said, bystander = ran_beside_others(prisoner, provider, bomb)
    assert not marked(mark)
    assert "had more than 256 processes and was ended" in said
    assert bystander.slowest < PROMPT
    wait_until(prisoner.is_alone, 5, "the wardens' end")


DAEMON = (
    "python3 -c 'import os, signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    "if os.fork(): os._exit(0)\n"
    "os.setsid()\n"
    "if os.fork(): os._exit(0)\n"
    "os.closerange(0, 99); time.sleep(1000)'"
)


@pytest.mark.parametrize(
    ("command", "said", "is_error"),
    [
        ("trap '' TERM INT HUP; while :; do sleep 1; done", "timed out after 1 seconds", True),
        ("trap '' TERM; setsid sh -c \"trap '' TERM; sleep 1000\" & wait", "timed out after 1 seconds", True),
        ("setsid nohup sleep 1000 >/dev/null 2>&1 & echo started", "were ended", False),
        (f"{DAEMON}; echo started", "were ended", False),
        ("sleep 1000 & disown; exec 1>&- 2>&-", "were ended", False),
        ("kill -STOP $$", "timed out after 1 seconds", True),
    ],
    ids=["deaf", "deaf grandchild", "setsid nohup", "daemon", "disowned", "stopped"],
)
def test_nothing_of_a_command_outlives_it(
    prisoner: Prisoner, provider: ScriptedProvider, mark: str, command: str, said: str, is_error: bool
) -> None:
    began = time.monotonic()
    patience = 1 if is_error else 20
    arguments = {"command": command, "env": {"MARK": mark}, "timeout": patience}
    (told,) = prisoner.tries(provider, ("exec", arguments))
    assert said in told[0]
    assert told[1] == is_error
    assert time.monotonic() - began < 10
    assert not marked(mark)
    wait_until(prisoner.is_alone, 5, "the warden's end")
