"""Which addresses of the network the agent's own requests may reach.

A name is looked up once for each request, every address it has is judged, and the connection
goes to an address that was judged. So a name that means something else a moment later (DNS
rebinding) gains nothing, and neither does a redirect: its target is a request of its own.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import SplitResult, quote, urlsplit

from ...errors import ConfigError
from ..registry import ToolError

Resolver: TypeAlias = Callable[[str, int], list[str]]

_MAX_URL = 4096
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_FIRST_FREE_PORT = 1024
_KEPT = "%/:=&?~#+!$,;'@()*[]|"  # characters of a path and a query that mean something as they are

# What `ipaddress` of some Python versions takes for global and is not meant to be reached:
# protocol assignments (Oracle's metadata service is one), 6to4 relays, Azure's metadata service.
_SPECIAL = tuple(IPv4Network(net) for net in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32"))
_UNICAST = IPv6Network("2000::/3")  # all that IANA has given out
_DOCUMENTATION = IPv6Network("3fff::/20")
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Target:
    """A web address in parts, ready to be sent.

    :ivar host: a name in ASCII or an address without brackets, in lower case.
    :ivar path: path and query, percent-encoded.
    """

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


class Guard:
    """Judges web addresses. Any thread.

    :param allow: host names (``*.corp.example`` too) and networks that may be reached although
        they are private.
    :param resolve: gives the addresses of a host and a port, or raises OSError.
    :param only: nothing else may be reached than ``allow``; then a host's name does not make its
        private addresses permitted, a network does.
    :raises ConfigError: an entry of ``allow`` is meant to be a network and is none.
    """

    def __init__(
        self, allow: Iterable[str] = (), resolve: Resolver | None = None, *, only: bool = False
    ) -> None:
        self._only = only
        self._resolve = resolve or system_resolver
        self._hosts: list[str] = []
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in allow:
            self._allow(entry.strip().lower())

    def addresses(self, target: Target) -> list[str]:
        """Where ``target`` may be reached. The lookup may block for as long as the system's resolver.

        :raises ToolError: its name has no address, or may not be reached.
        """
        named = any(fnmatchcase(target.host.rstrip("."), pattern) for pattern in self._hosts)
        if self._only and not (named or self._networks):
            raise _unlisted(target)
        try:
            found = self._resolve(target.host, target.port)
        except (OSError, UnicodeError):
            found = []
        if not found:
            raise ToolError(f"The name {target.host} is not known.")
        if self._only and not (named or all(map(self._is_listed, found))):
            raise _unlisted(target)
        trusted = named and not self._only
        if not trusted and not all(self._is_permitted(address, target.port) for address in found):
            raise ToolError(f"Blocked: private/internal IP address or port ({target.host}:{target.port}).")
        return found

    def _is_permitted(self, address: str, port: int) -> bool:
        if self._is_listed(address):
            return True
        # Lower ports belong to services that are no web servers.
        return (
            is_public(address)
            and (port in _DEFAULT_PORTS.values() or port >= _FIRST_FREE_PORT)
            and not is_own(address)
        )

    def _is_listed(self, address: str) -> bool:
        ip = _parsed(address)
        return ip is not None and any(ip in network for network in self._networks)

    def _allow(self, entry: str) -> None:
        try:
            self._networks.append(ip_network(entry, strict=False))
        except ValueError:
            if "/" in entry:
                raise ConfigError(
                    f"tools.web.fetch.allowPrivate: {entry!r} is no host and no network such as 10.0.0.0/8."
                ) from None
            self._hosts.append(entry)


def parse_url(url: str) -> Target:
    """Take a URL apart.

    :raises ToolError: it is not an absolute http or https address, or holds a user name.
    """
    url = url.strip()
    if len(url) > _MAX_URL or _CONTROL.search(url):
        raise ToolError("The URL is too long or holds characters that no URL may have.")
    try:
        parts = urlsplit(url)
        host, port = _host(parts.hostname or "", bracketed="[" in parts.netloc), parts.port
    except ValueError:
        raise ToolError("This is not a usable URL.") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ToolError("Only absolute URLs that begin with http:// or https:// can be fetched.")
    if "@" in parts.netloc:
        raise ToolError("A URL with a user name or a password in it is not fetched.")
    if port == 0:
        raise ToolError("Port 0 cannot be reached.")
    return Target(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], _path(parts))


def is_public(address: str) -> bool:
    """True for an address of the public internet; an IPv4 address inside an IPv6 one counts too."""
    ip = _parsed(address)
    if ip is None or ip.is_multicast:
        return False
    if isinstance(ip, IPv4Address):
        return ip.is_global and not ip.is_reserved and not any(ip in network for network in _SPECIAL)
    if ip in _NAT64:
        return is_public(str(IPv4Address(int(ip) & 0xFFFF_FFFF)))
    if ip.sixtofour is not None and not is_public(str(ip.sixtofour)):
        return False
    return ip.is_global and ip in _UNICAST and ip not in _DOCUMENTATION


def is_own(address: str) -> bool:
    """True for an address of this machine, which no firewall would see. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return _parsed(probe.getsockname()[0]) == _parsed(address)
    except OSError:
        return False


def system_resolver(host: str, port: int) -> list[str]:
    """All addresses that the system knows for a host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def bounded(
    resolve: Resolver, spawn: Callable[[str, Callable[[], None]], object], seconds: float
) -> Resolver:
    """``resolve``, but waited for no longer than ``seconds``: a lookup that hangs, hangs in its own thread.

    :param spawn: starts a thread (name, function).
    """

    def look_up(host: str, port: int) -> list[str]:
        if _parsed(host) is not None:
            return resolve(host, port)
        found: list[str] = []
        done = threading.Event()

        def work() -> None:
            try:
                found.extend(resolve(host, port))
            except (OSError, UnicodeError):  # the name has no address
                pass
            finally:
                done.set()

        spawn("openclaw-lookup", work)
        if not done.wait(seconds):
            raise TimeoutError
        return found

    return look_up


def _unlisted(target: Target) -> ToolError:
    return ToolError(f"{target.host} is not on the list of hosts that may be asked.")


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """The address, out of its IPv6 wrapping if it is an IPv4 one."""
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def _host(name: str, *, bracketed: bool) -> str:
    """``name`` in ASCII.

    :raises ValueError: it is not a name or an address.
    """
    if bracketed:
        if "%" in name:  # a zone of this machine
            raise ValueError(name)
        return IPv6Address(name).compressed
    ascii_name = name if name.isascii() else name.encode("idna").decode()
    if not _NAME.fullmatch(ascii_name):
        raise ValueError(name)
    return ascii_name.lower()


def _path(parts: SplitResult) -> str:
    query = f"?{parts.query}" if parts.query else ""
    return quote((parts.path or "/") + query, safe=_KEPT)
