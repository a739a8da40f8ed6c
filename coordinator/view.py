"""The cluster as etcd and the nodes' reports show it: a pure core. Times are arguments, in seconds of one clock.

`View` takes in the events of the mirror of the namespace (`changed`) and the nodes' reports (`reported`), and returns
which nodes and topics have changed. coordinator/cluster.py serves it, coordinator/audit.py audits it. What a node has
reported counts until the node's entry is gone. Every count over topics is in `tally`, which each change updates, so
that no event, report or audit costs a pass over all topics. A node that goes takes thousands of reported topics with
it: they are forgotten SLICE at a time, the first of them with the event, the others by `forget_more`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pollcast.coordinator.leases import Leases
from pollcast.coordinator.query_rates import QueryRates
from pollcast.coordinator.tally import Tally
from pollcast.coordinator.topicview import OwnerView, TopicView
from pollcast.services.coordination.keys import (
    CatalogueRecord,
    DemandRecord,
    Keys,
    NodeRecord,
    OwnerRecord,
    PinRecord,
    PresenceRecord,
    Record,
)
from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.services.process.settings import Role
from pollcast.v1 import cluster_pb2, report_pb2

UNFAIR = 1.25
"""Maximum number of topics of one poller, as a multiple of the mean."""

MIN_TOPICS_TO_WEIGH = 50
"""Minimum number of topics for which the load is weighed: with fewer, chance decides who owns how many."""

SLICE = 250
"""Maximum number of reported topics that are forgotten at once."""

R = TypeVar("R", bound=Record)

NodeName = tuple[Role, str]
"""The role and the name of a node."""


@dataclass(slots=True)
class ViewChanges:
    """The names of the nodes and topics that have changed. Any of them may be gone."""

    nodes: set[NodeName] = field(default_factory=set)
    topics: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node with an entry in etcd. `since` is the time of the last change of its state or its lease."""

    record: NodeRecord
    lease: int
    since: float


@dataclass(frozen=True, slots=True)
class Reported:
    """A node's last report and the time `at` which it arrived. `ahead` is how far the node's clock is ahead of this
    coordinator's, in seconds, plus or minus `unsure`."""

    report: report_pb2.NodeReport
    at: float
    ahead: float = 0.0
    unsure: float = 0.0


