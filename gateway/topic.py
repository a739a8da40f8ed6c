"""A topic that a client of this gateway watches, or watched until recently.

A live topic is created by the first join; from then on the gateway has demand for it in etcd. An update from the owner
passes the fence (updates of a lower epoch than the highest known are dropped), enters the history, and goes out to the
audience (WebSocket) and to the followers (server-sent events, gRPC). When the last client leaves, demand ends at once;
history and log stay for RETAIN_SECONDS, so that a returning client needs no snapshot; then the topic is forgotten.

A live topic belongs to one definition of its query. When the query gets another one, it is retired, and its clients
move to a new live topic without a history (gateway/renewal.py), so no client ever gets a delta from a result of one
definition to a result of another.

A result that is retained without demand and without an owner may be out of date: the audience then serves no
client until an owner has sent an update.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from pollcast.gateway.assembly import Assembly
from pollcast.gateway.audience import Audience
from pollcast.gateway.change import Change
from pollcast.gateway.cohorts import Traffic
from pollcast.gateway.history import Entry, History, Result
from pollcast.gateway.intake import Intake
from pollcast.gateway.metrics import DELTA_AGE_SECONDS
from pollcast.gateway.offload import INLINE, Offload
from pollcast.gateway.presence_list import PresenceList
from pollcast.gateway.spellings import Spellings
from pollcast.gateway.status import Status
from pollcast.gateway.version import Version
from pollcast.gateway.wakes import FOLLOWERS_AT_ONCE, TopicListener, Wakes
from pollcast.services.catalogue.topics import Topic
from pollcast.services.clock import now_us
from pollcast.services.delta import Row
from pollcast.services.process.addresses import HostPort

RETAIN_SECONDS = 30.0
"""Time after its last client left during which a topic keeps its history, in seconds."""

UNREACHED_SECONDS = 1.0
"""Time without a stream from an owner after which clients are notified that the topic is stale, in seconds."""


class StreamGroup(Protocol):
    """The event streams of a topic, which are woken together (`pollcast.gateway.event_stream.Streams`)."""

    @property
    def members(self) -> Collection[TopicListener]:
        """The streams."""

    def wake(self, then: Callable[[], None] | None = None) -> None:
        """Notice that the topic's result or status has changed; call `then` when every stream has."""


class LiveTopic:
    """The state of one topic on this gateway: its result, its status, its clients and the poller it is fed by.

    `source` is the poller that the topic is attached to; it stays the same while etcd shows no owner.
    """

    def __init__(
        self,
        topic: Topic,
        traffic: Traffic,
        offload: Offload = INLINE,
        on_gap: Callable[[LiveTopic], None] = lambda live: None,
        definition: str = "",
    ) -> None:
        """Create the state of a topic without a result. `definition` is that of its query (empty: any).

        `on_gap` is called when a result that had to wait does not follow on the history: attach to the owner again.
        """
        self.topic = topic
        self.definition = definition
        self.spellings = Spellings(topic)
        self.delta_age = DELTA_AGE_SECONDS.labels(topic.query.name)
        self.history = History(topic.query.key)
        self.audience = Audience(self.history, traffic, offload)
        # Without a reference back, so that a topic's memory is freed as soon as it is forgotten: garbage is collected
        # too seldom for that (services/process/garbage.py).
        me = weakref.proxy(self)
        self._intake = Intake(self.history, offload, lambda entry: me._step(entry), lambda: on_gap(me))
        self.followers: set[TopicListener] = set()
        self._wakes = Wakes(self.followers, _wake_each, FOLLOWERS_AT_ONCE, offload)
        self.streams: StreamGroup | None = None  # while there are event streams
        self.presence: PresenceList | None = None  # of a query with presence, while there are clients
        self.status = Status("live", None, now_us())
        self.fence = 0  # the highest epoch known
        self.source: HostPort | None = None
        self.unreached_since: float | None = None  # monotonic; None while there is a stream from an owner
        self.idle_since: float | None = None  # monotonic; None while it has clients
        self.assembly = Assembly()

    @property
    def present(self) -> Result | None:
        """The result that clients are served, None before there is one."""
        return self.history.present if self.audience.serving else None

    @property
    def clients(self) -> int:
        """The number of clients that watch the topic, over all protocols."""
        streams = 0 if self.streams is None else len(self.streams.members)
        return len(self.audience.channels) + len(self.followers) + streams

    @property
    def listeners(self) -> list[TopicListener]:
        """The followers and the event streams."""
        return [*self.followers, *(self.streams.members if self.streams is not None else ())]

    def admits(self, epoch: int) -> bool:
        """Apply the fence: return False for an epoch below the highest known, else remember the epoch."""
        if epoch < self.fence:
            return False
        self.fence = epoch
        return True

    def take_snapshot(self, version: Version, polled_at: int, rows: list[Row]) -> None:
        """Take an owner's whole result and pass the change on, perhaps later."""
        self._intake.take_snapshot(version, polled_at, rows)

    def take_delta(self, version: Version, polled_at: int, change: Change) -> None:
        """Take a delta and pass it on. Raises LookupError when it does not follow on the history: attach again."""
        self._intake.take_delta(version, polled_at, change)

    def take_status(self, status: Status) -> None:
        """Set the status, and notify every client unless state and reason are the same as before."""
        if status.same_as(self.status):
            return
        before, self.status = self.status, status
        self.audience.broadcast_status(status, before)
        self.wake_followers()

    def set_aside(self) -> None:
        """Stop serving the history, which may be out of date from now on, and drop what is on its way into it.

        The status of the owner is forgotten as well. Call this when the topic has neither clients nor an owner, and
        before it is forgotten.
        """
        self.audience.serving = False
        self._intake.drop()
        self.status = Status("live", None, now_us())

    def retire(self) -> None:
        """Take no further result, because another live topic takes this one's place; its clients are moved to that."""
        self.audience.serving = False
        self._intake.drop()

    def end_followers(self) -> None:
        """End every follower and event stream, because the topic's results have become void."""
        for listener in self.listeners:
            listener.end()

    def _step(self, entry: Entry | None) -> None:
        if entry is not None and entry.change is not None:
            self.audience.step(entry)
        if not self.audience.serving:
            self.audience.serve()
        if self.followers or self.streams is not None:
            self.wake_followers()

    def wake_followers(self) -> None:
        """Make every follower and event stream look for what is new, now or soon."""
        if self.streams is not None:
            self.streams.wake()
        if self.followers:
            self._wakes.wake_all()


def _wake_each(followers: Iterable[TopicListener]) -> None:
    for follower in followers:
        follower.wake()
