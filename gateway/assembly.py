"""The assembly of one topic's snapshot from the pieces that its owner sends (docs/reference/grpc.md#feed). Pure.

An assembly starts empty. The piece with number 0 begins a snapshot, whatever came before; each further piece has to
continue the one before: the same attachment and version, the next number. So only a whole snapshot of one transmission
is ever returned, never a part of one and never rows of two. What is incomplete when its stream breaks, when another
owner is followed or when another snapshot begins is dropped, and the next answer of an owner is whole again.
"""

from __future__ import annotations

from pollcast.gateway.version import Version
from pollcast.services.delta import Row


class Assembly:
    """The pieces received so far of the snapshot that a topic's owner is sending."""

    __slots__ = ("_next", "_of", "_rows")

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._of: tuple[int, Version] | None = None  # attachment and version; None while no snapshot is being received
        self._next = 0  # number of the next piece

    def take(self, attachment: int, version: Version, number: int, rows: list[Row], more: bool) -> list[Row] | None:
        """Take one piece; return the rows of the whole snapshot with its last piece (without `more`), else None.

        Raises LookupError when the piece does not continue the one before: attach to the owner again.
        """
        if number == 0:
            if not more:
                self.drop()
                return rows
            self._rows, self._of, self._next = list(rows), (attachment, version), 1
            return None
        if self._of != (attachment, version) or number != self._next:
            self.drop()
            raise LookupError(f"piece {number} of {version} does not continue what was received")
        self._rows.extend(rows)
        self._next += 1
        if more:
            return None
        whole = self._rows
        self.drop()
        return whole

    def drop(self) -> None:
        """Discard an incomplete snapshot: the rest of it will not be received."""
        self._rows, self._of, self._next = [], None, 0
