"""Another configuration while the gateway runs: what can change does, at once and as a whole."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cancel import CancelToken
from app.config import load_config
from app.config.schema import served_keys
from app.errors import AgentNotFound, ConfigError, GatewayError, ProviderError
from app.events import TERMINAL, RunCompleted
from app.messages import UserMessage
from app.providers.base import ModelRequest
from app.runs.run import Run, RunRequest
from app.runtime import Runtime, build_runtime
from app.runtime.reload import HOT, changed_keys
from tests.e2e.gateway_process import wait_until
from tests.scripted_provider import Reply, ScriptedProvider

TOKEN = "a-token-for-tests-0123"
AUTH = {"auth": {"token": TOKEN}}


class Site:
    """A gateway with a file that can be changed."""

    def __init__(self, home: Path, provider: ScriptedProvider) -> None:
        self.path = home / "openclaw.json"
        self.env = {
            "HOME": str(home),
            "OPENCLAW_STATE_DIR": str(home / "state"),
            "OPENCLAW_CONFIG_PATH": str(self.path),
        }
        self.settings: dict[str, Any] = {
            "gateway": {"auth": {"token": TOKEN}},
            "agents": {"defaults": {"model": "scripted/one"}, "list": [{"id": "main"}]},
            "models": {
                "providers": {"scripted": {"baseUrl": provider.base_url, "apiKey": "sk-the-first-key"}}
            },
        }
        self.write()
        self.runtime: Runtime = build_runtime(self.load(), self.env, load=self.load)

    def load(self) -> Any:
        return load_config(None, self.env)

    def write(self, **sections: Any) -> None:
        """Change whole sections; the file is replaced as editors do it."""
        self.settings |= sections
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(self.settings))
        fresh.replace(self.path)

    def ask(self, text: str = "hello", agent: str = "main") -> Run:
        number = os.urandom(6).hex()
        return self.runtime.runs.start(
            RunRequest(
                run_id=f"run-{number}",
                agent_id=agent,
                session_key=f"key-{number}",
                ephemeral=True,
                channel="openai",
                messages=(UserMessage.of(text),),
                created_at=1,
            )
        )

    def answer(self, run: Run | None = None) -> str:
        run = run or self.ask()
        while True:
            for event in run.get():
                if isinstance(event, TERMINAL):
                    assert isinstance(event, RunCompleted), event
                    return event.text


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
def site(tmp_path: Path, provider: ScriptedProvider) -> Iterator[Site]:
    site = Site(tmp_path, provider)
    yield site
    site.runtime.close()


def models_asked(provider: ScriptedProvider) -> list[str]:
    return [request.body["model"] for request in provider.requests]


def test_a_change_holds_for_the_next_run(site: Site, provider: ScriptedProvider) -> None:
    site.answer()
    site.write(agents={"defaults": {"model": "scripted/two"}, "list": [{"id": "main"}, {"id": "beta"}]})
    done = site.runtime.reloader.reload()
    assert done.waiting == ()
    assert set(done.applied) == {"agents.defaults.model.primary", "agents.list"}
    site.answer()
    site.answer(site.ask(agent="beta"))
    assert models_asked(provider) == ["one", "two", "two"]
    assert site.runtime.agents.ids == ("main", "beta")
    assert site.runtime.config.agents.defaults.model is not None


def test_a_run_under_way_ends_with_what_it_began_with(site: Site, provider: ScriptedProvider) -> None:
    gate = threading.Event()
    provider.script(Reply(chunks=["be", "gun"], gate=gate, gate_at=1))
    run = site.ask()
    assert provider.wait_for_requests(1, 10)
    site.write(agents={"list": [{"id": "other", "model": "scripted/two"}]})
    site.runtime.reloader.reload()
    with pytest.raises(AgentNotFound):
        site.ask()
    gate.set()
    assert site.answer(run) == "begun"
    assert site.answer(site.ask(agent="other")) == "echo: hello"
    assert models_asked(provider) == ["one", "two"]


def test_a_new_key_is_used_and_masked_in_the_log(site: Site, provider: ScriptedProvider) -> None:
    providers = {"scripted": {"baseUrl": provider.base_url, "apiKey": "sk-the-second-key"}}
    site.write(models={"providers": providers})
    assert site.runtime.reloader.reload().applied == ("models.providers.scripted.apiKey",)
    site.answer()
    assert provider.requests[-1].headers["authorization"] == "Bearer sk-the-second-key"


def test_a_new_provider_can_be_chosen_and_an_old_one_no_more(site: Site, provider: ScriptedProvider) -> None:
    site.write(
        agents={"list": [{"id": "main", "model": "fresh/three"}]},
        models={"providers": {"fresh": {"baseUrl": provider.base_url}}},
    )
    site.runtime.reloader.reload()
    site.answer()
    assert models_asked(provider) == ["three"]
    assert "scripted" not in site.runtime.providers
    with pytest.raises(ConfigError):
        site.runtime.live.resolve("scripted/one")


@pytest.mark.parametrize(
    "broken",
    [
        "{ agents: ",
        '{"gatway": {}}',
        json.dumps({"gateway": AUTH, "agents": {"list": [{"id": "x", "model": "nosuch/m"}]}}),
        json.dumps({"gateway": AUTH, "tools": {"allow": ["nosuch_tool"]}}),
        '{"gateway": {"auth": {"token": ""}}}',
    ],
)
def test_a_file_that_cannot_be_used_changes_nothing(
    site: Site, provider: ScriptedProvider, broken: str
) -> None:
    before = site.runtime.config
    site.path.write_text(broken)
    with pytest.raises(ConfigError):
        site.runtime.reloader.reload()
    assert site.runtime.config is before
    assert site.runtime.agents.ids == ("main",)
    site.answer()
    assert models_asked(provider) == ["one"]


def test_a_file_that_is_gone_changes_nothing(site: Site) -> None:
    site.env["OPENCLAW_GATEWAY_TOKEN"] = TOKEN
    site.path.unlink()
    with pytest.raises(GatewayError, match="is gone"):
        site.runtime.reloader.reload()
    assert site.runtime.agents.ids == ("main",)


def test_what_needs_a_restart_is_named_and_waits(site: Site) -> None:
    site.write(
        gateway={"auth": {"token": TOKEN}, "port": 4711},
        agents={
            "defaults": {"model": "scripted/one", "maxConcurrent": 3, "maxRounds": 7},
            "list": [{"id": "main"}],
        },
    )
    done = site.runtime.reloader.reload()
    assert done.applied == ("agents.defaults.maxRounds",)
    assert set(done.waiting) == {"gateway.port", "agents.defaults.maxConcurrent"}
    assert site.runtime.config.gateway.port == 18_789
    assert site.runtime.agents.get("main").max_rounds == 7


def test_what_waits_is_named_until_it_holds(site: Site) -> None:
    defaults = {"model": "scripted/one", "maxConcurrent": 3}
    site.write(agents={"defaults": defaults, "list": [{"id": "main"}]}, session={"mainKey": "home"})
    waiting = {"agents.defaults.maxConcurrent", "session.mainKey"}
    assert set(site.runtime.reloader.reload().waiting) == waiting
    site.write(agents={"defaults": defaults, "list": [{"id": "main"}, {"id": "beta"}]})
    done = site.runtime.reloader.reload()
    assert (done.applied, set(done.waiting)) == (("agents.list",), waiting)
    assert site.runtime.config.session.main_key == site.runtime.agents.main_key == "main"


def test_the_built_in_model_stays_the_process_that_it_is(site: Site, provider: ScriptedProvider) -> None:
    before = site.runtime.providers["embedded"]
    providers = site.settings["models"]["providers"] | {"embedded": {"api": "embedded", "slots": 1}}
    site.write(models={"providers": providers})
    assert site.runtime.reloader.reload().waiting == ("models.providers.embedded",)
    assert site.runtime.providers["embedded"] is before


def test_nothing_is_done_where_nothing_has_changed(site: Site) -> None:
    before = site.runtime.providers
    done = site.runtime.reloader.reload()
    assert (done.applied, done.waiting) == ((), ())
    assert site.runtime.providers is before


def test_a_configuration_given_in_code_is_not_read_again(tmp_path: Path, provider: ScriptedProvider) -> None:
    config = load_config({"gateway": {"auth": {"token": TOKEN}}}, {"OPENCLAW_STATE_DIR": str(tmp_path)})
    runtime = build_runtime(config, {})
    try:
        with pytest.raises(GatewayError, match="given in code"):
            runtime.reloader.reload()
    finally:
        runtime.close()


def test_reloads_under_load_lose_no_run(site: Site, provider: ScriptedProvider) -> None:
    stop = threading.Event()
    answers: list[str] = []
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            while not stop.is_set():
                answers.append(site.answer())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(30):
        site.write(agents={"defaults": {"model": f"scripted/{number}"}, "list": [{"id": "main"}]})
        assert site.runtime.reloader.reload().applied
    stop.set()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert set(answers) == {"echo: hello"}
    site.answer()
    assert models_asked(provider)[-1] == "29"


def test_providers_that_nobody_uses_any_more_are_closed(site: Site, provider: ScriptedProvider) -> None:
    gate = threading.Event()
    provider.script(Reply(chunks=["be", "gun"], gate=gate, gate_at=1))
    run = site.ask()
    assert provider.wait_for_requests(1, 10)
    candidate = site.runtime.live.resolve("scripted/one")
    site.write(agents={"list": [{"id": "main", "model": "scripted/two"}]})
    site.runtime.reloader.reload()
    wait_until(lambda: site.answer() == "echo: hello")
    gate.set()
    assert site.answer(run) == "begun"

    def is_closed() -> bool:
        request = ModelRequest(model="one", system="", messages=(UserMessage.of("still there?"),))
        try:
            list(candidate.provider.stream(request, CancelToken()))
        except ProviderError:
            return True
        return False

    wait_until(is_closed, 15)
    assert site.answer() == "echo: hello"


# watching


def test_a_change_of_the_file_is_noticed(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("openclaw").propagate = True
    with caplog.at_level("INFO"):
        site.write(agents={"defaults": {"model": "scripted/one"}, "list": [{"id": "main"}, {"id": "beta"}]})
        wait_until(lambda: site.runtime.agents.ids == ("main", "beta"), 10)
        wait_until(lambda: "config change applied: agents.list" in caplog.text)
        site.path.write_text("{ agents: ")
        wait_until(lambda: "the configuration was not reloaded, the old one holds" in caplog.text, 10)
        assert site.runtime.agents.ids == ("main", "beta")
        site.write(agents={"defaults": {"model": "scripted/one"}, "list": [{"id": "gamma"}]})
        wait_until(lambda: site.runtime.agents.ids == ("gamma",), 10)


def test_a_change_of_an_included_file_is_noticed(site: Site) -> None:
    included = site.path.with_name("agents.json")
    included.write_text('[{"id": "main"}]')
    site.write(agents={"defaults": {"model": "scripted/one"}, "list": {"$include": "agents.json"}})
    site.runtime.reloader.reload()
    included.write_text('[{"id": "main"}, {"id": "delta"}]')
    wait_until(lambda: site.runtime.agents.ids == ("main", "delta"), 10)


def test_an_included_file_that_was_wrong_from_its_beginning_is_noticed_once_it_is_right(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("openclaw").propagate = True
    included = site.path.with_name("agents.json")
    included.write_text('[{"id": "main"')
    site.write(agents={"defaults": {"model": "scripted/one"}, "list": {"$include": "agents.json"}})
    wait_until(lambda: "the configuration was not reloaded, the old one holds" in caplog.text, 10)
    included.write_text('[{"id": "main"}, {"id": "delta"}]')
    wait_until(lambda: site.runtime.agents.ids == ("main", "delta"), 10)
    assert caplog.text.count("the configuration was not reloaded") == 1


# keys


def test_every_key_that_is_said_to_change_exists() -> None:
    served = set(served_keys())
    assert [key for key in HOT if key not in served] == []


def test_changed_keys_are_named_as_they_are_written(tmp_path: Path) -> None:
    def load(**sections: Any) -> Any:
        return load_config({"gateway": {"auth": {"token": TOKEN}}} | sections, {"HOME": str(tmp_path)})

    old = load(models={"providers": {"a": {"baseUrl": "http://x/v1"}}}, tools={"deny": ["exec"]})
    new = load(models={"providers": {"b": {"baseUrl": "http://x/v1"}}}, session={"mainKey": "home"})
    assert changed_keys(old, new) == [
        "models.providers.a",
        "models.providers.b",
        "session.mainKey",
        "tools.deny",
    ]
    assert changed_keys(old, old) == []
