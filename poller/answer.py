"""Answers: the rows that PostgreSQL returned for one statement, divided into an outcome for each topic. Pure.

A result that has too many rows, or the same row key twice, is an error of its own topic only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter

from pollcast.poller.poll_error import PollError, Scope
from pollcast.services.catalogue.catalog import Query
from pollcast.services.delta import Row
from pollcast.services.errors import PollFailed
from pollcast.services.row_keys import with_canonical_keys

MAX_ROW_BYTES = 16 * 1024 * 1024
"""Maximum size of one row as JSON, in bytes; it leaves a margin below the largest message between services."""

Answer = list[tuple[int, bytes, bytes]]
"""Rows of a statement (poller/statement.py), each with the number of its topic from 1, its key and its JSON text."""

Outcome = list[Row] | PollError
"""Result of polling one topic."""


def divide(answer: Answer, known: Sequence[list[Row] | None], query: Query) -> list[Outcome]:
    """Return the outcome of each topic of a statement.

    `answer` is ordered by topic and row. `known` holds each topic's last result, and that same list is returned where
    nothing changed. Every row of every poll passes through here, so the loops are in C.
    """
    if _has_line_breaks(answer):
        answer = [(topic, key, _in_one_line(row)) for topic, key, row in answer]
    numbers = list(map(itemgetter(0), answer))
    rows = list(map(itemgetter(1, 2), answer))
    outcomes: list[Outcome] = []
    start = 0
    for topic, before in enumerate(known, 1):
        end = bisect_right(numbers, topic, start)
        result = rows[start:end]
        outcomes.append(before if before is not None and before == result else _checked(result, before, query))
        start = end
    return outcomes


def size(answer: Answer) -> int:
    """Return the size of an answer's rows, without their keys, in bytes."""
    return sum(map(len, map(itemgetter(2), answer)))


def _has_line_breaks(answer: Answer) -> bool:
    text = b"".join(map(itemgetter(2), answer))
    return b"\n" in text or b"\r" in text


def _in_one_line(row: bytes) -> bytes:
    """Return the row with spaces for line breaks, so that it can be one line of an event stream or of a terminal.

    A column of type json keeps the line breaks of its author; in JSON they can only be between tokens.
    """
    return row.replace(b"\n", b" ").replace(b"\r", b" ")


def _checked(rows: list[Row], before: list[Row] | None, query: Query) -> Outcome:
    if query.key:
        rows = with_canonical_keys(rows)
        if before is not None and before == rows:
            return before
    if len(rows) > query.max_rows:
        return _failed(f"the result has more than {query.max_rows} rows")
    if query.key and len(set(map(itemgetter(0), rows))) != len(rows):
        return _failed(f"two rows of the result have the same key ({', '.join(query.key)})")
    if rows and max(map(len, map(itemgetter(1), rows))) > MAX_ROW_BYTES:
        return _failed(f"a row of the result is larger than {MAX_ROW_BYTES // 1024 // 1024} MiB")
    return rows


def _failed(reason: str) -> PollError:
    return PollError(PollFailed(reason), Scope.TOPIC)
