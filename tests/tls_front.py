"""TLS in front of a plain server, with a certificate that it has signed itself, as platforms do it."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class TlsFront:
    """Listens on a port of its own and passes on what it decrypts.

    :ivar certificate: the file that clients may trust.
    """

    def __init__(self, port: int, directory: Path) -> None:
        """:param port: of the server behind it, on the loopback address."""
        self._behind = ("127.0.0.1", port)
        self.certificate = directory / "certificate.pem"
        key = directory / "key.pem"
        _write_certificate(self.certificate, key)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(10)

    def _spawn(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self._spawn(self._serve, plain)

    def _serve(self, plain: socket.socket) -> None:
        self._sockets.append(plain)
        try:
            outside = self._context.wrap_socket(plain, server_side=True)
        except OSError:  # a client that does not trust it
            plain.close()
            return
        behind = socket.create_connection(self._behind)
        self._sockets += [outside, behind]
        # One thread for both ways: a TLS connection is not to be used by two at once.
        outside.settimeout(0.005)
        behind.settimeout(0.005)
        try:
            while _pass(outside, behind) and _pass(behind, outside):
                pass
        except OSError:
            pass
        outside.close()
        behind.close()


def _pass(source: socket.socket, target: socket.socket) -> bool:
    """Pass on what is there; False at the end."""
    try:
        data = source.recv(65536)
    except TimeoutError:
        return True
    target.settimeout(10)
    target.sendall(data)
    target.settimeout(0.005)
    return bool(data)


def _write_certificate(certificate: Path, key: Path) -> None:
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "platform")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(secret, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
