"""Answers: the rows that a source returns for one statement, divided into an outcome for each topic. Pure.

An `Answer` takes the rows in pieces, as they arrive. It holds a row only once: where a topic's rows are those of its
last result, the last result itself is the outcome, and nothing of the new rows is kept. A result that has too many
rows, too many bytes, or the same row key twice is an error of its own topic only, and one that is too large is dropped
as soon as that is known.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import eq, itemgetter
from typing import Any, NamedTuple

from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.statement import Columns
from pollcast.services.catalogue.query import Query
from pollcast.services.delta import STEP_ROWS, Delta, Row, diff
from pollcast.services.errors import PollFailed
from pollcast.services.row_keys import with_canonical_keys

MAX_ROW_BYTES = 16 * 1024 * 1024
"""Maximum size of one row as JSON, in bytes; it leaves a margin below the largest message between services."""

MAX_PARSED_BYTES = 16 * 1024
"""Maximum size of a row whose columns' names are read at each change of the result, and not only at first, in bytes."""

LARGE_ROWS = 4096
"""Number of new rows from which an answer is checked, and its deltas are computed, outside the event loop."""

LARGEST_DELTA_ROWS = 16_384
"""Maximum number of rows in a delta; a larger change is sent as a snapshot, in pieces. Encoding so many takes 10 ms."""

Piece = list[tuple[int, bytes, bytes]]
"""Rows of a statement, each with the number of its topic from 1, its key and its JSON text.

Rows beyond the topic's `max_bytes` have neither key nor text: both are None.
"""

DigestPiece = list[tuple[int, int, bytes, bytes, None]]
"""Rows of a statement that compares digests: each has its number within its topic after that of the topic, and NULLs at
its end. The row of number 0 has the topic's digest in place of the key, and None in place of the text."""

_key, _text = itemgetter(0), itemgetter(1)


class RawRows(NamedTuple):
    """The rows of a result as a driver delivered them (raw_rows.py)."""

    encoder: object
    """The encoder that made JSON of them."""
    hashes: array[int]
    """The hash of each row."""


class Result(list[Row]):
    """The rows of one topic's result, in the query's order, with their size."""

    __slots__ = ("change", "raw", "size")

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        super().__init__(rows)
        self.size = sum(map(len, map(_text, self)))
        """Size of the rows' JSON text, without their keys, in bytes."""
        self.change: tuple[list[Row], Delta | None] | None = None
        """A former result and the delta from it to this one, if computed in advance: empty without a key, None when it
        has more than LARGEST_DELTA_ROWS."""
        self.raw: RawRows | None = None
        """The rows as they came, for the next poll."""


Outcome = list[Row] | PollError
"""Result of polling one topic."""


