"""`/metrics` of a real gateway: every series has the number that what was done gives it."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess, wait_until
from tests.e2e.http_client import chat, open_stream, send
from tests.e2e.scrape import Scrape, scrape
from tests.e2e.tool_runs import asking
from tests.e2e.ws_client import WsClient
from tests.engines import postgres_server
from tests.redis_engine import RedisEngine
from tests.scripted_provider import Hang, Reply, ScriptedProvider, Status

PATIENCE = 10.0
CHAT = "/v1/chat/completions"
COUNTED = {"provider": "scripted", "model": "model"}
SPARE = {"provider": "scripted", "model": "spare"}
RUN = {"agent": "main", "channel": "openai"}


@pytest.fixture(scope="module")
def measured(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway whose models have prices and a spare, and that makes vectors."""
    price = {"input": 2.0, "output": 10.0, "cacheRead": 1.0, "cacheWrite": 2.0}
    models = [{"id": "model", "cost": price}, {"id": "spare"}]
    return start_gateway(
        agents={
            "defaults": {
                "model": {"primary": "scripted/model", "fallbacks": ["scripted/spare"]},
                "embeddingModel": "scripted/vectors",
            }
        },
        models={"providers": {"scripted": {"models": models}}},
    )


def counted(gateway: GatewayProcess, before: Scrape, requests: int) -> Scrape:
    """What is shown once so many more chats have been answered to their last byte."""

    def grown() -> Scrape | None:
        now = scrape(gateway)
        new = sum(
            now.since(before, "http_requests_total", method="POST", route=CHAT, status=str(status))
            for status in (200, 400, 401, 429, 502)
        )
        return now if new == requests else None

    found: Scrape = wait_until(grown, PATIENCE, f"{requests} counted requests")
    return found


# Requests and runs


def test_requests_and_runs_are_counted_by_how_they_went(measured: GatewayProcess) -> None:
    before = scrape(measured)
    assert chat(measured, "one").status == 200
    assert chat(measured, "two", stream=True).status == 200
    assert chat(measured, 7).status == 400
    assert send(measured, {}, token="wrong").status == 401
    now = counted(measured, before, 4)

    for status, count in (("200", 2), ("400", 1), ("401", 1)):
        assert now.since(before, "http_requests_total", method="POST", route=CHAT, status=status) == count
    assert now.since(before, "http_request_duration_seconds_count", route=CHAT) == 4
    assert now.since(before, "runs_started_total", **RUN) == 2
    assert now.since(before, "runs_total", **RUN, outcome="completed") == 2
    for name in ("run_duration", "run_first_token", "run_wait"):
        assert now.since(before, f"{name}_seconds_count", agent="main") == 2
        assert 0 <= now.since(before, f"{name}_seconds_sum", agent="main") < PATIENCE
    assert now("http_requests_in_flight") == 1  # the scrape itself
    assert (now("http_streams_open"), now("runs_live"), now("session_lanes")) == (0, 0, 0)


def test_what_is_under_way_is_shown_while_it_is(measured: GatewayProcess, provider: ScriptedProvider) -> None:
    before = scrape(measured)
    provider.script(Hang(before_headers=False))
    session = {"x-openclaw-session-key": "agent:main:busy"}
    with closing(open_stream(measured, "stay", headers=session)):
        assert provider.wait_for_requests(1)
        with closing(open_stream(measured, "wait", headers=session)):
            now = scrape(measured)
            assert (now("http_streams_open"), now("http_requests_in_flight")) == (2, 3)
            assert (now("runs_live"), now("runs_waiting"), now("session_lanes")) == (2, 1, 1)

    def ended() -> Scrape | None:
        now = counted(measured, before, 2)
        return now if now.since(before, "runs_total", **RUN, outcome="cancelled") == 2 else None

    now = wait_until(ended, PATIENCE, "the end of both runs")
    assert now.since(before, "runs_started_total", **RUN) == 1
    assert (now("http_streams_open"), now("runs_live"), now("runs_waiting")) == (0, 0, 0)
    assert now.since(before, "model_calls_total", **COUNTED, outcome="cancelled") == 1


