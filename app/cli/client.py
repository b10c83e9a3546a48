"""The command line's connection to a running gateway."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from typing import Any
from urllib.parse import quote

import urllib3

from ..config import Config
from ..errors import GatewayError, ProviderError
from ..providers.sse import SseParser
from ..wire import InvalidJson, loads
from .address import base_url

# The gateway writes a comment every 15 seconds; four missed ones mean that it is gone.
_SILENCE = 60.0


class GatewayDown(GatewayError):
    """Nobody listens on the gateway's port, so nothing can have been accepted."""


class GatewayClient:
    """Talks to the gateway that the configuration describes, with its secret."""

    def __init__(self, config: Config) -> None:
        self._base = f"{base_url(config.gateway, os.environ)}/api"
        self._headers = {"Content-Type": "application/json"}
        if secret := config.gateway.auth.secret:
            self._headers["Authorization"] = f"Bearer {secret}"
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=10, read=_SILENCE))

    def turn(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any]]:
        """The events of a turn, the last one its ``end``. Closing the generator cancels the turn.

        :param path: ``/agent``, or ``/chat``, which obeys commands.
        :raises GatewayDown: the connection was refused.
        :raises GatewayError: the gateway refused, or was lost on the way.
        """
        response = self._send("POST", path, body)
        parser = SseParser()
        try:
            while data := response.read1(65536):
                for text in parser.feed(data):
                    event = _object(text)
                    yield event
                    if event.get("type") == "end":
                        return
        except (urllib3.exceptions.HTTPError, OSError, ProviderError):
            pass  # as bad as an end without the event
        finally:
            response.close()
        raise GatewayError("The connection to the gateway was lost; the turn was not repeated.")

    def call(self, method: str, path: str, *parts: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One plain request; ``parts`` are quoted and added to the path.

        :raises GatewayDown, GatewayError: as for :meth:`turn`.
        """
        response = self._send(method, "/".join((path, *(quote(part, safe="") for part in parts))), body)
        try:
            return _object(response.read())
        finally:
            response.close()

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> urllib3.BaseHTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        try:
            response = self._http.request(
                method, self._base + path, body=data, headers=self._headers, preload_content=False
            )
        except urllib3.exceptions.HTTPError as error:
            if isinstance(error.__cause__ or error.__context__, ConnectionRefusedError):
                raise GatewayDown(f"No gateway answers at {self._base}.") from None
            raise GatewayError(f"The gateway at {self._base} did not answer.") from None
        if response.status >= 400:
            raise GatewayError(_message(response))
        return response


def _message(response: urllib3.BaseHTTPResponse) -> str:
    try:
        return str(_object(response.read())["error"]["message"])
    except (GatewayError, KeyError, TypeError, urllib3.exceptions.HTTPError):
        return f"The gateway answered with status {response.status}."


def _object(data: bytes | str) -> dict[str, Any]:
    try:
        value = loads(data if isinstance(data, bytes) else data.encode())
    except InvalidJson:
        value = None
    if not isinstance(value, dict):
        raise GatewayError("The gateway's answer could not be read; is something else on this port?")
    return dict(value)
