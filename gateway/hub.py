"""The topics of this gateway, and what etcd and the owners say of them.

The hub brings together: clients, who enter and leave topics; demand, which is in etcd as long as a topic has a client;
the owners as etcd tells them; and the feeds from these. It lives as long as the gateway. etcd out of reach changes
nothing here: owners and streams stay as they were last known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, cast

from pollcast.gateway.audience import Traffic
from pollcast.gateway.feeds import Feeds
from pollcast.gateway.presence import Presences
from pollcast.gateway.status import State, Status
from pollcast.gateway.topic import RETAIN_SECONDS, UNREACHED_SECONDS, LiveTopic
from pollcast.gateway.version import Version
from pollcast.services.catalogue.topics import Topic
from pollcast.services.clock import now_us
from pollcast.services.delta import Delta
from pollcast.services.process import logs, tracing
from pollcast.services.process.settings import GatewaySettings, HostPort
from pollcast.v1 import feed_pb2

log = logs.get_logger("hub")


class DemandSink(Protocol):
    """What the hub needs of pollcast.gateway.demand: both return at once."""

    def want(self, topic: str) -> None: ...

    def unwant(self, topic: str) -> None: ...


class Owner:
    """Who polls a topic, as etcd tells it."""

    __slots__ = ("epoch", "grpc", "node")

    def __init__(self, node: str, grpc: HostPort, epoch: int) -> None:
        self.node = node
        self.grpc = grpc
        self.epoch = epoch


class Hub:
    """See the module. All methods return at once; times are monotonic seconds."""

    def __init__(self, settings: GatewaySettings, demand: DemandSink, presences: Presences) -> None:
        self.topics: dict[str, LiveTopic] = {}
        self.owners: dict[str, Owner] = {}
        self.feeds = Feeds(settings, self.on_update, self.on_link, self._have)
        self.stale_updates = 0  # dropped by the fence, ever
        self.traffic = Traffic()
        self.coordination_reached = True
        self.on_broken_link: Callable[[HostPort], None] = lambda _: None  # told the address of the poller
        self.on_owned: Callable[[str, Owner | None, float], None] = lambda *_: None  # told what on_owner is told
        self._demand = demand
        self._presences = presences

    # --- clients ----------------------------------------------------------------------------------------------

    def enter(self, topic: Topic, now: float) -> LiveTopic:
        """The live topic, for somebody who is about to join it; every call is matched by one of `leave`."""
        live = self.topics.get(topic.canonical)
        if live is None:
            live = self.topics[topic.canonical] = LiveTopic(topic, self.traffic)
            live.unreached_since = now
            owner = self.owners.get(topic.canonical)
            if owner is not None:
                self._follow(live, owner, now)
            self._demand.want(topic.canonical)
        elif live.idle_since is not None:
            live.idle_since = None
            if live.unreached_since is not None:
                live.unreached_since = now
            self._demand.want(topic.canonical)
        if topic.query.presence:
            live.presence = self._presences.of(topic)
            live.presence.audience = live.audience
        return live

    def leave(self, live: LiveTopic, now: float) -> None:
        """Somebody is no longer on the topic. When it was the last one, demand ends at once."""
        if live.clients or live.idle_since is not None or self.topics.get(live.topic.canonical) is not live:
            return
        live.idle_since = now
        self._demand.unwant(live.topic.canonical)
        if live.topic.canonical not in self.owners:
            self._detach(live)
            self._set_aside(live)

    # --- etcd -------------------------------------------------------------------------------------------------

    def on_owner(self, topic: str, owner: Owner | None, now: float) -> None:
        """The topic has another owner, or none."""
        self.on_owned(topic, owner, now)
        self.owners.pop(topic, None)
        if owner is not None:
            self.owners[topic] = owner
        live = self.topics.get(topic)
        if live is None:
            return
        if owner is not None:
            self._follow(live, owner, now)
            return
        # The feed stays: an owner that is cut off from etcd loses its key, and goes on polling until it is replaced.
        if live.unreached_since is None:
            live.unreached_since = now
        if live.idle_since is not None:
            self._detach(live)
            self._set_aside(live)

    def reset(self) -> None:
        """etcd lost its data: what is known belongs to another cluster. Call after the sockets are told to go."""
        self.owners.clear()
        for canonical, live in self.topics.items():
            self._detach(live)
            self._demand.unwant(canonical)
            for follower in live.followers:
                follower.end()
        self.topics.clear()

    # --- owners -----------------------------------------------------------------------------------------------

    def on_update(self, address: HostPort, update: feed_pb2.FeedUpdate) -> None:
        """An update of an owner, which may be one of the past."""
        live = self.topics.get(update.topic)
        if live is None:
            return
        if not live.admits(update.epoch):
            self.stale_updates += 1
            return
        live.unreached_since = None
        received = now_us() if tracing.on else 0
        version = Version(update.epoch, update.seq)
        body = update.WhichOneof("body")
        if body == "delta":
            sent = update.delta
            delta = Delta(list(sent.deletes), [(u.at, u.key, u.row) for u in sent.upserts])
            try:
                live.take_delta(version, update.polled_at, delta)
                live.delta_age.observe((now_us() - update.polled_at) / 1e6)
                if live.status.state == "stale":  # it is polled, whatever was said
                    live.take_status(Status("live", None, now_us()))
            except LookupError as error:
                log.info("attaching anew", topic=update.topic, detail=str(error))
                live.drop_pieces()
                self.feeds.attach(update.topic, address)
        elif body == "snapshot":
            rows = [(row.key, row.row) for row in update.snapshot.rows]
            live.take_piece(version, update.polled_at, rows, update.snapshot.more)
        elif body == "status":
            live.take_status(_status(update.status))
        if tracing.on and body == "delta":
            query = live.topic.query.name
            tracing.pushed(query, update.topic, update.epoch, update.seq, (received, now_us()), live.clients)

    def on_link(self, address: HostPort, up: bool) -> None:
        """The stream to a poller stands, or has broken."""
        now = time.monotonic()
        if not up:
            self.on_broken_link(address)
        for canonical, live in self.topics.items():
            if live.source == address:
                self._reached(live, up and canonical in self.owners, now)

    # --- time -------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Call a few times a second: says stale what has been unreached for too long, forgets what nobody wants."""
        for canonical, live in list(self.topics.items()):
            if live.idle_since is not None:
                if now - live.idle_since > RETAIN_SECONDS:
                    self._detach(live)
                    del self.topics[canonical]
            elif live.unreached_since is not None and now - live.unreached_since > UNREACHED_SECONDS:
                live.take_status(Status("stale", self._why_unreached(canonical), now_us()))

    # --- inside -----------------------------------------------------------------------------------------------

    def _follow(self, live: LiveTopic, owner: Owner, now: float) -> None:
        live.fence = max(live.fence, owner.epoch)
        live.drop_pieces()
        if live.source != owner.grpc:
            self._detach(live)
        live.source = owner.grpc
        self.feeds.attach(live.topic.canonical, owner.grpc)
        self._reached(live, self.feeds.is_up(owner.grpc), now)

    def _detach(self, live: LiveTopic) -> None:
        if live.source is not None:
            self.feeds.detach(live.topic.canonical, live.source)
            live.source = None

    def _reached(self, live: LiveTopic, up: bool, now: float) -> None:
        """What was told as stale for that reason stays so until the owner says how it is, on attachment."""
        if up:
            live.drop_pieces()
            live.unreached_since = None
        elif live.unreached_since is None:
            live.unreached_since = now

    def _set_aside(self, live: LiveTopic) -> None:
        """Nobody polls it and nobody watches it: what is here gets old."""
        live.doubt()
        live.status = Status("live", None, now_us())

    def _why_unreached(self, canonical: str) -> str:
        if canonical in self.owners:
            return "the poller that owns this topic is not reached"
        if not self.coordination_reached:
            return "no poller owns this topic, and coordination (etcd) is not reached"
        return "no poller owns this topic yet"

    def _have(self, topic: str) -> Version | None:
        live = self.topics.get(topic)
        return live.history.present.version if live is not None and live.history.present is not None else None


def _status(status: feed_pb2.FeedStatus) -> Status:
    state = cast(State, status.state)
    return Status(state, None if state == "live" else status.reason, status.since or now_us())
