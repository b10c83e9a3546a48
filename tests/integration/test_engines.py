"""The servers that tests start: they are real ones, and they leave nothing behind."""

from __future__ import annotations

import http.server
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from tests.e2e.gateway_process import free_port
from tests.nginx_engine import NginxEngine
from tests.redis_engine import RedisEngine


class _Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = f"{self.server.server_address[1]} {len(body)}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def backends() -> Iterator[list[int]]:
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hello) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    yield [server.server_address[1] for server in servers]
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        server.server_close()
        thread.join()


def test_nginx_spreads_requests_and_takes_large_bodies(backends: list[int]) -> None:
    port = free_port()
    upstream = "".join(f"server 127.0.0.1:{backend};" for backend in backends)
    config = f"""
        client_max_body_size 20m;
        upstream workers {{ {upstream} }}
        server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://workers; }} }}
    """
    with NginxEngine(config, port) as nginx:
        directory = nginx.directory
        answers = []
        for size in (3, 5_000_000, 3, 5_000_000):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", b"x" * size, timeout=20) as response:
                answers.append(response.read().decode().split())

    assert {int(backend) for backend, _ in answers} == set(backends)
    assert [int(size) for _, size in answers] == [3, 5_000_000, 3, 5_000_000]
    assert not directory.exists()


def test_a_bad_configuration_of_nginx_is_told() -> None:
    with pytest.raises(AssertionError, match="colour"):
        NginxEngine("colour red;", free_port()).start()


def test_redis_comes_back_empty_on_the_same_port() -> None:
    with RedisEngine() as engine:
        assert engine.command("SET", "name", "value") == b"+OK\r\n"
        assert engine.command("GET", "name") == b"$5\r\nvalue\r\n"
        engine.restart()
        assert engine.command("GET", "name") == b"$-1\r\n"
    with pytest.raises(OSError, match="refused"):
        engine.command("PING")
