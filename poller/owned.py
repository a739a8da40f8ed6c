"""An owned topic: its last result, its state, and the updates that report a change to gateways. Pure.

Times are arguments, and updates are return values, encoded once for all gateways (docs/reference/grpc.md#feed). Only
large ones are encoded piece by piece, for each gateway when its turn comes, so that a large result is neither held a
second time nor encoded in one go. An `OwnedTopic` exists from the moment this poller gains the topic until it loses it;
the next owner has a higher epoch and counts `seq` anew (poller/first_version.py). It holds one copy of the rows as
bytes, about 170 bytes a row in addition to the text of the row and of its key.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from pollcast.poller.sources.answer import LARGE_ROWS, LARGEST_DELTA_ROWS, Result, size_of
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.statement import Columns
from pollcast.services.catalogue.topics import Topic
from pollcast.services.delta import Delta, Row, delta_text, diff, row_starts
from pollcast.v1 import feed_pb2

PIECE_BYTES = 96 * 1024
"""Approximate maximum size of one piece of a snapshot, in bytes: encoding one holds up nobody, on either end."""

LARGEST_DELTA_BYTES = 4 * 1024 * 1024
"""Maximum size of the rows in a delta, in bytes; a larger change is sent as a snapshot, in pieces."""

COST_WEIGHT = 0.2
"""Weight of the latest poll in the smoothed cost of a poll, between 0 and 1."""

_key, _text = itemgetter(0), itemgetter(1)


class LargeUpdates:
    """Updates that are encoded only while they are iterated, piece by piece and for each gateway: a large snapshot or
    delta, and what follows it. Meanwhile they hold rows, but no copies of rows."""

    __slots__ = ("_encode", "_following", "size")

    def __init__(self, encode: Callable[[], Iterator[bytes]], size: int, following: Sequence[bytes] = ()) -> None:
        self._encode = encode
        self._following = following
        self.size = size
        """Approximate size of the updates, in bytes."""

    def __iter__(self) -> Iterator[bytes]:
        yield from self._encode()
        yield from self._following

    def followed_by(self, updates: list[bytes]) -> LargeUpdates:
        """Return these updates and those that follow them."""
        return LargeUpdates(self._encode, self.size + sum(map(len, updates)), [*self._following, *updates])


Updates = list[bytes] | LargeUpdates
"""Serialized FeedUpdate messages of one topic, in the order in which gateways apply them."""


def followed_by(updates: Updates, following: list[bytes]) -> Updates:
    """Return the updates and those that follow them."""
    return updates.followed_by(following) if isinstance(updates, LargeUpdates) else updates + following


def updates_size(updates: Updates) -> int:
    """Return the size of the updates in bytes."""
    return updates.size if isinstance(updates, LargeUpdates) else sum(map(len, updates))


Digest = tuple[Columns, int]
"""Digest of a result, with the columns for which it was made."""


class PollHistory:
    """The polls of one topic under one epoch. Times ending in `_at` are microseconds since the Unix epoch."""

    __slots__ = (
        "count",
        "digest",
        "gained_at",
        "probe_result",
        "refresh_at",
        "result_at",
        "seconds",
        "started",
        "weight",
    )

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
        self.weight: int | None = None
        """Size of the last result in bytes; None before the first."""
        self.digest: Digest | None = None
        """Digest of the last result; None when it is not known."""
        self.refresh_at = float("inf")
        """Time on the monotonic clock, in seconds, from which the topic is polled in full, whatever its digest."""

    def record_cost(self, seconds: float) -> None:
        """Include the database time of one poll in the smoothed cost."""
        self.seconds += (seconds - self.seconds) * (COST_WEIGHT if self.count else 1.0)


class OwnedTopic:
    """One topic under one epoch of this poller: its last result, its version and its state."""

    __slots__ = (
        "definition",
        "epoch",
        "first_seq",
        "history",
        "name",
        "polled_at",
        "reason",
        "rows",
        "seq",
        "sharing",
        "since",
        "state",
        "topic",
    )

    def __init__(self, topic: Topic, epoch: int, since: int, definition: str = "", seq: int = 0) -> None:
        """`definition` is that of the topic's query; `seq` the one after which versions count."""
        self.topic = topic
        self.definition = definition
        self.name = topic.canonical
        """The canonical topic."""
        self.sharing: Hashable = None
        """The sharing key of the topic (poller/sources/statement.py), from its first poll on."""
        self.epoch = epoch
        self.history = PollHistory(since)
        self.seq = self.first_seq = seq
        self.rows: list[Row] | None = None
        """Last result; None before the first."""
        self.polled_at = 0
        """Start of the first poll that gave the last result, in microseconds since the Unix epoch."""
        self.state = "live"
        self.reason = ""
        self.since = since
        """Start of the present state, in microseconds since the Unix epoch."""

    def record_result(self, rows: list[Row], polled_at: int) -> Updates:
        """Record the result of a poll that started at `polled_at`, and return the updates that report it.

        The result comes first, then a status if the topic was not live. Nothing is returned when nothing changed.
        """
        self.history.count += 1
        self.history.result_at = polled_at
        updates: Updates = []
        if rows is not self.rows and (_is_compared(rows, self.rows) or rows != self.rows):
            updates = self._set_rows(rows, polled_at)
        return followed_by(updates, self._set_state("live", "", polled_at))

    def record_unchanged(self, polled_at: int) -> None:
        """Record a poll of a live topic that gave its last result."""
        self.history.count += 1
        self.history.result_at = polled_at

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

    def differs(self) -> bytes:
        """Return the update for a gateway that has another definition of the topic's query."""
        reason = "the poller that owns this topic has another definition of its query: their catalogues differ"
        return self._encoder()(status=feed_pb2.FeedStatus(state="stale", reason=reason, since=self.since))

    def status(self) -> bytes:
        """Return the update that reports the present state."""
        status = feed_pb2.FeedStatus(state=self.state, reason=self.reason, since=self.since)
        return self._encoder()(status=status)

    def _set_rows(self, rows: list[Row], polled_at: int) -> Updates:
        before, self.rows = self.rows, rows
        self.seq += 1
        self.polled_at = polled_at
        if before is None or not self.topic.query.key:
            if isinstance(rows, Result):
                rows.change = None
            return self._snapshot(rows)
        delta = _change(before, rows)
        if delta is None or len(delta.upserts) + len(delta.deletes) > LARGEST_DELTA_ROWS:
            return self._snapshot(rows)
        size = sum(len(row) + len(key) for _, key, row in delta.upserts) + sum(map(len, delta.deletes))
        return self._snapshot(rows) if size > LARGEST_DELTA_BYTES else self._delta(delta, size)

    def _set_state(self, state: str, reason: str, now: int) -> list[bytes]:
        if (state, reason) == (self.state, self.reason):
            return []
        if state != self.state:
            self.since = now
        self.state, self.reason = state, reason
        return [self.status()]

    def _delta(self, delta: Delta, size: int) -> Updates:
        encode = self._encoder()
        whole = self.rows is not None and len(delta.upserts) == len(self.rows)

        def message() -> Iterator[bytes]:
            yield encode(delta=feed_delta(delta, whole))

        return list(message()) if size <= PIECE_BYTES else LargeUpdates(message, size)

    def _snapshot(self, rows: list[Row]) -> Updates:
        encode = self._encoder()

        def messages() -> Iterator[bytes]:
            for number, (piece, more) in enumerate(_pieces(rows)):
                keys = b"\n".join(map(_key, piece)) if piece and piece[0][0] else b""
                texts = b"\n".join(map(_text, piece))
                yield encode(snapshot=feed_pb2.FeedSnapshot(number=number, more=more, rows=texts, keys=keys))

        size = size_of(rows) + sum(map(len, map(_key, rows[:LARGE_ROWS])))  # an estimate for more rows
        return list(messages()) if size <= PIECE_BYTES else LargeUpdates(messages, size)

    def _encoder(self) -> Callable[..., bytes]:
        """Return a function that encodes an update of the present version, whatever the version is by then."""
        name, epoch, seq, polled_at = self.name, self.epoch, self.seq, self.polled_at

        def encode(**body: Any) -> bytes:
            update = feed_pb2.FeedUpdate(topic=name, epoch=epoch, seq=seq, polled_at=polled_at, **body)
            return update.SerializeToString()

        return encode


