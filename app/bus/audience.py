"""Which topics somebody listens to elsewhere, as far as is known."""

from __future__ import annotations

_FORGET_AFTER = 30  # rounds in which nobody asked


class _Asked:
    __slots__ = ("idle", "new", "wanted")

    def __init__(self) -> None:
        self.wanted = True  # until it is known better
        self.new = False  # a listener has come since the round began
        self.idle = 0


class Audience:
    """Answers at once, and learns in the background. Any thread may ask, one teaches."""

    def __init__(self) -> None:
        self._topics: dict[str, _Asked] = {}

    def wanted(self, topic: str) -> bool:
        """False if nobody listened when it was looked last."""
        asked = self._topics.get(topic)
        if asked is None:
            asked = self._topics.setdefault(topic, _Asked())
        asked.idle = 0
        return asked.wanted

    def came(self, topic: str) -> None:
        """Somebody has begun to listen."""
        asked = self._topics.get(topic)
        if asked is not None:
            asked.wanted = asked.new = True

    def begin_round(self) -> list[str]:
        """The topics to look for."""
        for topic, asked in list(self._topics.items()):
            asked.idle += 1
            asked.new = False
            if asked.idle > _FORGET_AFTER:
                self._topics.pop(topic, None)
        return list(self._topics)

    def learn(self, topic: str, wanted: bool) -> None:
        """What was found since the round began."""
        asked = self._topics.get(topic)
        if asked is not None:
            asked.wanted = wanted or asked.new
