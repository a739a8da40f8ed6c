"""The spellings of one topic that its channels use, and their bound (docs/reference/topics.md#spellings). Pure.

A change is framed, and perhaps compressed, once for each spelling. Without a bound the clients of one topic could
therefore multiply its cost. The canonical spelling is always free.
"""

from __future__ import annotations

from pollcast.gateway import phoenix
from pollcast.services.catalogue.topics import Topic
from pollcast.services.errors import InvalidParams

MAX_SPELLINGS = 8
"""Maximum number of spellings of a topic, beside its canonical one, that its channels may use at a time."""


class Spellings:
    """The spellings of one topic beside the canonical one, as JSON strings, each with the number of its channels."""

    __slots__ = ("_canonical", "_channels")

    def __init__(self, topic: Topic) -> None:
        self._canonical = phoenix.quote(topic.spelling)
        self._channels: dict[bytes, int] = {}

    def check(self, spelling: bytes) -> None:
        """Raise InvalidParams when no channel uses this spelling and there are MAX_SPELLINGS others already."""
        if len(self._channels) < MAX_SPELLINGS or spelling == self._canonical or spelling in self._channels:
            return
        raise InvalidParams(f"this topic is joined in {MAX_SPELLINGS} other spellings: join {self._canonical.decode()}")

    def add(self, spelling: bytes) -> None:
        """Count a channel; `check` its spelling first."""
        if spelling != self._canonical:
            self._channels[spelling] = self._channels.get(spelling, 0) + 1

    def remove(self, spelling: bytes) -> None:
        """Stop counting a channel that was added."""
        if spelling == self._canonical:
            return
        left = self._channels[spelling] - 1
        if left:
            self._channels[spelling] = left
        else:
            del self._channels[spelling]
