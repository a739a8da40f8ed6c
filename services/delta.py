"""Deltas between two results of a query (docs/reference/channels.md#delta). Pure.

The poller computes deltas with `diff`; gateways update their copy with `apply`, and compute deltas of their own where
they received two whole results. A result is a list of rows in the query's order. Every row carries its key, and keys
are unique within a result (the poller refuses any other result), so a query without a key has no deltas.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress, count
from operator import ne

Row = tuple[bytes, bytes]
"""A row: its key as a JSON array and the row itself as a JSON object, both as PostgreSQL wrote them."""

Rows = Sequence[Row]

STEP_ROWS = 4096
"""Number of rows that are compared in one call of the interpreter, for which other threads wait: about 0.3 ms."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The change from one result to the next.

    Remove the rows whose key is in `deletes` or in `upserts`, then insert each upsert in the listed order at its index.
    Indices strictly ascend, no key comes twice, and every key in `deletes` belongs to a row of the first result.
    """

    deletes: list[bytes] = field(default_factory=list)
    upserts: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    """Changed and new rows, as `(index in the new result, key, row)`."""


def diff(old: Rows, new: Rows) -> Delta | None:
    """Return the delta from `old` to `new`; None when they are equal.

    The delta is minimal: the rows that it leaves in place are a longest subsequence of unchanged rows in unchanged
    order. Rows before the first and after the last difference are only compared, so the cost grows with the number of
    rows between them.
    """
    shorter = min(len(old), len(new))
    start = _equal(old, new, shorter)
    if start == len(old) == len(new):
        return None
    tail = _equal_at_the_end(old, new, shorter - start)
    before, after = old[start : len(old) - tail], new[start : len(new) - tail]
    if len(before) == len(after) and all(a[0] == b[0] for a, b in zip(before, after, strict=True)):
        changed = compress(count(start), map(ne, before, after))
        return Delta([], [(at, *new[at]) for at in changed])
    kept = _kept(before, after)
    keys = {key for key, _ in after}
    return Delta(
        deletes=[key for key, _ in before if key not in keys],
        upserts=[(at, *row) for at, row in enumerate(after, start) if at - start not in kept],
    )


def _equal(old: Rows, new: Rows, most: int) -> int:
    """Return the number of rows at the beginning that are equal, `most` at most."""
    for start in range(0, most, STEP_ROWS):
        end = min(start + STEP_ROWS, most)
        if old[start:end] != new[start:end]:
            return start + next(compress(count(), map(ne, old[start:end], new[start:end])))
    return most


def _equal_at_the_end(old: Rows, new: Rows, most: int) -> int:
    """Return the number of rows at the end that are equal, `most` at most."""
    for start in range(0, most, STEP_ROWS):
        size = min(STEP_ROWS, most - start)
        one, other = (rows[len(rows) - start - size : len(rows) - start] for rows in (old, new))
        if one != other:
            return start + next(compress(count(), map(ne, reversed(one), reversed(other))))
    return most


def share(old: Rows, new: list[Row]) -> None:
    """Replace the rows of `new` that are equal to the row at their index in `old` by that one, which frees memory."""
    for start in range(0, min(len(old), len(new)), STEP_ROWS):
        known = old[start : start + STEP_ROWS]
        part = new[start : start + len(known)]
        if known == part:
            new[start : start + len(part)] = known[: len(part)]
        else:
            new[start : start + len(part)] = [a if a == b else b for a, b in zip(known, part, strict=False)]


def _kept(before: Rows, after: Rows) -> set[int]:
    """Return the indices in `after` of a longest subsequence of rows that also occurs in `before`."""
    was_at = {row: index for index, row in enumerate(before)}
    common: list[tuple[int, int]] = []  # (index in after, index in before) of each row that both have
    for index, row in enumerate(after):
        old_index = was_at.get(row)
        if old_index is not None:
            common.append((index, old_index))
    # Patience sorting: ends[n] is the smallest old index that ends an ascending run of n + 1, at[n] its position in
    # `common`.
    ends: list[int] = []
    at: list[int] = []
    previous: list[int] = []
    for position, (_, old_index) in enumerate(common):
        length = bisect_left(ends, old_index)
        previous.append(at[length - 1] if length else -1)
        if length == len(ends):
            ends.append(old_index)
            at.append(position)
        else:
            ends[length], at[length] = old_index, position
    kept: set[int] = set()
    position = at[-1] if at else -1
    while position >= 0:
        kept.add(common[position][0])
        position = previous[position]
    return kept


def delta_text(delta: Delta) -> bytes:
    """Return the JSON of an event `delta` from `"deletes"` to the closing brace (docs/reference/channels.md#delta)."""
    upserts = joined([b'{"at":%d,"row":%b}' % (at, row) for at, _, row in delta.upserts])
    return b'"deletes":[%b],"upserts":[%b]}' % (joined(delta.deletes), upserts)


def joined(texts: Sequence[bytes]) -> bytes:
    """Return the texts with commas between them; other threads may run while many are joined."""
    if len(texts) <= STEP_ROWS:
        return b",".join(texts)
    return b",".join([b",".join(texts[start : start + STEP_ROWS]) for start in range(0, len(texts), STEP_ROWS)])


def row_starts(delta: Delta) -> list[int]:
    """Return the place of each upserted row in `delta_text(delta)`."""
    starts = []
    at_row = len(b'"deletes":[],"upserts":[') + sum(map(len, delta.deletes)) + max(0, len(delta.deletes) - 1)
    for at, _, row in delta.upserts:
        at_row += len(b'{"at":,"row":') + len(str(at))
        starts.append(at_row)
        at_row += len(row) + len(b"},")
    return starts


def apply_all(rows: Rows, deltas: Iterable[Delta]) -> list[Row]:
    """Return the result after one delta after the other. `rows` is not changed."""
    result = list(rows)
    for delta in deltas:
        if delta.deletes or not _replaces(result, delta):
            result = apply(result, delta)
        else:
            for at, key, row in delta.upserts:
                result[at] = (key, row)
    return result


def apply(rows: Rows, delta: Delta) -> list[Row]:
    """Return the result after the delta. `rows` is not changed."""
    if not delta.deletes and _replaces(rows, delta):
        replaced = list(rows)
        for at, key, row in delta.upserts:
            replaced[at] = (key, row)
        return replaced
    gone = {key for _, key, _ in delta.upserts}
    gone.update(delta.deletes)
    kept = [row for row in rows if row[0] not in gone]
    if not delta.upserts:
        return kept
    result: list[Row] = []
    taken = 0
    for at, key, row in delta.upserts:
        upto = taken + at - len(result)
        result += kept[taken:upto]
        taken = min(max(taken, upto), len(kept))
        result.append((key, row))
    result += kept[taken:]
    return result


def _replaces(rows: Rows, delta: Delta) -> bool:
    """Return whether each upsert of a delta replaces the row at its index, which is so in most deltas."""
    size = len(rows)
    return all(at < size and rows[at][0] == key for at, key, _ in delta.upserts)