class Answer:
    """The answer to one statement: call `add` for each piece, then `check`; the outcomes are complete after that."""

    def __init__(self, query: Query, known: Sequence[list[Row] | None], *, digests: bool = False) -> None:
        """Expect rows of as many topics as `known` has: each topic's last result, or None.

        `digests` is True for a statement that compares digests: topics that it does not mention have not changed.
        """
        self.outcomes: list[Outcome] = []
        """The outcome of each topic, in the order of `known`. A result that did not change is the known one itself."""
        self.rows = 0
        """Number of rows received, without those of digests."""
        self.received_bytes = 0
        """Bytes of the rows' JSON text, as received, and of digests; what a row has beside its text is not counted."""
        self.digests: dict[int, int] = {}
        """The new digest of each topic that has another than its last one, by the index of the topic."""
        self.columns: Columns = ()
        """The columns of the query, if its statement is `described`."""
        self.latency = 0.0
        """Time that the server took to begin the statement, in seconds; statements in one round trip share it."""
        self.seconds = 0.0
        """Time that the statement took from then on, in seconds; hardly any where it ended before that was noticed."""
        self.raw: RawRows | None = None
        """The rows of a single topic as they came, if its result shall remember them."""
        self.by_digest = digests
        """Whether the statement compares digests."""
        self._query = query
        self._known = known
        self._results: list[list[Row] | PollError | None] = [None] * len(known)
        self._new_rows = 0
        self._repeated: list[str | None] = []  # a column that the rows have twice, or None; empty until that is known
        # The topic whose rows arrive now.
        self._topic = 0
        self._same = 0  # rows so far that are those of the last result
        self._result: Result | None = None  # rows so far, from the first that is not that of the last result
        self._too_large = False

    @property
    def known(self) -> list[Row] | None:
        """The last result of a single topic."""
        return self._known[0]

    @property
    def known_raw(self) -> RawRows | None:
        """The rows of the last result of a single topic as they came, if it remembers them."""
        return self._known[0].raw if isinstance(self._known[0], Result) else None

    @property
    def size(self) -> int:
        """Size of the topics' results, without keys, in bytes; a result that is too large counts as its limit."""
        limit = self._query.max_bytes
        return sum(limit if isinstance(each, PollError) else size_of(each) for each in self.outcomes)

    @property
    def cost(self) -> float:
        """Time that the statement took on its connection, in seconds; the wait for the connection is not included."""
        return self.latency + self.seconds

    @property
    def large(self) -> bool:
        """Whether `check` takes long enough to disturb an event loop."""
        return self._new_rows >= LARGE_ROWS

    @property
    def full(self) -> bool:
        """Whether no further rows are of interest: there are more than `max_rows`, or more bytes than `max_bytes`.

        It is for statements of one topic, whose session may stop reading then.
        """
        return self._too_large or self.rows > self._query.max_rows

    def add(self, piece: Piece | DigestPiece) -> None:
        """Take the next rows, ordered by topic and row. Every row of every poll passes here: the loops are in C."""
        numbers = list(map(itemgetter(0), piece))
        rows: list[Row] = list(map(itemgetter(2, 3) if self.by_digest else itemgetter(1, 2), piece))
        self.rows += len(rows)
        text = b"".join(filter(None, map(_text, rows)))
        self.received_bytes += len(text)
        if b"\n" in text or b"\r" in text:
            rows = [(key, _in_one_line(row)) for key, row in rows]
        start = 0
        while start < len(rows):
            topic = numbers[start]
            end = bisect_right(numbers, topic, start)
            if topic != self._topic:
                self._end_topic()
                self._topic = topic
                if self.by_digest:  # the first row of each topic is its digest
                    digest = rows[start][0]
                    self.digests[topic - 1] = int(digest)
                    self.received_bytes += len(digest)
                    self.rows -= 1
                    start += 1
            if start < end:
                self._take(rows[start:end])
            start = end

    def check(self) -> None:
        """Complete the outcomes, once all rows have been taken."""
        self._end_topic()
        for at, (result, before) in enumerate(zip(self._results, self._known, strict=True)):
            if result is None and (not self.by_digest or at in self.digests):
                result = Result() if before is None or before else before
            elif result is None:
                assert before is not None, "the topic has no result that could be unchanged"
                result = before
            if result is not before and not isinstance(result, PollError):
                result = self._checked(result, before)
            if self.raw is not None and isinstance(result, Result):
                result.raw = self.raw
            self.outcomes.append(result)

    def _take(self, rows: list[Row]) -> None:
        """Take further rows of the present topic."""
        if self._too_large:
            return
        before = self._known[self._topic - 1]
        if self._are_as_before(before, rows):
            return
        if rows[-1][1] is not None:
            raw, rows = rows, _in_utf8(rows)
            rows = with_canonical_keys(rows) if self._query.key else rows
            if rows is not raw and self._are_as_before(before, rows):
                return
        if self._result is None:
            self._result = Result(before[: self._same] if before is not None else ())
            self._new_rows += self._same
        if rows[-1][1] is None:  # a row that the database withheld
            self._too_large = True
        else:
            self._result.size += sum(map(len, map(_text, rows)))
            self._too_large = self._result.size > self._query.max_bytes
        if self._too_large:
            self._result = None
            return
        if before is not None:  # keep the known object of each row that did not change
            old = before[len(self._result) : len(self._result) + len(rows)]
            rows[: len(old)] = [known if known == new else new for known, new in zip(old, rows, strict=False)]
        self._result += rows
        self._new_rows += len(rows)

    def _are_as_before(self, before: list[Row] | None, rows: list[Row]) -> bool:
        """Count these rows, and return true, if the topic's rows including them are those of its last result."""
        if self._result is not None or before is None or before[self._same : self._same + len(rows)] != rows:
            return False
        self._same += len(rows)
        return True

    def _end_topic(self) -> None:
        topic = self._topic
        if topic:
            before = self._known[topic - 1]
            result: list[Row] | PollError | None = self._result
            if self._too_large:
                result = _failed(f"the result has more than {_bytes(self._query.max_bytes)}")
            elif result is None and before is not None:
                result = before if len(before) == self._same else Result(before[: self._same])
            self._results[topic - 1] = result
        self._topic, self._same, self._result, self._too_large = 0, 0, None, False

    def _checked(self, rows: list[Row], before: list[Row] | None) -> Outcome:
        query = self._query
        if len(rows) > query.max_rows:
            return _failed(f"the result has more than {query.max_rows} rows")
        if query.key and len(rows) > 1 and _repeats_a_key(rows):
            return _failed(f"two rows of the result have the same key ({', '.join(query.key)})")
        if size_of(rows) > MAX_ROW_BYTES and _has_large_row(rows):
            return _failed(f"a row of the result is larger than {_bytes(MAX_ROW_BYTES)}")
        if rows and (not before or len(rows[0][1]) <= MAX_PARSED_BYTES):
            if not self._repeated:  # all rows of a statement have the same columns
                try:
                    self._repeated.append(_repeated_column(rows[0][1]))
                except ValueError:  # a server that calls something json that is none
                    return _failed("a row of the result is not JSON")
            if self._repeated[0] is not None:
                return _failed(f"two columns of the result have the same name ({self._repeated[0]})")
        if before is not None and self.large and isinstance(rows, Result):
            delta = diff(before, rows) if query.key else _difference(before, rows)
            if delta is None:
                return before
            rows.change = before, delta if len(delta.upserts) + len(delta.deletes) <= LARGEST_DELTA_ROWS else None
        return rows


