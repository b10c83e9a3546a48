"""The yardstick: the least that Flask, gunicorn and gevent can do and still relay a stream.

``gunicorn -k gevent benchmarks.relay:app``; it forwards bytes without looking at them, from
a thread that reads the provider, over a bounded queue, to the response.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator

import urllib3
from flask import Flask, Response, request

URL = f"{os.environ['BENCH_PROVIDER']}/chat/completions"

app = Flask(__name__)
pool = urllib3.PoolManager(maxsize=1000, block=False)


@app.post("/v1/chat/completions")
def relay() -> Response:
    upstream: queue.Queue[bytes] = queue.Queue(256)
    body = request.get_data()
    threading.Thread(target=_read, args=(body, upstream), daemon=True).start()
    return Response(iter(upstream.get, b""), mimetype="text/event-stream")


@app.get("/readyz")
def ready() -> str:
    return "ready"


def _read(body: bytes, pieces: queue.Queue[bytes]) -> None:
    for piece in _pieces(body):
        pieces.put(piece)
    pieces.put(b"")


def _pieces(body: bytes) -> Iterator[bytes]:
    response = pool.request(
        "POST", URL, body=body, headers={"Content-Type": "application/json"}, preload_content=False
    )
    while piece := response.read1(65536):
        yield piece
    response.release_conn()
