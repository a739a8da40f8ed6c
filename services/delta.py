"""Rows and rows to the difference, and back (CONTRACT.md §4, `delta`).

Pure. The poller makes deltas with `diff`; gateways bring their copy up to date with `apply`, and make deltas of their
own where they have only two results. A result is a list of rows in the query's order. Every row carries its key; no key
comes twice in a result (the poller refuses such a result), so a query without a key has no deltas.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress, count
from operator import ne

Row = tuple[bytes, bytes]
"""The row's key as a JSON array, and the row as a JSON object, both as PostgreSQL wrote them."""

Rows = Sequence[Row]


@dataclass(frozen=True, slots=True)
class Delta:
    """Remove the rows whose key is in `deletes` or in `upserts`, then insert each upsert in the listed order at its
    index. Indices strictly ascend, no key comes twice, every deleted key was there."""

    deletes: list[bytes] = field(default_factory=list)
    upserts: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    """(at, key, row)"""


def diff(old: Rows, new: Rows) -> Delta | None:
    """What leads from `old` to `new`; None when nothing changed.

    Minimal: the rows that stay are a longest run of unchanged rows that keep their order. What stands before the first
    and after the last difference is skipped by comparing alone, so that the cost grows with what lies between.
    """
    shorter = min(len(old), len(new))
    start = next(compress(count(), map(ne, old, new)), shorter)
    if start == len(old) == len(new):
        return None
    longest_tail = shorter - start
    tail = next(compress(count(), map(ne, reversed(old), reversed(new))), longest_tail)
    tail = min(tail, longest_tail)
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


def _kept(before: Rows, after: Rows) -> set[int]:
    """Indices in `after` of a longest subsequence of rows that stand unchanged, and in this order, in `before`."""
    was_at = {row: index for index, row in enumerate(before)}
    places: list[tuple[int, int]] = []  # (index in after, index in before)
    for index, row in enumerate(after):
        place = was_at.get(row)
        if place is not None:
            places.append((index, place))
    # Patience sorting: ends[n] is the smallest place that ends an ascending run of n + 1, at[n] its position in places.
    ends: list[int] = []
    at: list[int] = []
    previous: list[int] = []
    for position, (_, place) in enumerate(places):
        length = bisect_left(ends, place)
        previous.append(at[length - 1] if length else -1)
        if length == len(ends):
            ends.append(place)
            at.append(position)
        else:
            ends[length], at[length] = place, position
    kept: set[int] = set()
    position = at[-1] if at else -1
    while position >= 0:
        kept.add(places[position][0])
        position = previous[position]
    return kept


def apply(rows: Rows, delta: Delta) -> list[Row]:
    """The rows after the delta. `rows` stay as they are."""
    if not delta.deletes and (replaced := _replaced(rows, delta)) is not None:
        return replaced
    gone = {key for _, key, _ in delta.upserts}
    gone.update(delta.deletes)
    kept = [row for row in rows if row[0] not in gone]
    if not delta.upserts:
        return kept
    result: list[Row] = []
    taken = 0
    for at, key, row in delta.upserts:
        wanted = taken + at - len(result)
        result += kept[taken:wanted]
        taken = min(max(taken, wanted), len(kept))
        result.append((key, row))
    result += kept[taken:]
    return result


def _replaced(rows: Rows, delta: Delta) -> list[Row] | None:
    """The rows after a delta that only changes rows where they stand, which is the usual one; None for another."""
    result = list(rows)
    size = len(result)
    for at, key, row in delta.upserts:
        if at >= size or result[at][0] != key:
            return None
        result[at] = (key, row)
    return result
