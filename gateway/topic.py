"""A topic that somebody on this gateway watches, or watched a moment ago.

Born at the first join; from then on the gateway has demand for it in etcd. What the owner sends goes through the fence
(updates of a lower epoch than the highest known are dropped), into the history, and out to the audience (WebSocket) and
the followers (server-sent events, gRPC). When the last client leaves, demand ends at once; history and log stay for
RETAIN_SECONDS, so that one who comes back needs no snapshot; then the topic is forgotten.

What is retained without demand and without an owner may be old: such a topic is not `confirmed` and serves nobody until
an owner's update has come.
"""

from __future__ import annotations

from collections.abc import Sequence

from pollcast.gateway.audience import Audience, Traffic
from pollcast.gateway.follower import Follower
from pollcast.gateway.history import Entry, History, Result
from pollcast.gateway.metrics import DELTA_AGE_SECONDS
from pollcast.gateway.presence import Presence
from pollcast.gateway.status import Status
from pollcast.gateway.version import Version
from pollcast.services.catalogue.topics import Topic
from pollcast.services.clock import now_us
from pollcast.services.delta import Delta, Row
from pollcast.services.process.settings import HostPort

RETAIN_SECONDS = 30.0

UNREACHED_SECONDS = 1.0
"""How long a topic may be without an owner's stream before clients are told that it is stale."""


class LiveTopic:
    """See the module. `owner` is where updates come from now: the feed keeps it."""

    def __init__(self, topic: Topic, traffic: Traffic) -> None:
        self.topic = topic
        self.delta_age = DELTA_AGE_SECONDS.labels(topic.query.name)
        self.history = History(topic.query.key)
        self.audience = Audience(self.history, traffic)
        self.followers: set[Follower] = set()
        self.presence: Presence | None = None  # of a query with presence, while there are clients
        self.status = Status("live", None, now_us())
        self.confirmed = False
        self.fence = 0  # the highest epoch known
        self.source: HostPort | None = None  # the poller that it is attached to
        self.unreached_since: float | None = None  # monotonic; None while an owner's stream stands
        self.idle_since: float | None = None  # monotonic; None while it has clients
        self._pieces: list[Row] = []
        self._pieces_of: Version | None = None

    @property
    def present(self) -> Result | None:
        """The result that clients are served, None before there is one."""
        return self.history.present if self.confirmed else None

    @property
    def clients(self) -> int:
        return len(self.audience.channels) + len(self.followers)

    def admits(self, epoch: int) -> bool:
        """The fence: False for what an owner of a past epoch sent."""
        if epoch < self.fence:
            return False
        self.fence = epoch
        return True

    def take_piece(self, version: Version, polled_at: int, rows: Sequence[Row], more: bool) -> None:
        """One piece of a snapshot; the last one makes it count."""
        if self._pieces_of != version:
            self._pieces, self._pieces_of = [], version
        self._pieces.extend(rows)
        if more:
            return
        whole, self._pieces, self._pieces_of = self._pieces, [], None
        self._step(self.history.take_snapshot(version, polled_at, whole))

    def take_delta(self, version: Version, polled_at: int, delta: Delta) -> None:
        """LookupError when it does not follow on the history: attach anew."""
        self._step(self.history.take_delta(version, polled_at, delta))

    def take_status(self, status: Status) -> None:
        """Tells everybody, when it says anything new."""
        if status.same_as(self.status):
            return
        before, self.status = self.status, status
        self.audience.broadcast_status(status, before)
        self._wake()

    def drop_pieces(self) -> None:
        """What has come of a snapshot so far is void: the stream has broken, or it is about to be sent anew."""
        self._pieces, self._pieces_of = [], None

    def doubt(self) -> None:
        """The owner is gone and nobody watches: from now on the history may be old."""
        self.confirmed = False
        self.audience.serving = False

    def _step(self, entry: Entry | None) -> None:
        if entry is not None and entry.delta is not None:
            self.audience.step(entry)
        if not self.confirmed:
            self.confirmed = True
            self.audience.serve()
        self._wake()

    def _wake(self) -> None:
        for follower in self.followers:
            follower.wake()
