"""The person at the other end of the connection: who they are, and whether they are still there.

WSGI says nothing about a client that leaves. The servers we run under put the connection's
socket into the environment, and looking at it tells.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

Environ = Mapping[str, Any]
Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

_FORWARDING = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP", "HTTP_X_FORWARDED_HOST")


def client_socket(environ: Environ) -> socket.socket | None:
    """The connection's socket, if the server gives it away."""
    found = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    return found if isinstance(found, socket.socket) else None


class ClientWatch:
    """Tells whether the client of one request has closed its connection."""

    def __init__(self, environ: Environ) -> None:
        self._socket = client_socket(environ)
        self._poll: select.poll | None = None

    def gone(self) -> bool:
        """True once the client has left. Costs some microseconds and never blocks.

        A client that has sent the beginning of its next request is still there. Where the
        server hides the socket, and behind TLS, this stays False.
        """
        if self._socket is None:
            return False
        if self._poll is None:  # most requests are over before anybody asks
            if self._socket.fileno() < 0:
                return True
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
        try:
            return bool(self._poll.poll(0)) and self._socket.recv(1, socket.MSG_PEEK) == b""
        except ValueError:
            return False
        except OSError:
            return True


def peer_address(environ: Environ) -> Address | None:
    """The address of whoever opened the connection; None for a unix socket."""
    return _parse(str(environ.get("REMOTE_ADDR", "")))


def is_forwarded(environ: Environ) -> bool:
    """True if some proxy says that it passes this request on."""
    return any(name in environ for name in _FORWARDING)


def client_address(environ: Environ, trusted: Iterable[Network]) -> Address | None:
    """The client's address: the peer, or what trusted proxies say about it.

    ``X-Forwarded-For`` is read from the right, past every trusted hop; what an untrusted
    peer claims is ignored.
    """
    peer = peer_address(environ)
    networks = tuple(trusted)
    if peer is None or not _within(peer, networks):
        return peer
    for hop in reversed(str(environ.get("HTTP_X_FORWARDED_FOR", "")).split(",")):
        address = _parse(_without_port(hop.strip()))
        if address is None:
            break
        if not _within(address, networks):
            return address
    return peer


def _without_port(hop: str) -> str:
    """Some proxies add it: ``192.0.2.7:5678``, ``[2001:db8::7]:5678``."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _parse(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
