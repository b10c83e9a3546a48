"""The command line's connection to a running gateway."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING, Any

import click

from ..config import Config, load_config
from ..errors import GatewayError
from ..sessions.beacon import seen
from ..version import version
from ..wire import InvalidJson, dumps, loads
from .address import gateway_url

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

Json = dict[str, Any]

_PROTOCOL = 4
_SCOPES = ["operator.read", "operator.write", "operator.approvals"]
# Seconds for an answer. A wrong secret from this machine takes the gateway 5 of them.
_PATIENCE = 30.0
# Seconds for a gateway that is being restarted to listen again, and between two looks.
_RESTART, _LOOK = 5.0, 0.2
_UNAVAILABLE = 503

url_option = click.option(
    "--url", metavar="URL", help="The gateway's address, such as ws://host:18789. [env: OPENCLAW_GATEWAY_URL]"
)


class GatewayLost(GatewayError):
    """The gateway does not answer. What it was asked may have been done."""


class GatewayDown(GatewayLost):
    """Nobody listens at the gateway's address, so nothing can have been done."""


class OwnGatewayDown(GatewayDown):
    """Nobody listens at the address of this machine's own gateway, whose state nobody uses then."""


class GatewayClient:
    """Talks to one gateway, with the secret of the configuration. Connects for each call and each turn."""

    def __init__(self, config: Config, url: str | None = None) -> None:
        """:param url: where the gateway is, before what the environment and the configuration say.
        :raises ConfigError: the address cannot be used.
        """
        named = url or os.environ.get("OPENCLAW_GATEWAY_URL")
        own = None if named else seen(config.state_dir)
        self.url = gateway_url(config.gateway, os.environ, own.url if own else named)
        self._down = GatewayDown if named else OwnGatewayDown
        self._secret = config.gateway.auth.secret
        self._secret_from = str(config.path or "the environment")

    def call(self, method: str, /, **params: Any) -> Any:
        """The payload of the answer to one request; parameters that are None are left out.

        :raises GatewayDown: the connection was refused.
        :raises GatewayError: the gateway refused, or does not answer.
        """
        with closing(self.connect()) as connection:
            return connection.call(method, **params)

    def connect(self) -> Connection:
        """A connection that has said hello; the caller closes it.

        :raises GatewayDown, GatewayError: as for :meth:`call`.
        """
        connection = Connection(self._open(), self.url)
        try:
            connection.hello(self._secret)
        except GatewayError as error:
            connection.close()
            raise self._refused(error) from None
        except BaseException:
            connection.close()
            raise
        return connection

    def reconnect(self) -> Connection:
        """As :meth:`connect`, to a gateway that may be about to come back."""
        deadline = time.monotonic() + _RESTART
        while True:
            try:
                return self.connect()
            except GatewayLost:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_LOOK)

    def _open(self) -> ClientConnection:
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
        from websockets.sync.client import connect

        try:
            # Without a limit to what waits: while a person makes up their mind nobody reads.
            return connect(
                self.url, compression=None, proxy=None, max_size=None, max_queue=None,
                open_timeout=_PATIENCE, close_timeout=1, legacy=True,
            )  # fmt: skip
        except ConnectionRefusedError:
            raise self._down(f"No gateway answers at {self.url}.") from None
        except InvalidStatus as error:
            raise self._answered(error.response.status_code) from None
        except (OSError, InvalidMessage, ConnectionClosed):
            raise GatewayLost(f"The gateway at {self.url} did not answer.") from None
        except InvalidHandshake:
            raise self._answered(None) from None

    def _refused(self, error: GatewayError) -> GatewayError:
        """A refusal, with what it takes to mend it."""
        if not error.message.startswith("unauthorized"):
            return error
        used = f"The secret that was used is from {self._secret_from}." if self._secret else "None was used."
        return GatewayError(f"{self.url} has refused this command: {error.message}. {used}")

    def _answered(self, status: int | None) -> GatewayError:
        """What an answer over HTTP means where a WebSocket was to be opened."""
        if status == _UNAVAILABLE:
            return GatewayLost(f"The gateway at {self.url} takes no connections now.")
        told = f" It answered with status {status}." if status else ""
        return GatewayError(f"There is no gateway at {self.url}.{told}")


class Connection:
    """One connection to a gateway. Not for more than one thread."""

    def __init__(self, socket: ClientConnection, url: str) -> None:
        """:param url: the gateway's address, for complaints."""
        self._socket = socket
        self._url = url
        self._ids = map(str, count(1))
        self._kept: deque[Json] = deque()  # frames that came while an answer was waited for

    def hello(self, secret: str) -> None:
        """Introduce ourselves.

        :raises GatewayError: we are not let in.
        """
        self._receive(_PATIENCE)  # the challenge, which is for devices
        client = {"id": "cli", "version": version(), "platform": sys.platform, "mode": "cli"}
        self.call(
            "connect",
            minProtocol=_PROTOCOL,
            maxProtocol=_PROTOCOL,
            client=client,
            caps=["tool-events"],
            scopes=_SCOPES,
            auth={"token": secret} if secret else None,
        )

    def call(self, method: str, /, *, patience: float = _PATIENCE, **params: Any) -> Any:
        """The payload of the first answer to a request; parameters that are None are left out.

        :param patience: seconds.
        :raises GatewayLost: there is no answer.
        :raises GatewayError: the gateway refused.
        """
        request_id = next(self._ids)
        stated = {name: value for name, value in params.items() if value is not None}
        self._send({"type": "req", "id": request_id, "method": method, "params": stated})
        deadline = time.monotonic() + patience
        while (frame := self._receive(deadline - time.monotonic())).get("id") != request_id:
            self._kept.append(frame)
        check(frame)
        return frame.get("payload")

    def frames(self) -> Iterator[Json]:
        """Everything that comes and is no first answer, for as long as it takes.

        :raises GatewayLost: the connection has ended.
        """
        while True:
            yield self._kept.popleft() if self._kept else self._receive(None)

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def _send(self, frame: Json) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            self._socket.send(dumps(frame).decode())
        except ConnectionClosed:
            raise self._lost() from None

    def _receive(self, patience: float | None) -> Json:
        from websockets.exceptions import ConnectionClosed

        try:
            frame = loads(self._socket.recv(patience, decode=False))
        except ConnectionClosed:
            raise self._lost() from None
        except TimeoutError:
            raise GatewayLost(f"The gateway at {self._url} did not answer.") from None
        except InvalidJson:
            frame = None
        if not isinstance(frame, dict):
            raise GatewayError(f"What {self._url} answers is not OpenClaw's protocol.")
        return dict(frame)

    def _lost(self) -> GatewayLost:
        return GatewayLost(f"The connection to the gateway at {self._url} was lost.")


def check(answer: Json) -> None:
    """Make sure that an answer is no refusal.

    :raises GatewayError: it is.
    """
    match answer:
        case {"ok": False, "error": {"message": str(message)}}:
            raise GatewayError(message)
        case {"ok": False}:
            raise GatewayError("The gateway has refused.")


def gateway_client(url: str | None = None) -> GatewayClient:
    """A client as the configuration, the environment and ``--url`` have it.

    :raises ConfigError: one of them cannot be used.
    """
    return GatewayClient(load_config(None, os.environ, require_auth=False, platform_env=True), url)
