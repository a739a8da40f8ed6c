"""Deltas, compared with a simple model of a client (docs/reference/channels.md#delta)."""

from __future__ import annotations

import time
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from pollcast.services.delta import Delta, Row, apply, diff


def rows(*pairs: tuple[int, int]) -> list[Row]:
    """Return a result with a row for each pair of key and value."""
    return [(b"[%d]" % key, b'{"id":%d,"v":%d}' % (key, value)) for key, value in pairs]


@st.composite
def results(draw: st.DrawFn) -> list[Row]:
    """Draw results of up to ten rows."""
    keys = draw(st.lists(st.integers(0, 12), unique=True, max_size=10))
    return rows(*((key, draw(st.integers(0, 2))) for key in keys))


def applied_by_a_client(old: list[Row], delta: Delta) -> list[Row]:
    """Apply a delta as docs/reference/channels.md#delta describes it, word by word."""
    gone = {*delta.deletes, *(key for _, key, _ in delta.upserts)}
    result = [row for row in old if row[0] not in gone]
    for at, key, row in delta.upserts:
        result.insert(at, (key, row))
    return result


def fewest_upserts(old: list[Row], new: list[Row]) -> int:
    """Return the least number of upserts, by a slow search for the longest common subsequence."""
    longest = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i, a in enumerate(old):
        for j, b in enumerate(new):
            longest[i + 1][j + 1] = longest[i][j] + 1 if a == b else max(longest[i][j + 1], longest[i + 1][j])
    return len(new) - longest[-1][-1]


@given(results(), results())
@settings(max_examples=500)
def test_a_delta_applied_to_the_old_result_gives_the_new_one(old: list[Row], new: list[Row]) -> None:
    delta = diff(old, new)
    if delta is None:
        assert old == new
        return
    assert applied_by_a_client(old, delta) == new
    assert apply(old, delta) == new


@given(results(), results())
@settings(max_examples=500)
def test_a_delta_is_well_formed_and_minimal(old: list[Row], new: list[Row]) -> None:
    delta = diff(old, new)
    if delta is None:
        return
    indices = [at for at, _, _ in delta.upserts]
    keys = [key for _, key, _ in delta.upserts] + delta.deletes
    assert keys
    assert len(set(keys)) == len(keys)
    assert all(a < b for a, b in pairwise(indices))
    assert set(delta.deletes) <= {key for key, _ in old}
    assert len(delta.upserts) == fewest_upserts(old, new)


@given(results())
def test_an_unchanged_result_gives_no_delta(result: list[Row]) -> None:
    assert diff(result, list(result)) is None


@given(results(), st.lists(st.integers(0, 20), unique=True, max_size=5), st.lists(st.integers(0, 20), max_size=5))
def test_gateway_and_client_apply_any_delta_alike(old: list[Row], deletes: list[int], indices: list[int]) -> None:
    upserts = [(at, b"[%d]" % (100 + at), b"{}") for at in sorted(set(indices))]
    delta = Delta([b"[%d]" % key for key in deletes], upserts)
    assert apply(old, delta) == applied_by_a_client(old, delta)


def test_applying_does_not_change_the_old_result() -> None:
    old = rows((1, 1), (2, 2))
    apply(old, Delta([b"[1]"], [(0, b"[3]", b"{}")]))
    assert old == rows((1, 1), (2, 2))


def test_only_a_changed_row_is_sent_and_it_keeps_its_index() -> None:
    assert diff(rows((1, 1), (2, 2), (3, 3)), rows((1, 1), (2, 9), (3, 3))) == Delta(
        [], [(1, b"[2]", b'{"id":2,"v":9}')]
    )


def test_a_row_that_moves_to_the_front_is_the_only_one_sent() -> None:
    old = rows(*((n, n) for n in range(10)))
    delta = diff(old, [old[9], *old[:9]])
    assert delta is not None
    assert delta == Delta([], [(0, *old[9])])


def test_a_row_that_leaves_a_top_n_makes_one_delete_and_one_upsert() -> None:
    old = rows((1, 9), (2, 8), (3, 7))
    new = rows((1, 9), (4, 8), (2, 8))
    assert diff(old, new) == Delta([b"[3]"], [(1, b"[4]", b'{"id":4,"v":8}')])


def test_one_change_in_ten_thousand_rows_takes_milliseconds() -> None:
    def seconds() -> float:
        """Return the time of computing one delta."""
        old = [(b"[%d]" % n, b'{"id":%d,"text":"%s"}' % (n, b"x" * 1000)) for n in range(10_000)]
        new = [(bytes(key), row[:-1] + b"}") for key, row in old]
        new[5_000] = (new[5_000][0], b"{}")
        started = time.thread_time()
        delta = diff(old, new)
        took = time.thread_time() - started
        assert delta == Delta([], [(5_000, b"[5000]", b"{}")])
        return took

    # About 2 ms on an idle machine. Only this thread's time counts, and the best of five: others may use the core.
    assert min(seconds() for _ in range(5)) < 0.1
