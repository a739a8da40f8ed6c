"""The change from one result to the next: its text for clients, and its rows, which are read only when they are needed.

A gateway passes most changes on without looking at their rows: the owner has sent the text ready for clients. The rows
are needed to bring the result up to date, which can wait until a client asks for it (gateway/history.py). Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from pollcast.services.delta import Delta, delta_text


class Change:
    """A change, which is never empty.

    `text` is the JSON of its event `delta` without what differs between clients and owners: from `"deletes"` to the
    closing brace.
    """

    __slots__ = ("_delta", "_read", "text")

    def __init__(self, text: bytes, read: Callable[[], Delta]) -> None:
        """`read` returns the delta; it is called when the delta is first needed."""
        self.text = text
        self._read: Callable[[], Delta] | None = read
        self._delta: Delta | None = None

    @classmethod
    def of(cls, delta: Delta) -> Change:
        """Return the change of a delta that this gateway has computed."""
        return cls(delta_text(delta), lambda: delta)

    @property
    def delta(self) -> Delta:
        """The rows that the change deletes and inserts."""
        if self._read is not None:
            self._delta, self._read = self._read(), None
        assert self._delta is not None
        return self._delta