def _has_large_row(rows: list[Row]) -> bool:
    """Return whether a row is larger than MAX_ROW_BYTES."""
    return any(max(map(len, map(_text, part))) > MAX_ROW_BYTES for part in _parts(rows))


def _parts(rows: list[Row]) -> Iterator[list[Row]]:
    """Yield the rows in parts, between which other threads may run."""
    for start in range(0, len(rows), STEP_ROWS):
        yield rows[start : start + STEP_ROWS]


def _repeats_a_key(rows: list[Row]) -> bool:
    """Return whether two rows have the same key."""
    keys: set[bytes] = set()
    for part in _parts(rows):
        keys.update(map(_key, part))
    return len(keys) != len(rows)


def _difference(before: list[Row], rows: list[Row]) -> Delta | None:
    """Return an empty delta when two results of a query without a key differ, else None."""
    same = len(before) == len(rows) and all(map(eq, _parts(before), _parts(rows)))
    return None if same else Delta()


def _repeated_column(row: bytes) -> str | None:
    """Return the name of a column that the row has twice: a client would see only one of them."""
    try:
        # Numbers stay texts: Python refuses to read an integer of thousands of digits.
        columns: list[tuple[str, Any]] = json.loads(row, object_pairs_hook=list, parse_int=str, parse_float=str)
    except RecursionError:  # a json value of thousands of levels
        return None
    names = [name for name, _ in columns]
    return next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None


def size_of(rows: list[Row]) -> int:
    """Return the size of the rows' JSON text, without their keys, in bytes."""
    return rows.size if isinstance(rows, Result) else sum(map(len, map(_text, rows)))


def _in_one_line(row: bytes) -> bytes:
    """Return the row with spaces for line breaks, so that it can be one line of an event stream or of a terminal.

    A column of type json keeps the line breaks of its author; in JSON they can only be between tokens.
    """
    return row if row is None else row.replace(b"\n", b" ").replace(b"\r", b" ")


def _in_utf8(rows: list[Row]) -> list[Row]:
    """Return the same rows if they are in UTF-8, or copies in which U+FFFD stands for what is not.

    Databases hold such texts: one of PostgreSQL in SQL_ASCII has any bytes, and MariaDB's `ucs2` has half surrogates.
    """
    text = b"".join(map(_text, rows))
    if text.isascii():
        return rows
    try:
        text.decode()
    except UnicodeDecodeError:
        return [(_replaced(key), _replaced(row)) for key, row in rows]
    return rows


def _replaced(text: bytes) -> bytes:
    return text.decode(errors="replace").encode()


def _bytes(size: int) -> str:
    for unit, name in ((1024 * 1024, "MiB"), (1024, "KiB")):
        if size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def _failed(reason: str) -> PollError:
    return PollError(PollFailed(reason), Scope.TOPIC)
