"""A topic that this poller owns: its last result, its state, and the updates that tell gateways of a change.

Pure: times are arguments, updates are return values, encoded once for all gateways (proto/pollcast/v1/feed.proto). It
lives from `gained` to `lost`; whoever owns the topic next starts with a higher epoch and counts from 1 again. It holds
one copy of the rows as bytes, about 170 bytes a row beside the text of the row and of its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pollcast.poller.poll_error import PollError
from pollcast.services.catalogue.topics import Topic
from pollcast.services.delta import Delta, Row, diff
from pollcast.v1 import feed_pb2

PIECE_BYTES = 1024 * 1024
"""A snapshot is sent in pieces of about this size."""

LARGEST_DELTA_BYTES = 8 * 1024 * 1024
"""A change that is larger travels as a snapshot, in pieces."""

COST_WEIGHT = 0.2
"""Of the last poll in the smoothed cost of a poll."""

Updates = list[bytes]


class OwnedTopic:
    """The present truth of one topic under one epoch."""

    __slots__ = (
        "answered_at",
        "epoch",
        "gained_at",
        "poll_seconds",
        "polled_at",
        "polls",
        "probed",
        "reason",
        "rows",
        "seq",
        "since",
        "started",
        "state",
        "topic",
    )

    def __init__(self, topic: Topic, epoch: int, since: int) -> None:
        self.topic = topic
        self.epoch = epoch
        self.seq = 0
        self.rows: list[Row] | None = None
        """None before the first result."""
        self.polled_at = 0
        """Microseconds since the Unix epoch: when the poll started that first gave this result."""
        self.state = "live"
        self.reason = ""
        self.since = since
        """Microseconds since the Unix epoch: since when it is in this state."""
        self.started = float("-inf")
        """Seconds on the monotonic clock: when its last poll started."""
        self.probed: bytes | None = None
        """What the query's probe said just before the last result."""
        self.gained_at = since
        self.polls = 0
        """That ended, under this epoch."""
        self.answered_at = 0
        """Microseconds since the Unix epoch: when the last poll started that gave a result; 0 before the first."""
        self.poll_seconds = 0.0
        """What one poll costs the database, smoothed."""

    @property
    def name(self) -> str:
        return self.topic.canonical

    def record_result(self, rows: list[Row], polled_at: int) -> Updates:
        """A poll that started then gave these rows. Nothing is told when nothing changed; else the result first and
        then, where it was not, that the topic is live."""
        self.polls += 1
        self.answered_at = polled_at
        updates: Updates = []
        if rows is not self.rows and rows != self.rows:
            updates = self._changed(rows, polled_at)
        return updates + self._turned("live", "", polled_at)

    def record_error(self, trouble: PollError, now: int) -> Updates:
        """A poll ended with this. The last result stays."""
        self.polls += 1
        return self._turned(trouble.state, trouble.error.detail, now)

    def record_cost(self, seconds: float) -> None:
        """A poll took the database so long."""
        self.poll_seconds += (seconds - self.poll_seconds) * (COST_WEIGHT if self.polls else 1.0)

    def current_updates(self, told: str) -> Iterator[bytes]:
        """What a gateway needs that knows nothing of this topic but that it is in the state `told`."""
        if self.rows is not None:
            yield from self._snapshot(self.rows)
        if self.state != told:
            yield self.status()

    def status(self) -> bytes:
        status = feed_pb2.FeedStatus(state=self.state, reason=self.reason, since=self.since)
        return self._update(status=status)

    def _changed(self, rows: list[Row], polled_at: int) -> Updates:
        before, self.rows = self.rows, rows
        self.seq += 1
        self.polled_at = polled_at
        if before is None or not self.topic.query.key:
            return list(self._snapshot(rows))
        delta = diff(before, rows)
        assert delta is not None  # the rows differ
        if sum(len(row) + len(key) for _, key, row in delta.upserts) > LARGEST_DELTA_BYTES:
            return list(self._snapshot(rows))
        return [self._delta(delta)]

    def _turned(self, state: str, reason: str, now: int) -> Updates:
        if (state, reason) == (self.state, self.reason):
            return []
        if state != self.state:
            self.since = now
        self.state, self.reason = state, reason
        return [self.status()]

    def _delta(self, delta: Delta) -> bytes:
        upserts = [feed_pb2.FeedUpsert(at=at, key=key, row=row) for at, key, row in delta.upserts]
        return self._update(delta=feed_pb2.FeedDelta(deletes=delta.deletes, upserts=upserts))

    def _snapshot(self, rows: list[Row]) -> Iterator[bytes]:
        pieces = list(_pieces(rows))
        for piece in pieces:
            piece_rows = [feed_pb2.FeedRow(key=key, row=row) for key, row in piece]
            yield self._update(snapshot=feed_pb2.FeedSnapshot(rows=piece_rows, more=piece is not pieces[-1]))

    def _update(
        self,
        snapshot: feed_pb2.FeedSnapshot | None = None,
        delta: feed_pb2.FeedDelta | None = None,
        status: feed_pb2.FeedStatus | None = None,
    ) -> bytes:
        update = feed_pb2.FeedUpdate(
            topic=self.name,
            epoch=self.epoch,
            seq=self.seq,
            polled_at=self.polled_at,
            snapshot=snapshot,
            delta=delta,
            status=status,
        )
        return update.SerializeToString()


def _pieces(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """The rows in order, split at about PIECE_BYTES; a result without rows is one empty piece."""
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
