"""An owned topic: its last result, its state, and the updates that report a change to gateways. Pure.

Times are arguments, and updates are return values, encoded once for all gateways (docs/reference/grpc.md#feed). Only a
snapshot of several pieces is encoded piece by piece, for each gateway when its turn comes, so that a large result is
not held a second time. An `OwnedTopic` exists from the moment this poller gains the topic until it loses it; the next
owner has a higher epoch and counts `seq` from 1 again. It holds one copy of the rows as bytes, about 170 bytes a row in
addition to the text of the row and of its key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter

from pollcast.poller.answer import Result, size_of
from pollcast.poller.poll_error import PollError
from pollcast.services.catalogue.topics import Topic
from pollcast.services.delta import Delta, Row, diff
from pollcast.v1 import feed_pb2

PIECE_BYTES = 1024 * 1024
"""Approximate maximum size of one piece of a snapshot, in bytes."""

LARGEST_DELTA_BYTES = 8 * 1024 * 1024
"""Maximum size of the rows in a delta, in bytes; a larger change is sent as a snapshot, in pieces."""

COST_WEIGHT = 0.2
"""Weight of the latest poll in the smoothed cost of a poll, between 0 and 1."""


class LargeSnapshot:
    """The updates that report a large result: a snapshot in pieces, encoded while it is iterated, and what follows."""

    __slots__ = ("encode", "following", "rows", "size")

    def __init__(self, rows: list[Row], encode: EncodePiece, following: Sequence[bytes] = ()) -> None:
        self.rows = rows
        self.encode = encode
        self.following = following
        self.size = _size(rows) + sum(map(len, following))
        """Approximate size of the updates, in bytes."""

    def __iter__(self) -> Iterator[bytes]:
        last: list[Row] | None = None
        for piece in _pieces(self.rows):
            if last is not None:
                yield self.encode(last, True)
            last = piece
        assert last is not None  # there is one piece at least
        yield self.encode(last, False)
        yield from self.following


EncodePiece = Callable[[list[Row], bool], bytes]
"""Function that encodes one piece of a snapshot; the flag says whether further pieces follow."""

Updates = list[bytes] | LargeSnapshot
"""Serialized FeedUpdate messages of one topic, in the order in which gateways apply them."""


def followed_by(updates: Updates, following: list[bytes]) -> Updates:
    """Return the updates and those that follow them."""
    if isinstance(updates, LargeSnapshot):
        return LargeSnapshot(updates.rows, updates.encode, [*updates.following, *following])
    return updates + following


def updates_size(updates: Updates) -> int:
    """Return the size of the updates in bytes."""
    return updates.size if isinstance(updates, LargeSnapshot) else sum(map(len, updates))


class PollHistory:
    """The polls of one topic under one epoch. Times ending in `_at` are microseconds since the Unix epoch."""

    __slots__ = ("count", "gained_at", "probe_result", "result_at", "seconds", "started")

    def __init__(self, gained_at: int) -> None:
        self.gained_at = gained_at
        self.started = float("-inf")
        """Start of the latest poll, in seconds on the event loop's monotonic clock."""
        self.count = 0
        """Number of polls that have ended."""
        self.result_at = 0
        """Start of the latest poll that gave a result; 0 before the first."""
        self.seconds = 0.0
        """Smoothed time that one poll takes in the database, in seconds."""
        self.probe_result: bytes | None = None
        """Result of the query's probe just before the latest result; None when the query was not probed."""

    def record_cost(self, seconds: float) -> None:
        """Include the database time of one poll in the smoothed cost."""
        self.seconds += (seconds - self.seconds) * (COST_WEIGHT if self.count else 1.0)