class View:
    """The nodes, topics, reports and leases of one namespace. The attributes are for reading."""

    def __init__(self, keys: Keys) -> None:
        self.nodes: dict[NodeName, NodeView] = {}
        self.topics: dict[str, TopicView] = {}
        self.tally = Tally()
        self.reports: dict[NodeName, Reported] = {}
        self.query_rates = QueryRates()
        self.leases = Leases()
        self.foreign: dict[str, str] = {}  # unknown or garbled keys, with the reason
        self.clear_since = 0.0  # the time since which the mirror follows etcd
        self.unfair_since: float | None = None
        self._keys = keys
        self._reported: dict[NodeName, set[str]] = {}  # the topics that each node has reported
        self._unconfirmed: dict[NodeName, set[str]] = {}  # those that it has not repeated since its stream began
        self._to_forget: deque[tuple[NodeName, set[str]]] = deque()  # former reports of topics that are still counted

    # --- input ------------------------------------------------------------------------------------------------

    def changed(self, events: Iterable[KeyEvent], now: float) -> ViewChanges:
        """Take in events of the mirror of the whole namespace."""
        changes = ViewChanges()
        for event in events:
            self.leases.changed(event, now)
            self._apply(event, now, changes)
        self._forget(changes)
        return changes

    def reported(self, name: NodeName, reported: Reported) -> ViewChanges:
        """Take in a node's report. A report of a node without an entry in etcd is ignored, and so is one that continues
        a report that was ignored or forgotten."""
        changes = ViewChanges()
        if name not in self.nodes or (reported.report.partial and name not in self.reports):
            return changes
        role, node = name
        report = reported.report
        if [*self.sources(name)] != [*report.sources]:
            changes.nodes.add(name)
        self.reports[name] = reported
        if not report.partial:
            self._unconfirmed[name] = set(self._reported.get(name, ()))
        if role == "gateway":
            self._watched(node, reported, changes)
        else:
            self._polled(node, reported, changes)
        for topic in report.gone:
            self._reported.get(name, set()).discard(topic)
            self._unreport(name, topic, changes)
        if not report.more:
            self._give_up(name, self._unconfirmed.pop(name, set()))
        self._forget(changes)
        if role == "poller":
            self.query_rates.report(node, report.counts, reported.at)
            self._weigh(reported.at)
        return changes

    @property
    def forgets(self) -> bool:
        """Whether `forget_more` has something to do."""
        return bool(self._to_forget)

    def forget_more(self) -> ViewChanges:
        """Forget the next SLICE topics of nodes that have gone or have not repeated them."""
        changes = ViewChanges()
        self._forget(changes)
        return changes

    def cleared(self, now: float) -> None:
        """Note that the mirror follows etcd again, so that the audit does not count the time of the outage."""
        self.clear_since = now

    # --- queries ----------------------------------------------------------------------------------------------

    def knows(self, query: str) -> bool:
        """Return whether a node has the query in its catalogue, or a topic of it is listed."""
        return query in self.tally.queries or any(query in each.report.queries for each in self.reports.values())

    def is_known(self, key: str) -> bool:
        """Return whether Pollcast writes keys of this form."""
        keys = self._keys
        parsers = (keys.parse_node, keys.parse_demand, keys.parse_owner, keys.parse_pin, keys.parse_presence)
        return (
            key == keys.leader
            or keys.parse_catalogue(key) is not None
            or key.startswith(f"{keys.namespace}/drains/")
            or any(parser(key) is not None for parser in parsers)
        )

    def sources(self, name: NodeName) -> Sequence[cluster_pb2.NodeSource]:
        """Return the databases of a poller, as it has reported them."""
        reported = self.reports.get(name)
        return () if reported is None else reported.report.sources

    def ready_pollers(self) -> dict[str, NodeView]:
        """Return the pollers in the state `ready`, by name."""
        return {
            node: view for (role, node), view in self.nodes.items() if role == "poller" and view.record.state == "ready"
        }

    def loads(self) -> Counter[str]:
        """Count the topics of each ready poller, without those that are pinned to it."""
        return Counter({poller: self.tally.unpinned[poller] for poller in self.ready_pollers()})

    # --- etcd -------------------------------------------------------------------------------------------------

    def _apply(self, event: KeyEvent, now: float, changes: ViewChanges) -> None:
        key, keys = event.kv.key, self._keys
        self.foreign.pop(key, None)
        if (node := keys.parse_node(key)) is not None:
            self._node(node, _read(event, NodeRecord), event.kv, now, changes)
        elif (demand := keys.parse_demand(key)) is not None:
            self._demand(*demand, _read(event, DemandRecord) is not None, now, changes)
        elif (owned := keys.parse_owner(key)) is not None:
            record = _read(event, OwnerRecord)
            owner = OwnerView(record.node, event.kv.mod_revision) if record is not None else None
            self._owner(owned, owner, now, changes)
        elif (pinned := keys.parse_pin(key)) is not None:
            self._pin(pinned, event, now)
        elif not event.deleted and not self.is_known(key):
            self.foreign[key] = "is not a key of Pollcast"
            return
        if not event.deleted and (fault := self._fault(event.kv)) is not None:
            self.foreign[key] = fault

    def _fault(self, kv: Kv) -> str | None:
        """Return what is wrong with the value, or None."""
        keys = self._keys
        kinds: tuple[tuple[object, type[Record]], ...] = (
            (keys.parse_node(kv.key), NodeRecord),
            (keys.parse_demand(kv.key), DemandRecord),
            (keys.parse_owner(kv.key), OwnerRecord),
            (keys.parse_presence(kv.key), PresenceRecord),
            (keys.parse_catalogue(kv.key), CatalogueRecord),
        )
        kind = next((kind for parsed, kind in kinds if parsed is not None), None)
        if kind is None:
            return None
        try:
            kind.decode(kv.value)
        except ValueError as error:
            return f"is garbled: {error}"
        return None

    def _node(self, name: NodeName, record: NodeRecord | None, kv: Kv, now: float, changes: ViewChanges) -> None:
        before = self.nodes.pop(name, None)
        if before is not None:
            self.leases.node_went(before.lease, now)
        if record is not None:
            same = before is not None and (before.record.state, before.lease) == (record.state, kv.lease)
            self.nodes[name] = NodeView(record, kv.lease, before.since if same and before is not None else now)
            self.leases.node_came(kv.lease)
        if before is not None and (record is None or before.record.pid != record.pid):
            self.reports.pop(name, None)
            self._unconfirmed.pop(name, None)
            self._give_up(name, self._reported.get(name, set()))
            if name[0] == "poller":
                self.query_rates.forget(name[1])
        changes.nodes.add(name)

    def _demand(self, topic: str, gateway: str, wanted: bool, now: float, changes: ViewChanges) -> None:
        view = self._topic(topic, now)
        if wanted != (gateway in view.gateways):
            self.tally.count_demand(gateway, 1 if wanted else -1)
        view.set_demand(gateway, wanted, now)
        changes.topics.add(topic)
        self._settle(view)

    def _owner(self, topic: str, owner: OwnerView | None, now: float, changes: ViewChanges) -> None:
        view = self._topic(topic, now)
        view.set_owner(owner, now)
        changes.topics.add(topic)
        self._settle(view)

    def _pin(self, topic: str, event: KeyEvent, now: float) -> None:
        view = self._topic(topic, now)
        record = _read(event, PinRecord)
        view.pin = record.node if record is not None else ""
        self._settle(view)

    def _topic(self, topic: str, now: float) -> TopicView:
        view = self.topics.get(topic)
        if view is None:
            view = self.topics[topic] = TopicView(topic, now)
        return view

    def _settle(self, view: TopicView) -> None:
        """Count a topic that has changed, and drop it when nothing is left of it."""
        self.tally.count(view)
        if not (view.listed or view.watched or view.polled or view.pin):
            self.topics.pop(view.name, None)

    def _weigh(self, now: float) -> None:
        """Note the time since which one poller owns more than its share."""
        loads = self.loads()
        total = sum(loads.values())
        unfair = len(loads) > 1 and total >= MIN_TOPICS_TO_WEIGH and max(loads.values()) * len(loads) > UNFAIR * total
        self.unfair_since = (now if self.unfair_since is None else self.unfair_since) if unfair else None

    # --- reports ----------------------------------------------------------------------------------------------

    def _watched(self, gateway: str, reported: Reported, changes: ViewChanges) -> None:
        name: NodeName = ("gateway", gateway)
        for watched in reported.report.watched:
            view = self._topic(watched.topic, reported.at)
            self._confirm(name, view.name)
            if view.watched.get(gateway) != watched:
                view.watched[gateway] = watched
                changes.topics.add(view.name)
                self._settle(view)

    def _polled(self, poller: str, reported: Reported, changes: ViewChanges) -> None:
        name: NodeName = ("poller", poller)
        for polled in reported.report.polled:
            view = self._topic(polled.topic, reported.at)
            self._confirm(name, view.name)
            view.add_poll_report(poller, polled, reported.at, reported.report.now)
            changes.topics.add(view.name)
            self._settle(view)

    def _confirm(self, name: NodeName, topic: str) -> None:
        self._reported.setdefault(name, set()).add(topic)
        if (unconfirmed := self._unconfirmed.get(name)) is not None:
            unconfirmed.discard(topic)

    def _give_up(self, name: NodeName, topics: set[str]) -> None:
        """Have a node's reports of these topics forgotten, but for those that it reports again before their turn."""
        if not topics:
            return
        reported = self._reported.pop(name, set())
        if topics is not reported and (rest := reported - topics):
            self._reported[name] = rest
        self._to_forget.append((name, topics))

    def _forget(self, changes: ViewChanges) -> None:
        for _ in range(SLICE):
            if not self._to_forget:
                return
            name, topics = self._to_forget[0]
            topic = topics.pop()
            if not topics:
                self._to_forget.popleft()
            if topic not in self._reported.get(name, ()):
                self._unreport(name, topic, changes)

    def _unreport(self, name: NodeName, topic: str, changes: ViewChanges) -> None:
        role, node = name
        view = self.topics.get(topic)
        if view is not None:
            (view.watched if role == "gateway" else view.polled).pop(node, None)
            changes.topics.add(topic)
            self._settle(view)


def _read(event: KeyEvent, kind: type[R]) -> R | None:
    """Decode the value of a put. Return None for a delete, a key without a lease, and a garbled value."""
    if event.deleted or not event.kv.lease:
        return None
    try:
        return kind.decode(event.kv.value)
    except ValueError:
        return None
