"""Who listens to what in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..log import get_logger
from . import Hear

_log = get_logger("bus")


class Listeners:
    """The listeners of every topic. Any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards changes of _topics; its tuples never change
        self._topics: dict[str, tuple[_Listener, ...]] = {}

    def add(self, topic: str, hear: Hear) -> Callable[[], None]:
        """Let ``hear`` be called with what is said; returns a function that ends it, safe to repeat."""
        listener = _Listener(hear)
        with self._lock:
            self._topics[topic] = (*self._topics.get(topic, ()), listener)
        return lambda: self._remove(topic, listener)

    def tell(self, topic: str, message: bytes) -> None:
        """Call the listeners of a topic in the order of their coming, in this thread."""
        for listener in self._topics.get(topic, ()):
            if listener.listening:
                _tell(listener.hear, topic, message)

    def any_of(self, topic: str) -> bool:
        """True if somebody listens to ``topic``."""
        return topic in self._topics

    def topics(self) -> list[str]:
        """All topics that somebody listens to."""
        with self._lock:
            return list(self._topics)

    def _remove(self, topic: str, listener: _Listener) -> None:
        listener.listening = False
        with self._lock:
            left = tuple(one for one in self._topics.get(topic, ()) if one is not listener)
            if left:
                self._topics[topic] = left
            else:
                self._topics.pop(topic, None)


class _Listener:
    __slots__ = ("hear", "listening")

    def __init__(self, hear: Hear) -> None:
        self.hear = hear
        self.listening = True


def _tell(hear: Hear, topic: str, message: bytes) -> None:
    try:
        hear(message)
    except Exception:  # one listener's fault must not cost the others the message
        _log.exception("a listener of %r failed", topic)