def test_a_run_that_fails_and_one_that_takes_too_long_are_told_apart(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    gateway = start_gateway(agents={"defaults": {"timeoutSeconds": 0.5}})
    provider.script(Status(400, {"error": {"message": "bad"}}), Hang())
    assert chat(gateway).status == 400
    assert chat(gateway).status == 504
    now = scrape(gateway)

    assert now("runs_total", **RUN, outcome="failed") == 1
    assert now("runs_total", **RUN, outcome="timeout") == 1
    assert now("model_calls_total", provider="scripted", model="model", outcome="format") == 1


# Models and tools


def test_tokens_and_dollars_add_up_by_model(measured: GatewayProcess, provider: ScriptedProvider) -> None:
    before = scrape(measured)
    provider.script(Reply("x", usage=(1_000, 200, 1_200), cached=400, cache_write=100), Reply("y"))
    chat(measured)
    chat(measured)
    now = scrape(measured)

    tokens = {
        kind: now.since(before, "model_tokens_total", **COUNTED, kind=kind)
        for kind in ("input", "output", "cached", "cache_write")
    }
    assert tokens == {"input": 1_011, "output": 207, "cached": 400, "cache_write": 100}
    dollars = (500 * 2 + 400 * 1 + 100 * 2 + 200 * 10 + 11 * 2 + 7 * 10) / 1_000_000
    assert now.since(before, "model_cost_dollars_total", **COUNTED) == pytest.approx(dollars)
    assert now.since(before, "model_calls_total", **COUNTED, outcome="ok") == 2
    for name in ("model_call_duration", "model_call_first_token"):
        assert now.since(before, f"{name}_seconds_count", **COUNTED) == 2


def test_retries_and_failovers_are_counted_where_they_go(
    measured: GatewayProcess, provider: ScriptedProvider
) -> None:
    before = scrape(measured)
    provider.script(Status(500), Reply("again"), Status(404), Reply("the spare"))
    assert chat(measured).text == "again"
    assert chat(measured).text == "the spare"
    now = scrape(measured)

    outcomes = {
        outcome: now.since(before, "model_calls_total", **COUNTED, outcome=outcome)
        for outcome in ("ok", "server_error", "model_not_found")
    }
    assert outcomes == {"ok": 1, "server_error": 1, "model_not_found": 1}
    assert now.since(before, "model_retries_total", **COUNTED) == 1
    assert now.since(before, "model_failovers_total", **SPARE) == 1
    assert now.since(before, "model_failovers_total", **COUNTED) == 0
    assert now("model_cost_dollars_total", **SPARE) == 0  # its price is not known


def test_a_key_that_is_left_alone_is_shown_until_it_answers(
    start_gateway: StartGateway, provider: ScriptedProvider
) -> None:
    gateway = start_gateway()
    provider.script(Status(401))
    assert chat(gateway).status == 502
    assert scrape(gateway)("model_cooldowns", provider="scripted") == 1
    assert chat(gateway).status == 200
    assert scrape(gateway)("model_cooldowns", provider="scripted") == 0


def test_tools_are_counted_by_name_and_a_name_that_the_model_made_up_is_not(
    measured: GatewayProcess, provider: ScriptedProvider
) -> None:
    before, made_up = scrape(measured), f"tool_{uuid.uuid4().hex}"
    calls = ("read", {"path": "nothing.txt"}), ("ls", {}), (made_up, {})
    provider.script(asking(*calls), Reply("done"))
    assert chat(measured).text == "done"
    now = scrape(measured)

    assert now.since(before, "tool_calls_total", tool="read", outcome="error") == 1
    assert now.since(before, "tool_calls_total", tool="ls", outcome="ok") == 1
    assert now.since(before, "tool_calls_total", tool="other", outcome="error") == 1
    assert now.since(before, "tool_call_duration_seconds_count", tool="read") == 1
    assert made_up not in now.labels("tool")


def test_runs_of_vectors_are_counted_like_all_others(measured: GatewayProcess) -> None:
    before = scrape(measured)
    assert send(measured, {"model": "x", "input": ["a", "b"]}, path="/v1/embeddings").status == 200
    now = scrape(measured)

    run = {"agent": "main", "channel": "openai-embeddings"}
    assert now.since(before, "runs_started_total", **run) == 1
    assert now.since(before, "runs_total", **run, outcome="completed") == 1
    call = {"provider": "scripted", "model": "vectors"}
    assert now.since(before, "model_calls_total", **call, outcome="ok") == 1
    assert now.since(before, "model_tokens_total", **call, kind="input") > 0


# Everything else


def test_the_store_and_the_websocket_are_measured(measured: GatewayProcess) -> None:
    before = scrape(measured)
    headers = {"x-openclaw-session-key": "agent:main:stored"}
    assert chat(measured, headers=headers).status == 200
    client = WsClient(measured.port)
    now = scrape(measured)
    client.close()

    for operation in ("load", "begin", "finish"):
        name = "store_operation_duration_seconds_count"
        assert now.since(before, name, operation=operation) == 1
        assert now("store_errors_total", operation=operation) == 0
    assert now.since(before, "websocket_connections") == 1
    wait_until(lambda: scrape(measured)("websocket_connections") == before("websocket_connections"), PATIENCE)


def test_the_process_and_the_release_are_shown(measured: GatewayProcess) -> None:
    text = send(measured, method="GET", path="/metrics").body.decode()
    assert 'openclaw_build_info{python="3.' in text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("process_"))
    assert float(values["process_resident_memory_bytes"]) > 2**20
    assert float(values["process_open_fds"]) > 3
    assert "_created" not in text


