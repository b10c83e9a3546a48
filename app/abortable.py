"""Exchanges over sockets that can be ended from any thread.

To close a socket does not wake up who reads from it; to shut it down does. What is shut down is a
duplicate of the descriptor: the original changes hands during a TLS handshake, and its number may already
belong to somebody else by then.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress


class Abortable:
    """Follows an exchange from socket to socket. Any thread may call :meth:`abort`, its own the others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below
        self._aborted = False
        self._descriptor: int | None = None

    def follow(self, sock: socket.socket) -> None:
        """Use ``sock`` from now on.

        :raises ConnectionAbortedError: the exchange is at its end.
        """
        with self._lock:
            if self._aborted:
                raise ConnectionAbortedError
            self._forget()
            self._descriptor = os.dup(sock.fileno())

    def abort(self) -> None:
        """Shut the socket down: whoever waits for it wakes up with an error or an end."""
        with self._lock:
            self._aborted = True
            if self._descriptor is not None:
                _shut_down(self._descriptor)

    def release(self) -> None:
        """The socket belongs to somebody else from now on, or to nobody."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _shut_down(descriptor: int) -> None:
    with suppress(OSError):
        sock = socket.socket(fileno=descriptor)
        try:
            sock.shutdown(socket.SHUT_RDWR)
        finally:
            sock.detach()