def feed_delta(delta: Delta, whole: bool) -> feed_pb2.FeedDelta:
    """Return a delta as the Feed carries it: its text ready for clients, and what gateways need to apply it.

    `whole` is whether its upserts are all rows of the result.
    """
    at, keys, rows = zip(*delta.upserts, strict=True) if delta.upserts else ((), (), ())
    starts, sizes = row_starts(delta), map(len, rows)
    change = feed_pb2.FeedChange(deletes=delta.deletes, at=at, keys=keys, start=starts, size=sizes)
    return feed_pb2.FeedDelta(text=delta_text(delta), change=change.SerializeToString(), whole=whole)


def _is_compared(rows: list[Row], before: list[Row] | None) -> bool:
    """Return whether it is known already that two results differ."""
    return isinstance(rows, Result) and rows.change is not None and rows.change[0] is before


def _change(before: list[Row], rows: list[Row]) -> Delta | None:
    """Return the delta between two results that differ, perhaps computed in advance; None for a large one."""
    if isinstance(rows, Result) and rows.change is not None:
        (known, delta), rows.change = rows.change, None
        if known is before:
            return delta
    computed = diff(before, rows)
    assert computed is not None
    return computed


def _pieces(rows: Iterable[Row]) -> Iterator[tuple[list[Row], bool]]:
    """Yield the rows in order, in pieces of about PIECE_BYTES, each with whether another one follows.

    A result without rows is one empty piece.
    """
    piece: list[Row] = []
    size = 0
    for row in rows:
        length = len(row[0]) + len(row[1])
        if piece and size + length > PIECE_BYTES:
            yield piece, True
            piece, size = [], 0
        piece.append(row)
        size += length
    yield piece, False