def test_no_series_come_from_what_clients_make_up(
    measured: GatewayProcess, provider: ScriptedProvider
) -> None:
    def once(name: str) -> None:
        headers = {
            "x-openclaw-session-key": f"agent:main:{name}",
            "x-openclaw-model": f"scripted/{name}",
            "x-openclaw-message-channel": name,
            "x-request-id": name,
        }
        assert chat(measured, headers=headers).status == 200
        assert chat(measured, user=name, metadata={"name": name}, store=True).status == 200
        assert chat(measured, headers={"x-openclaw-agent-id": name}).status == 404
        assert send(measured, method="GET", path=f"/v1/{name}").status == 404
        assert send(measured, method="GET", path=f"/v1/models/{name}").status == 404
        assert send(measured, method="GET", path=f"/api/sessions/{name}").status == 404
        assert send(measured, method=name.upper(), path="/v1/models").status in (404, 405)

    once("first")
    scrape(measured)
    before = wait_until(lambda: settled(measured), PATIENCE)
    names = [f"n{uuid.uuid4().hex[:8]}" for _ in range(5)]
    for name in names:
        once(name)
    after = wait_until(lambda: settled(measured), PATIENCE)

    assert after.series == before.series
    assert after("model_calls_total", provider="scripted", model="other", outcome="ok") == 6


def settled(gateway: GatewayProcess) -> Scrape | None:
    """A look at a moment when nothing but the look is under way."""
    now = scrape(gateway)
    return now if now("http_requests_in_flight") == 1 else None


# Who may look


def test_who_looks_needs_the_secret(measured: GatewayProcess) -> None:
    assert send(measured, method="GET", path="/metrics", token=None).status == 401
    assert send(measured, method="GET", path="/metrics", token="wrong").status == 401
    assert send(measured, method="POST", path="/metrics").status == 405
    assert send(measured, method="GET", path="/metrics/").status == 404


def test_the_operator_can_open_it_or_switch_it_off(start_gateway: StartGateway) -> None:
    opened = start_gateway(gateway={"metrics": {"auth": "none"}})
    assert send(opened, method="GET", path="/metrics", token=None).status == 200
    assert send(opened, method="GET", path="/v1/models", token=None).status == 401
    off = start_gateway(gateway={"metrics": {"enabled": False}})
    assert send(off, method="GET", path="/metrics").status == 404
    assert chat(off).status == 200


def test_openmetrics_is_spoken_to_who_asks_for_it(measured: GatewayProcess) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = send(measured, method="GET", path="/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")


@pytest.mark.parametrize("version", ["abc", "1..0", "", "9" * 5000])
def test_who_asks_for_a_version_that_there_is_not_gets_text_all_the_same(
    measured: GatewayProcess, version: str
) -> None:
    accept = {"Accept": f"application/openmetrics-text; version={version}"}
    answer = send(measured, method="GET", path="/metrics", headers=accept)
    assert (answer.status, b"openclaw_build_info{" in answer.body) == (200, True)


# Several processes


def test_a_worker_that_died_before_its_first_value_spoils_no_scrape(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    (tmp_path / "counter_999999.db").touch()
    gateway = start_gateway(env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)})
    assert chat(gateway).status == 200
    wait_until(lambda: scrape(gateway)("runs_total", outcome="completed", **RUN) == 1, PATIENCE)


def test_each_of_several_workers_shows_the_sum_of_all(start_gateway: StartGateway) -> None:
    with postgres_server().database() as database, RedisEngine() as redis:
        engines = {"DATABASE_URL": database, "REDIS_URL": redis.url}
        gateway = start_gateway(env={"WEB_CONCURRENCY": "2", **engines})
        wait_until(lambda: scrape(gateway)("bus_connected") == 2, PATIENCE, "two workers on the bus")
        for _ in range(20):
            assert chat(gateway).status == 200
        clients = [WsClient(gateway.port) for _ in range(4)]

        def whole() -> bool:
            return all(
                now("runs_total", **RUN, outcome="completed") == 20
                and now("model_tokens_total", **COUNTED, kind="input") == 220
                and now("websocket_connections") == 4
                for now in (scrape(gateway) for _ in range(6))  # both workers are asked, one time or another
            )

        wait_until(whole, PATIENCE, "the sums")
        now = scrape(gateway)
        assert now.types["openclaw_run_duration_seconds"] == "histogram"
        assert now("bus_messages_published_total") > 0
        for client in clients:
            client.close()
        gateway.stop()
