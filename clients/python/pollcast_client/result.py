"""A topic's result, and the application of deltas to it (docs/reference/channels.md#delta). Pure: no I/O.

Payloads that do not fit the protocol, or the result at hand, raise ProtocolViolated and change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pollcast_client.errors import ProtocolViolated
from pollcast_client.exact import key_text

Row = dict[str, Any]
"""One row: decoded JSON values by column name."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The difference between two versions of a result.

    `base` is the version that it applies to. `deletes` are the row keys (lists of key values) to remove. `upserts` are
    pairs of an index in the new result and the row to insert there, in ascending order of the indexes; a row that
    changes or moves is an upsert, too.
    """

    base: str
    deletes: Sequence[Sequence[Any]]
    upserts: Sequence[tuple[int, Row]]


@dataclass(frozen=True, slots=True)
class Result:
    """One version of a topic's rows. Do not modify it.

    `version` is opaque. `polled_at` is the start of the poll that first returned these rows, in RFC 3339. `key` has the
    names of the key columns; it is empty for a query without a key. `rows` are in the query's order, and `keys` are
    their keys in the same order, as JSON texts that are equal when the keys are: numbers are spelled in one way, with
    all their digits, and the names of objects are sorted. `keys` is empty for a query without a key.
    """

    version: str
    polled_at: str
    key: tuple[str, ...]
    rows: Sequence[Row]
    keys: Sequence[str]

    @staticmethod
    def of_snapshot(payload: Any) -> Result:
        """Return the result of a `snapshot` payload. Raises ProtocolViolated when it is not one."""
        try:
            key = tuple(payload["key"])
            rows: list[Row] = payload["rows"]
            keys = [_row_key(row, key) for row in rows] if key else []
            if len(set(keys)) != len(keys):
                raise ProtocolViolated("a snapshot holds a row key twice")
            return Result(_text(payload["version"]), _text(payload["polled_at"]), key, rows, keys)
        except (KeyError, TypeError) as error:
            raise ProtocolViolated(f"not a snapshot: {error!r}") from None

    def after(self, payload: Any) -> tuple[Result, Delta]:
        """Return the result after a `delta` payload, and the delta.

        Raises ProtocolViolated when the payload is not a delta, or does not fit this result.
        """
        try:
            delta = Delta(_text(payload["base"]), payload["deletes"], [(u["at"], u["row"]) for u in payload["upserts"]])
            version, polled_at = _text(payload["version"]), _text(payload["polled_at"])
            rows, keys = self._applied(delta)
        except (KeyError, TypeError) as error:
            raise ProtocolViolated(f"not a delta: {error!r}") from None
        return Result(version, polled_at, self.key, rows, keys), delta

    def _applied(self, delta: Delta) -> tuple[list[Row], list[str]]:
        if delta.base != self.version:
            raise ProtocolViolated(f"a delta on {delta.base}, but {self.version} is known")
        if not delta.deletes and not delta.upserts:
            raise ProtocolViolated("an empty delta")
        if not self.key:
            raise ProtocolViolated("a delta for a query without a key")
        deleted = [key_text(values) for values in delta.deletes]
        upserted = [_row_key(row, self.key) for _, row in delta.upserts]
        gone = {*deleted, *upserted}
        if len(gone) != len(deleted) + len(upserted):
            raise ProtocolViolated("a delta names a row key twice")
        if not set(deleted) <= set(self.keys):
            raise ProtocolViolated("a delta deletes a row that is not there")
        kept = [at for at, key in enumerate(self.keys) if key not in gone]
        # The indexes ascend and count in the new result, so inserting the rows one by one equals merging two lists.
        rows: list[Row] = []
        keys: list[str] = []
        taken = 0
        before = -1
        for (at, row), key in zip(delta.upserts, upserted, strict=True):
            if at <= before:
                raise ProtocolViolated("a delta's indexes do not ascend")
            before = at
            fill = at - len(rows)
            if taken + fill > len(kept):
                raise ProtocolViolated("a delta inserts beyond the end")
            for index in kept[taken : taken + fill]:
                rows.append(self.rows[index])
                keys.append(self.keys[index])
            taken += fill
            rows.append(row)
            keys.append(key)
        for index in kept[taken:]:
            rows.append(self.rows[index])
            keys.append(self.keys[index])
        return rows, keys


def _row_key(row: Row, key: tuple[str, ...]) -> str:
    return key_text([row[name] for name in key])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value
