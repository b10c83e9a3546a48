"""Metrics and traces inside an application that was there before, and what is measured by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from prometheus_client import CollectorRegistry

from app import Gateway
from app.channels.caller import Caller
from app.errors import StoreError
from app.observe.series import Series
from app.observe.store import timed
from app.sessions.sql import open_store
from tests.scripted_provider import ScriptedProvider

TOKEN = "the-token-of-the-host"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HI = {"model": "openclaw", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def model() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def configuration(url: str, **gateway: Any) -> dict[str, Any]:
    endpoints = {"http": {"endpoints": {"chatCompletions": {"enabled": True}}}}
    return {
        "gateway": {"auth": {"token": TOKEN}, **endpoints, **gateway},
        "models": {"providers": {"scripted": {"baseUrl": url, "models": [{"id": "m"}]}}},
    }


def test_two_gateways_in_one_application_count_for_themselves(
    model: ScriptedProvider, tmp_path: Path, closing: ExitStack
) -> None:
    app = Flask("host")
    for name in ("one", "two"):
        env = {"OPENCLAW_STATE_DIR": str(tmp_path / name)}
        settings = configuration(model.base_url)
        mount = Gateway().init_app(app, config=settings, url_prefix=f"/{name}", env=env)
        closing.callback(mount.close)
    client = app.test_client()
    client.get("/one/metrics", headers=BEARER)  # a gateway opens with the first request that needs it
    for name in ("one", "one", "one", "two"):  # buffered: closed at its end, as servers do
        answer = client.post(f"/{name}/v1/chat/completions", json=HI, headers=BEARER, buffered=True)
        assert answer.status_code == 200

    one = client.get("/one/metrics", headers=BEARER).text
    two = client.get("/two/metrics", headers=BEARER).text
    ended = 'openclaw_runs_total{agent="main",channel="openai",outcome="completed"}'
    assert f"{ended} 3.0" in one
    assert f"{ended} 1.0" in two
    assert 'route="/one/v1/chat/completions",status="200"} 3.0' in one
    assert "/one/" not in two


def test_a_hosts_own_metrics_stay_where_they_are(
    model: ScriptedProvider, tmp_path: Path, closing: ExitStack
) -> None:
    app = Flask("host")
    settings = configuration(model.base_url, metrics={"enabled": False})
    env = {"OPENCLAW_STATE_DIR": str(tmp_path / "state")}
    closing.callback(Gateway().init_app(app, config=settings, env=env).close)
    app.add_url_rule("/metrics", "metrics", lambda: "the host's")
    client = app.test_client()
    assert client.post("/v1/chat/completions", json=HI, headers=BEARER).status_code == 200
    assert client.get("/metrics").text == "the host's"


def test_only_an_admin_among_a_hosts_users_sees_metrics(
    model: ScriptedProvider, tmp_path: Path, closing: ExitStack
) -> None:
    app = Flask("host")

    def who(request: Any) -> Caller | None:
        name = request.headers.get("X-User", "")
        scopes = ("operator.read", "operator.admin") if name == "root" else ("operator.read",)
        return Caller(name, scopes=frozenset(scopes)) if name else None

    env = {"OPENCLAW_STATE_DIR": str(tmp_path / "state")}
    mount = Gateway().init_app(app, config=configuration(model.base_url), env=env, authenticate=who)
    closing.callback(mount.close)
    client = app.test_client()
    assert client.get("/metrics", headers={"X-User": "anna"}).status_code == 403
    assert client.get("/metrics", headers={"X-User": "root"}).status_code == 200
    assert client.get("/metrics").status_code == 401


def test_an_operation_that_fails_is_counted_and_fails(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    store = timed(open_store(tmp_path / "state"), Series(registry))
    assert store.get_run("nobody") is None
    store.close()
    with pytest.raises(StoreError):
        store.get_run("nobody")

    labels = {"operation": "get_run"}
    assert registry.get_sample_value("openclaw_store_operation_duration_seconds_count", labels) == 2
    assert registry.get_sample_value("openclaw_store_errors_total", labels) == 1


# Traces: a process has one global provider, and these need processes of their own

HOST = """
import json, os, sys
from flask import Flask
from app import Gateway
if {own}:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
app = Flask("host")
mount = Gateway().init_app(app, config=json.loads(os.environ["CONFIG"]))
mount.open()
client = app.test_client()
def ask():
    answer = client.post("/v1/chat/completions", json={hi}, headers={bearer})
    assert answer.status_code == 200, answer.text
if {own}:
    with trace.get_tracer("host").start_as_current_span("the host's") as span:
        ask()
    assert trace.get_tracer_provider() is provider
else:
    ask()
mount.close()
spans = kept.get_finished_spans() if {own} else ()
print(json.dumps({{
    "loaded": sorted(name for name in sys.modules if name.startswith("opentelemetry.sdk")),
    "spans": [[s.name, s.context.span_id, s.parent.span_id if s.parent else 0] for s in spans],
}}))
"""


def hosted(model: ScriptedProvider, tmp_path: Path, *, own: bool) -> dict[str, Any]:
    """What became of one request to a host."""
    env = {
        "CONFIG": json.dumps(configuration(model.base_url)),
        "OPENCLAW_STATE_DIR": str(tmp_path / "state"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    code = HOST.format(own=own, hi=HI, bearer=BEARER)
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_hosts_provider_gets_the_spans_below_its_own(model: ScriptedProvider, tmp_path: Path) -> None:
    spans = hosted(model, tmp_path, own=True)["spans"]
    ids = {name: span_id for name, span_id, _ in spans}
    assert {name: parent for name, _, parent in spans} == {
        "the host's": 0,
        "invoke_agent main": ids["the host's"],
        "chat m": ids["invoke_agent main"],
    }


def test_nothing_is_loaded_where_nobody_gets_traces(model: ScriptedProvider, tmp_path: Path) -> None:
    assert hosted(model, tmp_path, own=False) == {"loaded": [], "spans": []}
