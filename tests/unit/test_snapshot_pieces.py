"""Snapshots of LiveQuery in pieces (services/serving/snapshots.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.errors import TooLarge
from pollcast.services.serving.snapshots import MAX_ROW_BYTES, PIECE_BYTES, fits, pieces, whole
from pollcast.v1 import live_pb2, types_pb2

SIZES = st.lists(st.one_of(st.integers(2, 100), st.integers(2, 2 * PIECE_BYTES)), max_size=12)


def message(rows: list[bytes], more: bool) -> live_pb2.WatchResponse:
    return live_pb2.WatchResponse(
        snapshot=types_pb2.Snapshot(version="7-1", polled_at="2026", key=["id"], rows=rows, more=more)
    )


@given(SIZES)
def test_the_pieces_of_a_result_add_up_to_it_and_only_a_single_row_exceeds_the_limit(sizes: list[int]) -> None:
    rows = [bytes([48 + n]) * size for n, size in enumerate(sizes)]
    found = list(pieces(rows))
    assert [row for piece, _ in found for row in piece] == rows
    assert [more for _, more in found] == [True] * (len(found) - 1) + [False]
    assert all(len(piece) == 1 or message(list(piece), more).ByteSize() <= PIECE_BYTES for piece, more in found)
    assert fits(rows) == (len(found) == 1 and sum(sizes) <= PIECE_BYTES)


def test_a_result_of_many_small_rows_is_cut_by_its_size_as_sent() -> None:
    rows = [b"{}"] * 300_000
    found = list(pieces(rows))
    assert len(found) > 1
    assert all(message(list(piece), more).ByteSize() <= PIECE_BYTES for piece, more in found)
    assert not fits(rows)


def test_a_row_that_no_client_takes_by_default_is_refused_before_the_first_piece() -> None:
    with pytest.raises(TooLarge, match="4194305 bytes"):
        next(pieces([b"{}", b"x" * (4 * 1024 * 1024 + 1)]))
    ((piece, more),) = pieces([b"x" * MAX_ROW_BYTES])
    assert message(list(piece), more).ByteSize() <= 4 * 1024 * 1024


async def test_the_pieces_of_a_watch_are_put_together() -> None:
    delta = live_pb2.WatchResponse(delta=types_pb2.Delta(version="7-2"))

    async def responses() -> AsyncIterator[live_pb2.WatchResponse]:
        for response in (message([b"1"], True), message([b"2"], True), message([b"3"], False), delta):
            yield response
        yield message([b"4"], False)

    assert [each async for each in whole(responses())] == [
        message([b"1", b"2", b"3"], False),
        delta,
        message([b"4"], False),
    ]
