"""The wire: whole messages in, whole frames out, on a socket that a WSGI server has lent us.

flask-sock answers the upgrade. From then on one thread reads, and whoever has something to
say sends it: at once if the socket takes it, else a thread sends the rest, so that nobody
waits for a slow client. A connection at rest needs no thread but its reader.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from wsproto.frame_protocol import Frame, FrameProtocol, Opcode, ParseFailed

from ...log import get_logger
from ...runs.executor import Deadline, Executor
from .backlog import Backlog

NORMAL: Final = 1000
POLICY: Final = 1008
TOO_BIG: Final = 1009
TRY_AGAIN_LATER: Final = 1013
_NO_CODE: Final = 1005

_TEXT: Final = 0x81
_CLOSE: Final = 0x88
_PONG: Final = 0x8A

_PIECE = 16 * 1024
# One client's flood must let the others have their turn.
_LONG_PIECE = 4 * 1024
_BATCH = 256 * 1024
# The reader reads no more requests while so many bytes of answers wait to be sent.
_ROOM = 2**20
# Seconds for a client to take anything at all.
_STALL = 30.0

_log = get_logger("ws")


class Handover:
    """Stands in for the socket while flask-sock answers the upgrade.

    What follows is not its server's to read: that would cost a second thread and keep
    everything in memory that a client cares to send.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def send(self, data: bytes) -> None:
        """All of it: a client may be slow already."""
        self.socket.sendall(data)

    def recv(self, _: int) -> bytes:
        """End the server's reader."""
        raise OSError("The connection is read elsewhere.")

    def close(self) -> None:
        """The socket stays open; the WSGI server closes it."""


class Outbox:
    """Sends frames in the order in which they came. Any thread may call any method; none but
    :meth:`wait_for_room` waits.

    :ivar closing: True once nothing more is sent.
    """

    def __init__(
        self, sock: socket.socket, executor: Executor, limit: int, farewell: float, backlog: Backlog
    ) -> None:
        """:param limit: bytes that may wait for a slow client.
        :param farewell: seconds for the last frames to be sent and the client to leave.
        :param backlog: is told what waits for the client while it is slow.
        """
        # A second handle, because a socket's timeout holds for both directions. Its own timeout is
        # for gevent, MSG_DONTWAIT for everybody else.
        self._sock = sock.dup()
        self._sock.settimeout(0)
        self._executor = executor
        self._limit = limit
        self._farewell = farewell
        self._backlog = backlog
        self._lock = threading.RLock()  # guards everything below
        self._queue: deque[bytes] = deque()
        self._rest = memoryview(b"")  # of what is being sent; belongs to whoever sends
        self._size = 0
        self._owed = 0  # as much of it as the backlog knows of
        self._number = 0
        self._sending = False
        self._gone = False
        self._answers = False
        self._grace: Deadline | None = None
        self._room: threading.Event | None = None  # there while the reader waits
        self.closing = False

    def send(self, payload: bytes) -> None:
        """Send a message of encoded JSON."""
        self._offer(lambda: _frame(_TEXT, payload))

    def send_numbered(self, encode: Callable[[int], bytes], *, droppable: bool = False) -> None:
        """Send a message that carries its number, counted from 1 without a hole.

        :param droppable: leave it out, before it gets a number, when the client is slow.
        """

        def numbered() -> bytes:
            self._number += 1
            return _frame(_TEXT, encode(self._number))

        if not droppable or self._size <= self._limit // 2:
            self._offer(numbered)
        else:
            self._backlog.drop()

    def pong(self, payload: bytes) -> None:
        """Answer a ping."""
        self._offer(lambda: _frame(_PONG, payload))

    def close(self, code: int, reason: str = "", *, answers: bool = False) -> None:
        """Say goodbye after what is queued, and hang up when the client does or the farewell takes too long.

        :param answers: the client has said goodbye; hang up at once.
        """
        with self._lock:
            if self.closing:
                return
            self._queue.append(_close_frame(code, reason))
            self._size += len(self._queue[-1])
            self.closing, self._answers = True, answers
            self._grace = self._executor.after(self._farewell, self.cut)
            self._tell_room()
        self._flush()

    def cut(self) -> None:
        """Hang up now. Whoever reads the socket finds it closed."""
        with self._lock:
            if self._gone:
                return
            self._gone = self.closing = True
            self._queue.clear()
            if self._grace is not None:
                self._grace.clear()
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            if not self._sending:
                self._sock.close()
            self._tell_room()
            self._backlog.note(self, 0)

    def give_up(self) -> None:
        """Let a client go that is too slow, with a goodbye. Not to be called under the lock."""
        with self._lock:
            if self.closing:
                if self._size > _ROOM:
                    self.cut()
                return
            _log.info("a client is too slow: %d bytes wait for it", self._size)
            self._backlog.give_up()
            self._size -= sum(map(len, self._queue))
            self._queue.clear()
        self.close(POLICY, "slow consumer")

    def wait_for_room(self) -> None:
        """Return when the client has taken most of what waits for it, or is to get nothing more.

        For the connection's reader.
        """
        with self._lock:
            if self.closing or self._size <= _ROOM:
                return
            self._room = room = threading.Event()
        room.wait()

    def _tell_room(self) -> None:
        """Under the lock."""
        if self._room is not None and (self.closing or self._size <= _ROOM):
            self._room.set()
            self._room = None

    def _offer(self, frame: Callable[[], bytes]) -> None:
        """Queue a frame and send what can be sent. Give the client up when it is too far behind."""
        with self._lock:
            if self.closing:
                return
            if fits := self._size <= self._limit:
                self._queue.append(frame())
                self._size += len(self._queue[-1])
        if fits:
            self._flush()
        else:
            self.give_up()

    def _flush(self) -> None:
        """Send what can be sent now and leave the rest to a thread."""
        with self._lock:
            begins = bool(self._queue) and not self._sending
            self._sending = self._sending or begins
        if begins and not self._send_now():
            try:
                self._executor.spawn("openclaw-ws-sender", self._send_patiently)
            except RuntimeError:  # the system has no more threads to give
                self._sending = False
                self.cut()
        self._report()

    def _report(self) -> None:
        """Tell the backlog what waits, if anything does or did. Not under the lock: another client may
        have to go."""
        if not self._size and not self._owed:
            return
        with self._lock:
            self._owed = 0 if self._gone else self._size
            slowest = self._backlog.note(self, self._owed)
        if slowest is not None:
            slowest.give_up()

    def _send_patiently(self) -> None:
        writable = select.poll()
        writable.register(self._sock, select.POLLOUT)
        while not self._send_now():
            self._report()
            if not writable.poll(1000 * _STALL):
                _log.info("a client takes nothing any more")
                self.cut()
        self._report()

    def _send_now(self) -> bool:
        """Send until nothing is left (True) or the socket is full (False)."""
        while self._take():
            try:
                sent = self._sock.send(self._rest, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError:
                self.cut()
            else:
                self._rest = self._rest[sent:]
                self._sent(sent)
        return True

    def _take(self) -> bool:
        """True if there is something to send; else the sender's work is done."""
        with self._lock:
            if not self._gone and (self._rest or self._queue):
                if not self._rest:
                    self._rest = memoryview(self._batch())
                return True
            self._sending = False
            self._rest = memoryview(b"")
            if self._gone:
                self._sock.close()
            elif self._answers:
                self.cut()
            elif self.closing:
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_WR)
            return False

    def _batch(self) -> bytes:
        frames, size = [self._queue.popleft()], 0
        while self._queue and (size := size + len(frames[-1])) < _BATCH:
            frames.append(self._queue.popleft())
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _sent(self, count: int) -> None:
        with self._lock:
            self._size -= count
            self._tell_room()


