"""Several real gateways that are one: on one Postgres and one Redis, behind an nginx."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.sessions.records import Loaded, Run
from app.sessions.sql import open_store
from tests.e2e.gateway_process import GatewayProcess, free_port, gateway_config
from tests.engines import PostgresServer, postgres_server
from tests.nginx_engine import NginxEngine
from tests.redis_engine import RedisEngine

_HTTP = """
upstream gateways {{ {choice} {servers} }}
server {{
    listen 127.0.0.1:{port};
    client_max_body_size 32m;
    location / {{
        proxy_pass http://gateways;
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $http_connection;
        proxy_next_upstream error timeout;
        proxy_read_timeout 300s;
        proxy_connect_timeout 2s;
    }}
}}
"""


@dataclass(frozen=True)
class Cluster:
    """All of it, running."""

    gateways: Sequence[GatewayProcess]
    postgres: PostgresServer
    redis: RedisEngine
    database_url: str
    port: int

    def transcript(self, key: str) -> Loaded:
        with closing(open_store(self.database_url, readonly=True)) as store:
            return store.transcript(key)

    def record(self, run_id: str) -> Run | None:
        with closing(open_store(self.database_url, readonly=True)) as store:
            return store.get_run(run_id)


@contextmanager
def cluster(
    directory: Path,
    provider_url: str,
    count: int,
    *,
    lease: float = 15.0,
    workers: Sequence[int] = (),
    **sections: Any,
) -> Iterator[Cluster]:
    """Start ``count`` gateways, each with a state directory of its own as on a machine of its own.

    :param workers: of each gateway; 1 for those that are not named.
    """
    with ExitStack() as stack:
        postgres, redis = postgres_server(), stack.enter_context(RedisEngine())
        database_url = stack.enter_context(postgres.database())
        counts = [*workers, *[1] * count][:count]
        env = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis.url,
            "OPENCLAW_LEASE_SECONDS": str(lease),
            "OPENCLAW_DRAIN_SECONDS": "5",
        }
        config = gateway_config(provider_url, **sections)
        gateways = []
        for number, size in enumerate(counts):
            place = directory / f"machine{number}"
            place.mkdir()
            gateway = GatewayProcess(config, place, env=env | {"WEB_CONCURRENCY": str(size)})
            gateways.append(gateway)
            stack.callback(_end, gateway)
        for gateway in gateways:
            gateway.launch()
        for gateway in gateways:
            gateway.wait_until_ready()
        port = free_port()
        servers = " ".join(f"server 127.0.0.1:{gateway.port} max_fails=0;" for gateway in gateways)
        stack.enter_context(NginxEngine(_HTTP.format(choice="random;", servers=servers, port=port), port))
        yield Cluster(gateways, postgres, redis, database_url, port)


def freeze(gateway: GatewayProcess) -> None:
    """Let a gateway's workers stand still, as a machine does that is out of memory."""
    for pid in gateway.workers:
        os.kill(pid, signal.SIGSTOP)


def thaw(gateway: GatewayProcess) -> None:
    """End a freeze."""
    for pid in gateway.workers:
        os.kill(pid, signal.SIGCONT)


def _end(gateway: GatewayProcess) -> None:
    if gateway.running:
        gateway.kill9()
