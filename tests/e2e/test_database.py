"""One gateway on Postgres: what users see of a database that is not there, goes away, and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from app.sessions.sql import open_store
from tests.e2e.gateway_process import GatewayProcess, gateway_config, wait_until
from tests.e2e.http_client import chat, send
from tests.engines import PostgresServer, postgres_server
from tests.scripted_provider import Reply, ScriptedProvider

KEY = {"x-openclaw-session-key": "agent:main:talk"}


@pytest.fixture
def server() -> PostgresServer:
    return postgres_server()


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    with server.database() as url:
        yield url


@pytest.fixture
def gateway(url: str, provider_port: int, tmp_path: Path) -> Iterator[GatewayProcess]:
    config = gateway_config(f"http://127.0.0.1:{provider_port}/v1")
    gateway = GatewayProcess(config, tmp_path, env={"DATABASE_URL": url})
    yield gateway
    gateway.stop()


def said(url: str) -> list[str]:
    with closing(open_store(url, readonly=True)) as store:
        return [entry.message.text for entry in store.transcript("agent:main:talk").history]


def test_a_conversation_is_in_the_database_and_nothing_of_it_on_the_disk(
    gateway: GatewayProcess, url: str, provider: ScriptedProvider
) -> None:
    provider.script(Reply("first answer"), Reply("second answer"))

    with gateway:
        assert chat(gateway, "first question", headers=KEY).status == 200
    with gateway:  # another process goes on with it
        assert chat(gateway, "second question", headers=KEY).status == 200

    assert said(url) == ["first question", "first answer", "second question", "second answer"]
    assert not list(gateway.state_dir.glob("*.sqlite3"))
    assert url not in gateway.log
    listed = gateway.command("sessions", "list")
    assert "agent:main:talk" in listed.stdout
    assert "second question" in gateway.command("sessions", "show", "agent:main:talk").stdout
    assert gateway.command("sessions", "delete", "agent:main:talk").returncode == 0
    assert gateway.command("usage").returncode == 0
    assert said(url) == []


def test_a_gateway_whose_database_is_not_there_says_so_and_serves_once_it_is(
    gateway: GatewayProcess, server: PostgresServer, provider: ScriptedProvider
) -> None:
    provider.script(Reply("hello"))
    server.stop()
    try:
        gateway.launch()
        wait_until(lambda: is_live(gateway), 30)

        assert send(gateway, method="GET", path="/readyz").status == 503
        refused = chat(gateway, "hi", headers=KEY)
        assert (refused.status, refused.json["error"]["code"]) == (503, "store_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert chat(gateway, "hi", headers=KEY, stream=True).status == 503
        assert chat(gateway, "hi").status == 503
        migrated = gateway.command("migrate")
        assert (migrated.returncode, migrated.stdout) == (1, "")
        assert "cannot be reached" in migrated.stderr
    finally:
        server.start()

    gateway.wait_until_ready()
    assert chat(gateway, "hi", headers=KEY).status == 200
    assert "database" in gateway.log


def is_live(gateway: GatewayProcess) -> bool:
    try:
        return send(gateway, method="GET", path="/healthz").status == 200
    except OSError:
        return False


def test_turns_go_on_over_a_crash_of_the_database(
    gateway: GatewayProcess, server: PostgresServer, url: str
) -> None:
    def talk(number: int) -> list[int]:
        key = {"x-openclaw-session-key": f"agent:main:talk-{number}"}
        return [chat(gateway, f"question {turn}", headers=key).status for turn in range(25)]

    with gateway, ThreadPoolExecutor(4) as pool:
        talks = [pool.submit(talk, number) for number in range(4)]
        for _ in range(2):
            server.crash()
            server.start()
        assert [done.result(100) for done in talks] == [[200] * 25] * 4

    with closing(open_store(url, readonly=True)) as store:
        for number in range(4):
            history = store.transcript(f"agent:main:talk-{number}").history
            asked = [entry.message.text for entry in history[::2]]
            assert asked == [f"question {turn}" for turn in range(25)]
            assert [entry.message.text for entry in history[1::2]] == [
                f"echo: question {turn}" for turn in range(25)
            ]
