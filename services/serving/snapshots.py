"""Snapshots of LiveQuery in pieces (docs/reference/grpc.md#watch): cutting them, and putting them together. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence

from pollcast.services.errors import TooLarge
from pollcast.v1 import live_pb2, types_pb2

PIECE_BYTES = 1024 * 1024
"""Maximum size of a piece of several rows, in bytes as it is sent."""

MAX_ROW_BYTES = 4 * 1024 * 1024 - 4096
"""Maximum size of a row, in bytes: with its piece's other fields it fits into 4 MiB, a client's limit by default."""

ROW_OVERHEAD = 5
"""Maximum number of bytes beside its text that a row of a piece takes."""

HEAD_BYTES = 1024
"""Size that is left for the other fields of a piece, in bytes."""


def pieces(rows: Sequence[bytes]) -> Iterator[tuple[Sequence[bytes], bool]]:
    """Yield the rows in pieces of at most PIECE_BYTES, each with whether another follows; no rows are one piece.

    Raises TooLarge, before the first piece, when a row has more than MAX_ROW_BYTES.
    """
    largest = max(map(len, rows), default=0)
    if largest > MAX_ROW_BYTES:
        raise TooLarge(f"a row of {largest} bytes exceeds what a gRPC message may hold (4 MiB); use WebSocket or HTTP")
    start, size = 0, HEAD_BYTES
    for at, row in enumerate(rows):
        length = len(row) + ROW_OVERHEAD
        if at > start and size + length > PIECE_BYTES:
            yield rows[start:at], True
            start, size = at, HEAD_BYTES
        size += length
    yield rows[start:], False


def fits(rows: Sequence[bytes]) -> bool:
    """Return whether the rows are one piece."""
    if not rows or sum(map(len, rows)) > PIECE_BYTES:
        return not rows
    _, more = next(pieces(rows))
    return not more


async def whole(responses: AsyncIterable[live_pb2.WatchResponse]) -> AsyncIterator[live_pb2.WatchResponse]:
    """Yield the responses of a Watch, with the pieces of each snapshot put together."""
    snapshot: types_pb2.Snapshot | None = None
    async for response in responses:
        if response.WhichOneof("event") != "snapshot":
            yield response
            continue
        if snapshot is None:
            snapshot = response.snapshot
        else:
            snapshot.rows.extend(response.snapshot.rows)
        if not response.snapshot.more:
            snapshot.more = False
            yield live_pb2.WatchResponse(snapshot=snapshot)
            snapshot = None