class OwnedTopic:
    """One topic under one epoch of this poller: its last result, its version and its state."""

    __slots__ = ("epoch", "history", "polled_at", "reason", "rows", "seq", "since", "state", "topic")

    def __init__(self, topic: Topic, epoch: int, since: int) -> None:
        self.topic = topic
        self.epoch = epoch
        self.history = PollHistory(since)
        self.seq = 0
        self.rows: list[Row] | None = None
        """Last result; None before the first."""
        self.polled_at = 0
        """Start of the first poll that gave the last result, in microseconds since the Unix epoch."""
        self.state = "live"
        self.reason = ""
        self.since = since
        """Start of the present state, in microseconds since the Unix epoch."""

    @property
    def name(self) -> str:
        """The canonical topic."""
        return self.topic.canonical

    def record_result(self, rows: list[Row], polled_at: int) -> Updates:
        """Record the result of a poll that started at `polled_at`, and return the updates that report it.

        The result comes first, then a status if the topic was not live. Nothing is returned when nothing changed.
        """
        self.history.count += 1
        self.history.result_at = polled_at
        updates: Updates = []
        if rows is not self.rows and rows != self.rows:
            updates = self._set_rows(rows, polled_at)
        return followed_by(updates, self._set_state("live", "", polled_at))

    def record_error(self, error: PollError, now: int) -> Updates:
        """Record a poll that ended with an error, and return the updates that report it. The last result is kept."""
        self.history.count += 1
        return self._set_state(error.state, error.cause.detail, now)

    def current_updates(self, known_state: str) -> Updates:
        """Return the updates for a gateway that has no result and knows the topic to be in `known_state`.

        They report the present result and state, even if these change before the updates are sent.
        """
        updates: Updates = [] if self.rows is None else self._snapshot(self.rows)
        return followed_by(updates, [self.status()] if self.state != known_state else [])

    def status(self) -> bytes:
        """Return the update that reports the present state."""
        status = feed_pb2.FeedStatus(state=self.state, reason=self.reason, since=self.since)
        return self._update(status=status)

    def _set_rows(self, rows: list[Row], polled_at: int) -> Updates:
        before, self.rows = self.rows, rows
        self.seq += 1
        self.polled_at = polled_at
        if before is None or not self.topic.query.key:
            return self._snapshot(rows)
        delta = _change(before, rows)
        if sum(len(row) + len(key) for _, key, row in delta.upserts) > LARGEST_DELTA_BYTES:
            return self._snapshot(rows)
        return [self._delta(delta)]

    def _set_state(self, state: str, reason: str, now: int) -> list[bytes]:
        if (state, reason) == (self.state, self.reason):
            return []
        if state != self.state:
            self.since = now
        self.state, self.reason = state, reason
        return [self.status()]

    def _delta(self, delta: Delta) -> bytes:
        upserts = [feed_pb2.FeedUpsert(at=at, key=key, row=row) for at, key, row in delta.upserts]
        return self._update(delta=feed_pb2.FeedDelta(deletes=delta.deletes, upserts=upserts))

    def _snapshot(self, rows: list[Row]) -> Updates:
        epoch, seq, polled_at = self.epoch, self.seq, self.polled_at

        def encode(piece: list[Row], more: bool) -> bytes:
            piece_rows = [feed_pb2.FeedRow(key=key, row=row) for key, row in piece]
            snapshot = feed_pb2.FeedSnapshot(rows=piece_rows, more=more)
            update = feed_pb2.FeedUpdate(topic=self.name, epoch=epoch, seq=seq, polled_at=polled_at, snapshot=snapshot)
            return update.SerializeToString()

        return [encode(rows, False)] if _size(rows) <= PIECE_BYTES else LargeSnapshot(rows, encode)

    def _update(self, delta: feed_pb2.FeedDelta | None = None, status: feed_pb2.FeedStatus | None = None) -> bytes:
        update = feed_pb2.FeedUpdate(
            topic=self.name, epoch=self.epoch, seq=self.seq, polled_at=self.polled_at, delta=delta, status=status
        )
        return update.SerializeToString()


def _change(before: list[Row], rows: list[Row]) -> Delta:
    """Return the delta between two results that differ, which may have been computed in advance."""
    if isinstance(rows, Result) and rows.change is not None:
        (known, delta), rows.change = rows.change, None
        if known is before:
            return delta
    computed = diff(before, rows)
    assert computed is not None
    return computed


def _size(rows: list[Row]) -> int:
    """Return the size of the rows and their keys in bytes."""
    return size_of(rows) + sum(map(len, map(itemgetter(0), rows)))


def _pieces(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows in order, in pieces of about PIECE_BYTES; a result without rows is one empty piece."""
    piece: list[Row] = []
    size = 0
    for row in rows:
        length = len(row[0]) + len(row[1])
        if piece and size + length > PIECE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(row)
        size += length
    yield piece
