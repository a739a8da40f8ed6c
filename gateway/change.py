"""The change from one result to the next: its text for clients, and its rows, which are read only when they are needed.

A gateway passes most changes on without looking at their rows: the owner has sent the text ready for clients. The rows
are needed to bring the result up to date, which can wait until a client asks for it (gateway/history.py). Pure.
"""

from __future__ import annotations

from pollcast.services.delta import Delta, delta_text
from pollcast.v1 import feed_pb2


class Change:
    """A change, which is never empty.

    `text` is the JSON of its event `delta` without what differs between clients and owners: from `"deletes"` to the
    closing brace. A `whole` change holds all rows of the result that it leads to.
    """

    __slots__ = ("_delta", "text", "whole")

    def __init__(self, text: bytes, delta: Delta | bytes, whole: bool = False) -> None:
        """`delta` may be an encoded FeedChange, which is read when the rows are first needed."""
        self.text = text
        self.whole = whole
        self._delta = delta

    @classmethod
    def of(cls, delta: Delta) -> Change:
        """Return the change of a delta that this gateway has computed."""
        return cls(delta_text(delta), delta)

    @classmethod
    def received(cls, delta: feed_pb2.FeedDelta) -> Change:
        """Return the change that an owner has sent."""
        return cls(delta.text, delta.change, delta.whole)

    @property
    def delta(self) -> Delta:
        """The rows that the change deletes and inserts; may be used in any thread."""
        delta = self._delta
        if isinstance(delta, bytes):
            delta = self._delta = _read(self.text, delta)
        return delta


def _read(text: bytes, encoded: bytes) -> Delta:
    change = feed_pb2.FeedChange.FromString(encoded)
    places = zip(change.at, change.keys, change.start, change.size, strict=True)
    return Delta(list(change.deletes), [(at, key, text[start : start + size]) for at, key, start, size in places])