class Inbox:
    """Reads messages; for one thread. Pings and the client's goodbye are answered here."""

    def __init__(self, sock: socket.socket, outbox: Outbox, limit: int) -> None:
        """:param limit: bytes of one message; may be changed between two."""
        self._sock = sock
        self._outbox = outbox
        self._frames = FrameProtocol(client=False, extensions=[])
        self._message = bytearray()
        self.limit = limit
        self.ending = "vanished"

    def __iter__(self) -> Iterator[bytes]:
        """Whole messages, text and binary alike, until the client leaves or the outbox closes.

        Afterwards ``ending`` says how it ended, for the log.
        """
        while (data := self._read()) and not self._outbox.closing:
            self._frames.receive_bytes(data)
            yield from self._messages()
        self._discard()

    def _read(self) -> bytes:
        """Some bytes; none when the client is gone."""
        try:
            data = self._sock.recv(_PIECE)
        except OSError:
            return b""
        if len(data) >= _LONG_PIECE:
            time.sleep(0)
        return data

    def _messages(self) -> Iterator[bytes]:
        """The messages that what was read completes."""
        try:
            for frame in self._frames.received_frames():
                message = self._take(frame)
                if message is not None:
                    yield message
                if self._outbox.closing:
                    return
                self._outbox.wait_for_room()
        except ParseFailed as error:
            self._end(error.code, f"sent no WebSocket frame: {error}")

    def _take(self, frame: Frame) -> bytes | None:
        """Answer a frame that is about the connection; the message that any other one completes."""
        payload = frame.payload
        if isinstance(payload, tuple):
            self.ending = f"closed with {payload[0]:d} {payload[1]!r}"
            self._outbox.close(payload[0], answers=True)
        elif frame.opcode is Opcode.PING and isinstance(payload, bytes):
            self._outbox.pong(payload)
        elif frame.opcode is not Opcode.PONG:
            return self._whole(payload.encode() if isinstance(payload, str) else payload, frame)
        return None

    def _whole(self, piece: bytes, frame: Frame) -> bytes | None:
        self._message += piece
        if len(self._message) > self.limit:
            self._end(TOO_BIG, f"sent a message over {self.limit} bytes", "message is too big")
            return None
        if not frame.message_finished:
            return None
        message, self._message = bytes(self._message), bytearray()
        return message

    def _end(self, code: int, cause: str, reason: str = "") -> None:
        """Give up what nobody can go on with."""
        self.ending = cause
        self._outbox.close(code, reason)

    def _discard(self) -> None:
        """Read on until the client has seen our goodbye: unread bytes would make it a reset."""
        while self._read():
            pass


def prepare(sock: socket.socket) -> None:
    """Set a client's socket up for a long life in which a client that is gone is noticed in a minute."""
    sock.settimeout(None)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("KEEPIDLE", 30), ("KEEPINTVL", 10), ("KEEPCNT", 3), ("USER_TIMEOUT", 60_000)):
        if (option := getattr(socket, f"TCP_{name}", None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _frame(head: int, payload: bytes) -> bytes:
    """A whole frame of RFC 6455 as a server sends it."""
    size = len(payload)
    if size < 126:
        return bytes((head, size)) + payload
    if size < 65_536:
        return struct.pack("!BBH", head, 126, size) + payload
    return struct.pack("!BBQ", head, 127, size) + payload


def _close_frame(code: int, reason: str) -> bytes:
    """1005 is what an empty goodbye is called; it never goes over the wire."""
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return _frame(_CLOSE, b"" if code == _NO_CODE else struct.pack("!H", code) + text)
