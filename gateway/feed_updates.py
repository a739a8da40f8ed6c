"""The updates that a gateway receives from pollers (proto/pollcast/v1/feed.proto). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple, cast

from pollcast.gateway.change import Change
from pollcast.gateway.status import State, Status
from pollcast.gateway.version import Version
from pollcast.services.delta import Row
from pollcast.v1 import feed_pb2


class Piece(NamedTuple):
    """Consecutive rows of a snapshot, numbered from 0; `more` is set on all pieces but the last."""

    number: int
    rows: list[Row]
    more: bool


@dataclass(slots=True)
class Update:
    """One message of an owner about one topic.

    `polled_at` is the start of the poll that gave this result, in microseconds since the Unix epoch. `body` is None for
    a kind of update that this gateway does not know. `attachment` is the number of the attachment that it answers.
    """

    topic: str
    version: Version
    polled_at: int
    body: Change | Piece | Status | None
    attachment: int


def decode(message: feed_pb2.FeedUpdate) -> Update:
    """Return the update that a FeedUpdate holds (proto/pollcast/v1/feed.proto). Pure."""
    body: Change | Piece | Status | None = None
    kind = message.WhichOneof("body")
    if kind == "delta":
        body = Change.received(message.delta)
    elif kind == "snapshot":
        snapshot = message.snapshot
        body = Piece(snapshot.number, _rows(snapshot), snapshot.more)
    elif kind == "status":
        status = message.status
        state = cast(State, status.state)
        body = Status(state, None if state == "live" else status.reason, status.since)
    return Update(message.topic, Version(message.epoch, message.seq), message.polled_at, body, message.attachment)


def _rows(snapshot: feed_pb2.FeedSnapshot) -> list[Row]:
    if not snapshot.rows:
        return []
    rows = snapshot.rows.split(b"\n")
    return list(zip(snapshot.keys.split(b"\n"), rows, strict=True) if snapshot.keys else zip(repeat(b""), rows))
