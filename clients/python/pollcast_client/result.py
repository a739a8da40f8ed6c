"""A result and what deltas make of it (CONTRACT.md §4). Pure, and strict: what does not fit raises."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from pollcast_client.errors import ProtocolViolated

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delta:
    """The way from `base` to the next version: row keys that go, and `(at, row)` that come, change or move."""

    base: str
    deletes: Sequence[Sequence[Any]]
    upserts: Sequence[tuple[int, Row]]


@dataclass(frozen=True, slots=True)
class Result:
    """`rows` in order; `keys` are theirs, in the same order, empty for a query without a key."""

    version: str
    polled_at: str
    key: tuple[str, ...]
    rows: Sequence[Row]
    keys: Sequence[Hashable]

    @staticmethod
    def of_snapshot(payload: Any) -> Result:
        """ProtocolViolated when it is none."""
        try:
            key = tuple(payload["key"])
            rows: list[Row] = payload["rows"]
            keys = [_row_key(row, key) for row in rows] if key else []
            if len(set(keys)) != len(keys):
                raise ProtocolViolated("a snapshot holds a row key twice")
            return Result(_text(payload["version"]), _text(payload["polled_at"]), key, rows, keys)
        except (KeyError, TypeError) as error:
            raise ProtocolViolated(f"no snapshot: {error!r}") from None

    def after(self, payload: Any) -> tuple[Result, Delta]:
        """The result after a delta's payload. ProtocolViolated when it does not fit this result."""
        try:
            delta = Delta(_text(payload["base"]), payload["deletes"], [(u["at"], u["row"]) for u in payload["upserts"]])
            version, polled_at = _text(payload["version"]), _text(payload["polled_at"])
            rows, keys = self._applied(delta)
        except (KeyError, TypeError) as error:
            raise ProtocolViolated(f"no delta: {error!r}") from None
        return Result(version, polled_at, self.key, rows, keys), delta

    def _applied(self, delta: Delta) -> tuple[list[Row], list[Hashable]]:
        if delta.base != self.version:
            raise ProtocolViolated(f"a delta on {delta.base}, but {self.version} is known")
        if not delta.deletes and not delta.upserts:
            raise ProtocolViolated("an empty delta")
        if not self.key:
            raise ProtocolViolated("a delta for a query without a key")
        deleted = [_frozen(values) for values in delta.deletes]
        upserted = [_row_key(row, self.key) for _, row in delta.upserts]
        gone = {*deleted, *upserted}
        if len(gone) != len(deleted) + len(upserted):
            raise ProtocolViolated("a delta names a row key twice")
        if not set(deleted) <= set(self.keys):
            raise ProtocolViolated("a delta deletes a row that is not there")
        kept = [at for at, key in enumerate(self.keys) if key not in gone]
        # As the indexes ascend, inserting one after the other is merging: each is the row's place in the end.
        rows: list[Row] = []
        keys: list[Hashable] = []
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


def _row_key(row: Row, key: tuple[str, ...]) -> Hashable:
    return tuple(_hashable(row[name]) for name in key)


def _frozen(values: Sequence[Any]) -> Hashable:
    return tuple(_hashable(value) for value in values)


def _hashable(value: Any) -> Hashable:
    """json and array columns may be part of a key."""
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value
