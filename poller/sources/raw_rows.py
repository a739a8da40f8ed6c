"""Rows that are encoded once, and not again by each poll that finds them unchanged. Pure.

Encoding a row of five columns takes 2 µs, and the hash of its values a fiftieth of that. So a result remembers 64 bits
for each row as its driver delivered it (Result.raw), and the next poll of the topic takes over the rows that it knows
by them. Python's hash of texts and bytes is keyed by the process, so that nobody can choose values of equal hashes.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence

from pollcast.poller.sources.answer import Answer, Piece, RawRows
from pollcast.poller.sources.row_encoder import RowEncoder
from pollcast.services.delta import Row


class KnownRows:
    """The encoder of one answer to a statement of one topic, whose last result may have the same rows.

    Rows consist of hashable values. Use the same `encoder` for results with the same columns: rows that another one
    has encoded are not taken over.
    """

    def __init__(self, encoder: RowEncoder, answer: Answer) -> None:
        self._encoder = encoder
        self._answer = answer
        self._hashes = array("q")
        before = answer.known_raw
        usable = before is not None and before.encoder is encoder
        self._before: array[int] = before.hashes if before is not None and usable else array("q")
        self._known: Sequence[Row] = (answer.known or ()) if usable else ()
        self._places: dict[int, Row] | None = None  # the known rows by their hashes, once they are needed

    def add(self, rows: Sequence[Sequence[Hashable]]) -> None:
        """Add the next rows to the answer."""
        found = array("q", map(hash, rows))
        start = len(self._hashes)
        self._hashes += found
        self._answer.add(self._piece(rows, found, start))

    def end(self) -> None:
        """Let the result remember its rows, once all of them were added."""
        self._answer.raw = RawRows(self._encoder, self._hashes)

    def _piece(self, rows: Sequence[Sequence[Hashable]], found: array[int], start: int) -> Piece:
        if not self._known:
            return self._encoder.piece(rows)
        if self._before[start : start + len(found)] == found:
            return [(1, key, text) for key, text in self._known[start : start + len(found)]]
        if self._places is None:
            self._places = dict(zip(self._before, self._known, strict=True))
        places = [self._places.get(each) for each in found]
        new = [row for row, place in zip(rows, places, strict=True) if place is None]
        fresh = iter(self._encoder.piece(new))
        return [next(fresh) if place is None else (1, *place) for place in places]
