"""The process that holds the built-in model: llama.cpp's own server on a unix socket.

A program, not a module: the supervisor runs this file by its path, so it imports nothing of
the package and works under any package name. Standard input, output and error are one socket
to the supervisor: a line ``{"event": ...}`` on it is for the supervisor, everything else is
llama.cpp's log, and its end means that nobody needs the model any more.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

CONFIG_VARIABLE = "OPENCLAW_EMBEDDED_CHILD"

BATCH = 256  # tokens; a cancelled request is noticed between batches

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve the model until the supervisor goes away."""
    config = json.loads(os.environ.pop(CONFIG_VARIABLE))
    _die_with_parent(config["parent_pid"])
    watch = threading.Thread(target=_exit_at_end_of_input, daemon=True)
    watch.start()
    _be_modest(config["memory_limit"])
    server = _serve(config)  # noqa: F841 - the server lives as long as this name
    _tell(event="ready")
    watch.join()


def _die_with_parent(parent_pid: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(0)


def _exit_at_end_of_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)  # without waiting for generations under way


def _be_modest(memory_limit: int) -> None:
    import resource  # not at the top: the supervisor imports this file on every platform

    os.umask(0o077)  # the socket is for this user alone
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit, memory_limit))
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("700")


def _serve(config: dict[str, Any]) -> object:
    try:
        import xllamacpp  # in here: its absence is reported

        return xllamacpp.Server(_parameters(xllamacpp.CommonParams(), config))
    except Exception as error:
        _fail(f"{type(error).__name__}: {error}")


def _parameters(params: Any, config: dict[str, Any]) -> Any:
    """llama.cpp's defaults suit one person at a terminal; these suit a small shared server."""
    params.model.path = config["model_path"]
    params.model_alias = {config["alias"]}
    params.offline = True
    params.fit_params = False  # loads everything twice, and what to do without memory is known here
    params.hostnames = [config["socket_path"]]
    params.api_keys = [config["api_key"]]
    params.cors_origins = ""
    params.ui = params.endpoint_slots = params.endpoint_props = False
    params.endpoint_metrics = True
    params.n_threads_http = 24  # fewer, and /health waits behind the streams
    params.n_ctx = config["context_size"]
    params.n_parallel = config["slots"]
    params.kv_unified = True
    params.n_batch = params.n_ubatch = BATCH
    params.n_predict = config["max_tokens"]
    params.cache_ram_mib = 256
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config["threads"]
    params.embedding = True
    params.pooling_type = _mean_pooling()
    params.verbosity = 1
    return params


def _mean_pooling() -> Any:
    from xllamacpp import llama_pooling_type

    return llama_pooling_type.LLAMA_POOLING_TYPE_MEAN


def _fail(reason: str) -> NoReturn:
    _tell(event="failed", reason=reason)
    os._exit(1)


def _tell(**event: str) -> None:
    # One write, and a line of its own even if llama.cpp has left one unfinished.
    os.write(1, f"\n{json.dumps(event)}\n".encode())


if __name__ == "__main__":
    main()
