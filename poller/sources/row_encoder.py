"""Rows as JSON, for sources that deliver values: the same bytes that PostgreSQL's `row_to_json` makes of them. Pure.

Every row of every poll passes here, so values are encoded by columns, not one by one: a column of numbers that are
JSON already costs nothing, and one of texts asks once whether any of them needs an escape (text_encoding.py). Rows and
keys are put together by the `%` of a template, whose `%b` are the places of values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from pollcast.poller.sources.answer import Piece
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.text_encoding import json_string
from pollcast.services.errors import PollFailed

ColumnEncoder: TypeAlias = Callable[[list[Any]], list[bytes]]
"""A function from the values of a column, none of them NULL, to their JSON."""


class NoSuchColumn(Exception):
    """The result lacks a column that the query's key names. `error` is the outcome of the statement."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        reason = f"the result has no column {column}, which its key names"
        self.error = PollError(PollFailed(reason), Scope.STATEMENT)


class RowEncoder:
    """An encoder of the rows of one result."""

    __slots__ = ("_encoders", "_key", "_key_at", "_row")

    def __init__(self, columns: Sequence[tuple[str, ColumnEncoder]], key: Sequence[str]) -> None:
        """Encode rows with these columns: the name and the encoder of each.

        Raises NoSuchColumn when a column of the key is missing.
        """
        names = [name for name, _ in columns]
        if missing := [name for name in key if name not in names]:
            raise NoSuchColumn(missing[0])
        self._encoders = [encode for _, encode in columns]
        self._key_at = [names.index(name) for name in key]
        self._row = b"{%b}" % b",".join([json_string(name).replace(b"%", b"%%") + b":%b" for name in names])
        self._key = b"[%b]" % b", ".join([b"%b"] * len(self._key_at))

    def piece(self, rows: Sequence[Sequence[Any]]) -> Piece:
        """Return the rows as those of topic 1, as `Answer.add` takes them. A value of NULL is None."""
        if not rows:
            return []
        values = zip(*rows, strict=True)
        columns = [or_null(encode, column) for encode, column in zip(self._encoders, values, strict=True)]
        row, key = self._row, self._key
        texts = [row % values for values in zip(*columns, strict=True)] if columns else [row % ()] * len(rows)
        if not self._key_at:
            return [(1, b"", text) for text in texts]
        keys = zip(*[columns[at] for at in self._key_at], strict=True)
        return [(1, key % values, text) for values, text in zip(keys, texts, strict=True)]


def or_null(encode: ColumnEncoder, values: Sequence[Any]) -> list[bytes]:
    """Return the JSON of values, of which those that are None are NULL."""
    given = [value for value in values if value is not None]
    if len(given) == len(values):
        return encode(given)
    encoded = iter(encode(given))
    return [b"null" if value is None else next(encoded) for value in values]


def each(encode: Callable[[Any], bytes]) -> ColumnEncoder:
    """Return the encoder of columns whose values this function encodes one by one."""
    return lambda values: [encode(value) for value in values]
