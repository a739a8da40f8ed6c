"""The topics of this gateway: their clients on one side, their owners on the other.

The hub brings together the clients, which enter and leave topics; demand, which is in etcd as long as a topic has a
client; the owners that etcd shows; and the feeds from these owners. It lives as long as the gateway. While etcd is
unreachable, owners and streams stay as they were last known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pollcast.gateway.attachments import Known
from pollcast.gateway.change import Change
from pollcast.gateway.cohorts import Traffic
from pollcast.gateway.feed_updates import Piece, Update
from pollcast.gateway.feeds import Feeds
from pollcast.gateway.offload import INLINE, Offload
from pollcast.gateway.presence import Presences
from pollcast.gateway.retained import Retained
from pollcast.gateway.status import Status
from pollcast.gateway.topic import RETAIN_SECONDS, UNREACHED_SECONDS, LiveTopic
from pollcast.gateway.wakes import TopicListener
from pollcast.services.catalogue.topics import Topic
from pollcast.services.clock import now_us
from pollcast.services.process import logs
from pollcast.services.process.addresses import HostPort
from pollcast.services.process.settings import GatewaySettings

log = logs.get_logger("hub")

UNSERVED = "no poller has this gateway's definition of the query: their catalogues differ"
"""Reason of a stale topic whose query no poller has, or only by another definition."""

RENEWED = "the query has changed: there is no result of its new definition yet"
"""Reason of a stale topic that failed by the former definition of its query."""

OnBrokenLink = Callable[[HostPort], None]
"""Notices that the stream to the poller at that address has broken; must not block."""


class DemandSink(Protocol):
    """The part of `pollcast.gateway.demand.Demand` that the hub uses; its methods must not block."""

    def want(self, topic: str) -> None:
        """Show demand for the canonical topic."""

    def unwant(self, topic: str) -> None:
        """Withdraw the demand for the canonical topic."""


class Owner:
    """The poller that owns a topic, as etcd shows it. `grpc` is the address of its feed."""

    __slots__ = ("epoch", "grpc", "node")

    def __init__(self, node: str, grpc: HostPort, epoch: int) -> None:
        self.node = node
        self.grpc = grpc
        self.epoch = epoch


class Hub:
    """The live topics of a gateway. No method blocks; times are monotonic seconds.

    `owners` holds the owner of each topic that is kept here and has one, by canonical topic. Set `coordination_reached`
    to whether etcd answers now: the reason of a stale topic depends on it.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        demand: DemandSink,
        presences: Presences,
        on_broken_link: OnBrokenLink,
        offload: Offload = INLINE,
        on_touched: Callable[[str], None] = lambda topic: None,
        on_kept: Callable[[str, bool], None] = lambda topic, kept: None,
        definition: Callable[[str], str] = lambda query: "",
    ) -> None:
        """Make a hub without topics. `definition` returns that of the query of this name (empty: any).

        `on_touched` receives a topic whose clients or state may have changed, `on_kept` one that is kept now (True) or
        no more. Neither may block.
        """
        self.topics: dict[str, LiveTopic] = {}
        self.owners: dict[str, Owner] = {}
        self.feeds = Feeds(settings, self.on_update, self.on_link, self._known)
        self.stale_updates = 0  # dropped by the fence, ever
        self.traffic = Traffic()
        self.retained = Retained()
        self.coordination_reached = True
        self._on_touched = on_touched
        self._on_kept = on_kept
        self._definition = definition
        self._unserved: frozenset[str] = frozenset()  # queries that no poller has by the present definition
        self.offload = offload
        self._demand = demand
        self._presences = presences
        self._timed: dict[str, None] = {}  # every topic without clients or unreached, and some that were before
        self._on_broken_link = on_broken_link

    # --- clients ----------------------------------------------------------------------------------------------

    def enter(self, topic: Topic, now: float) -> LiveTopic:
        """Return the live topic for a client that is about to join it. Match every call by a call of `leave`."""
        self._on_touched(topic.canonical)
        live = self.topics.get(topic.canonical)
        if live is None:
            live = self._add(topic, now)
            self._on_kept(topic.canonical, True)
            self._demand.want(topic.canonical)
        elif live.idle_since is not None:
            live.idle_since = None
            self.retained.discard(topic.canonical)
            if live.unreached_since is not None:
                live.unreached_since = now
            self._demand.want(topic.canonical)
        if topic.query.presence:
            live.presence = self._presences.of(topic, live.audience)
        return live

    def replace(self, live: LiveTopic, topic: Topic | None, now: float) -> LiveTopic | None:
        """Retire a topic whose query has another definition now. Return the live topic in its place, without clients.

        `topic` is the same canonical one by the new definition, None when it is not valid any more. Nothing takes the
        place of a topic that is not valid or has no clients, and None is returned. Move the clients, and then call
        `leave` for the returned topic.
        """
        canonical = live.topic.canonical
        before = live.status
        live.retire()
        if topic is None or live.idle_since is not None:
            if live.idle_since is None:
                self._demand.unwant(canonical)
            self._remove(live)
            return None
        self._detach(live)
        successor = self._add(topic, now)
        successor.fence = live.fence
        if before.state == "failed":
            successor.status = Status("stale", RENEWED, now_us())
        elif topic.query.name not in self._unserved:
            successor.status = before
        owner = self.owners.get(canonical)
        if owner is not None:
            self._follow(successor, owner, now)
        self._on_touched(canonical)
        return successor

    def set_unserved(self, queries: frozenset[str]) -> None:
        """Set the queries that no poller has by this gateway's definition; their topics without an owner are stale."""
        came, self._unserved = queries - self._unserved, queries
        for canonical, live in self.topics.items():
            if live.topic.query.name in came and canonical not in self.owners and live.idle_since is None:
                self._take_status(live, Status("stale", UNSERVED, now_us()))

    def check_spelling(self, topic: Topic, spelling: bytes) -> None:
        """Raise InvalidParams when a channel may not join the topic by this spelling, a JSON string."""
        live = self.topics.get(topic.canonical)
        if live is not None:
            live.spellings.check(spelling)

    def leave(self, live: LiveTopic, now: float) -> None:
        """Withdraw demand if the client that has just left the topic was its last one."""
        self._on_touched(live.topic.canonical)
        if live.clients or live.idle_since is not None or self.topics.get(live.topic.canonical) is not live:
            return
        live.idle_since = now
        self._timed[live.topic.canonical] = None
        self._demand.unwant(live.topic.canonical)
        if live.topic.canonical not in self.owners:
            self._detach(live)
            live.set_aside()
        self._retain(live)

    # --- etcd -------------------------------------------------------------------------------------------------

    def on_owner(self, topic: str, owner: Owner | None, now: float) -> None:
        """Follow the canonical topic's new owner; None means no owner. A topic that is not kept here is ignored."""
        live = self.topics.get(topic)
        if live is None:
            return
        self.owners.pop(topic, None)
        if owner is not None:
            self.owners[topic] = owner
            self._follow(live, owner, now)
            return
        # The feed stays: an owner that is cut off from etcd loses its key, and goes on polling until it is replaced.
        if live.unreached_since is None:
            live.unreached_since = now
            self._timed[topic] = None
        if live.idle_since is not None:
            self._detach(live)
            live.set_aside()
        elif live.topic.query.name in self._unserved:
            self._take_status(live, Status("stale", UNSERVED, now_us()))

    def reset(self) -> None:
        """Forget every topic and owner, because etcd lost its data and versions start over. Close the sockets first."""
        self.owners.clear()
        for canonical, live in self.topics.items():
            self._detach(live)
            self._demand.unwant(canonical)
            self._on_kept(canonical, False)
            live.set_aside()
            live.end_followers()
            self.retained.discard(canonical)
        self.topics.clear()

    # --- owners -----------------------------------------------------------------------------------------------

    def on_update(self, address: HostPort, update: Update) -> LiveTopic | None:
        """Pass an update on to its topic, unless a past owner sent it; return the topic, None if it was dropped."""
        live = self.topics.get(update.topic)
        if live is None:
            return None
        if not live.admits(update.version.epoch):
            self.stale_updates += 1
            return None
        live.unreached_since = None
        try:
            self._apply(live, update)
        except LookupError as error:
            log.info("attaching again", topic=update.topic, detail=str(error))
            live.assembly.drop()
            self.feeds.attach(update.topic, address)
            return None
        if live.idle_since is not None:
            self._retain(live)
        return live

    def _apply(self, live: LiveTopic, update: Update) -> None:
        """Apply an update to its topic. Raises LookupError when it does not follow what the topic has received."""
        version, body = update.version, update.body
        if isinstance(body, Change):
            live.take_delta(version, update.polled_at, body)
            if live.status.state == "stale":  # a delta proves that the topic is polled
                self._take_status(live, Status("live", None, now_us()))
        elif isinstance(body, Piece):
            rows = live.assembly.take(update.attachment, version, body.number, body.rows, body.more)
            if rows is not None:
                live.take_snapshot(version, update.polled_at, rows)
        elif isinstance(body, Status):
            self._take_status(live, body)

    def on_link(self, address: HostPort, up: bool, since: float) -> None:
        """Mark the topics of the poller at that address as reached (`up`) or as unreached (its stream has broken)."""
        if not up:
            self._on_broken_link(address)
        for canonical, live in self.topics.items():
            if live.source == address:
                if not up:
                    live.assembly.drop()
                self._set_reached(live, up and canonical in self.owners, since)

    # --- time -------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Report topics as stale that have been unreached for too long, and forget those without clients.

        Call this a few times a second. It looks only at topics that are in one of these states, or were before.
        """
        for canonical in list(self._timed):
            live = self.topics.get(canonical)
            if live is None or (live.idle_since is None and live.unreached_since is None):
                del self._timed[canonical]
            elif live.idle_since is not None:
                if now - live.idle_since > RETAIN_SECONDS:
                    self._forget(live)
            elif live.unreached_since is not None and now - live.unreached_since > UNREACHED_SECONDS:
                self._take_status(live, Status("stale", self._why_unreached(canonical), now_us()))

    def followers(self) -> list[TopicListener]:
        """Return the followers and the event streams of all topics."""
        return [listener for live in self.topics.values() for listener in live.listeners]

    # --- inside -----------------------------------------------------------------------------------------------

    def _add(self, topic: Topic, now: float) -> LiveTopic:
        """Add a live topic without a result and without an owner."""
        query = topic.query.name
        live = LiveTopic(topic, self.traffic, self.offload, self._attach_again, self._definition(query))
        self.topics[topic.canonical] = live
        live.unreached_since = now
        self._timed[topic.canonical] = None
        if query in self._unserved and topic.canonical not in self.owners:
            live.status = Status("stale", UNSERVED, now_us())
        return live

    def _retain(self, live: LiveTopic) -> None:
        """Keep a topic without clients within the budget, for which others or the topic itself may be forgotten."""
        for canonical in self.retained.put(live.topic.canonical, live.history.size):
            self._forget(self.topics[canonical])

    def _forget(self, live: LiveTopic) -> None:
        live.set_aside()
        self._remove(live)

    def _remove(self, live: LiveTopic) -> None:
        self._detach(live)
        canonical = live.topic.canonical
        self.retained.forget(canonical)
        del self.topics[canonical]
        self.owners.pop(canonical, None)
        self._on_kept(canonical, False)

    def _follow(self, live: LiveTopic, owner: Owner, now: float) -> None:
        live.fence = max(live.fence, owner.epoch)
        # An attachment lasts for every epoch of its poller; attaching again would abandon the snapshot that is coming.
        # But a topic that was reported as stale, for want of an owner, needs the owner's status.
        if live.source != owner.grpc:
            self._detach(live)
            live.source = owner.grpc
            self.feeds.attach(live.topic.canonical, owner.grpc)
        elif live.status.state == "stale":
            self.feeds.attach(live.topic.canonical, owner.grpc)
        self._set_reached(live, self.feeds.is_up(owner.grpc), now)

    def _take_status(self, live: LiveTopic, status: Status) -> None:
        if status.state != live.status.state:
            self._on_touched(live.topic.canonical)
        live.take_status(status)

    def _attach_again(self, live: LiveTopic) -> None:
        """Get the present result of a topic again, because updates had to be dropped."""
        if live.source is not None:
            log.info("attaching again", topic=live.topic.canonical, detail="a large result took too long")
            live.assembly.drop()
            self.feeds.attach(live.topic.canonical, live.source)

    def _detach(self, live: LiveTopic) -> None:
        if live.source is not None:
            self.feeds.detach(live.topic.canonical, live.source)
            live.source = None
            live.assembly.drop()

    def _set_reached(self, live: LiveTopic, up: bool, now: float) -> None:
        """Start or stop the time without a stream.

        A topic that was reported as stale stays so until its owner, to which it is now attached, sends its status.
        """
        if up:
            live.unreached_since = None
        elif live.unreached_since is None:
            live.unreached_since = now
            self._timed[live.topic.canonical] = None

    def _why_unreached(self, canonical: str) -> str:
        if canonical in self.owners:
            return "the poller that owns this topic is not reached"
        if not self.coordination_reached:
            return "no poller owns this topic, and coordination (etcd) is not reached"
        if canonical.partition("?")[0] in self._unserved:
            return UNSERVED
        return "no poller owns this topic yet"

    def _known(self, topic: str) -> Known:
        live = self.topics.get(topic)
        if live is None:
            return Known()
        present = live.history.present
        return Known(None if present is None else present.version, live.definition)
