"""A name server that changes its mind: the tool of DNS rebinding."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Self

_A = 1
_HEADER = struct.Struct("!6H")


class FickleDns:
    """Answers over UDP; each question for the addresses of a name gets the next of ``addresses``.

    What it says holds for no time at all. It knows IPv4 only.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.answers: list[str] = []
        self._addresses = itertools.cycle(addresses)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a gateway under gevent ask here."""
        port = str(self._socket.getsockname()[1])
        return {
            "GEVENT_RESOLVER": "ares",
            "GEVENTARES_SERVERS": "127.0.0.1",
            "GEVENTARES_UDP_PORT": port,
            "GEVENTARES_TCP_PORT": port,
        }

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(4096)
            if not question:
                return
            self._socket.sendto(self._answer(question), client)

    def _answer(self, message: bytes) -> bytes:
        end = message.index(b"\0", _HEADER.size) + 5
        (kind,) = struct.unpack_from("!H", message, end - 4)
        records = b""
        if kind == _A:
            self.answers.append(next(self._addresses))
            address = socket.inet_aton(self.answers[-1])
            records = struct.pack("!3HIH", 0xC00C, _A, 1, 0, len(address)) + address
        (number,) = struct.unpack_from("!H", message)
        header = _HEADER.pack(number, 0x8580, 1, bool(records), 0, 0)
        return header + message[_HEADER.size : end] + records

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()
