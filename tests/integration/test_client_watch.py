"""Whether the client of a request is still there."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from app.channels.client import ClientWatch

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Our end of a connection, and the client's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_client_that_is_silent_is_there_and_one_that_closes_is_gone(ends: Ends) -> None:
    ours, theirs = ends
    watch = ClientWatch({"gunicorn.socket": ours})

    assert not watch.gone()
    theirs.close()
    assert watch.gone()


def test_a_client_may_leave_before_anybody_has_looked(ends: Ends) -> None:
    ours, theirs = ends
    watch = ClientWatch({"gunicorn.socket": ours})
    theirs.close()

    assert watch.gone()


def test_the_beginning_of_the_next_request_is_a_sign_of_life(ends: Ends) -> None:
    ours, theirs = ends
    watch = ClientWatch({"gunicorn.socket": ours})
    theirs.sendall(b"GET / HTTP/1.1")

    assert not watch.gone()
    assert ours.recv(100) == b"GET / HTTP/1.1"


def test_on_a_connection_that_the_server_has_closed_nobody_is_left(ends: Ends) -> None:
    ours, _ = ends
    watch = ClientWatch({"gunicorn.socket": ours})
    ours.close()

    assert watch.gone()


def test_where_the_server_hides_the_socket_the_client_counts_as_there() -> None:
    assert not ClientWatch({}).gone()
