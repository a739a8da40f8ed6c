"""The cluster as etcd and its nodes tell: a pure core. Times are arguments, in seconds on any one clock.

`View` is told what the mirror of the namespace shows (`changed`) and what the nodes report of themselves (`reported`),
and says which nodes and topics are not as they were. coordinator/cluster.py shows it, coordinator/audit.py judges it.
What no node has reported is not known; what one reported last counts until its entry is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from pollcast.coordinator.leases import Leases
from pollcast.coordinator.topicview import OwnerView, TopicView
from pollcast.services.coordination.keys import (
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
from pollcast.v1 import report_pb2

UNFAIR = 1.25
"""The most topics of one poller, as a multiple of the mean."""

FEWEST_TO_BE_FAIR = 50
"""Topics; with fewer, chance decides."""

R = TypeVar("R", bound=Record)

NodeName = tuple[Role, str]


@dataclass(slots=True)
class ViewChanges:
    """What is not as it was, by name. A topic or a node of these may be gone."""

    nodes: set[NodeName] = field(default_factory=set)
    topics: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node that etcd shows. `since` is when it came to be in this state, under this lease."""

    record: NodeRecord
    lease: int
    since: float


@dataclass(frozen=True, slots=True)
class Reported:
    """What a node said of itself, and when. `ahead` is how far its clock is before ours, in seconds, give or take
    `unsure`."""

    report: report_pb2.NodeReport
    at: float
    ahead: float = 0.0
    unsure: float = 0.0


class View:
    """See the module. `nodes`, `topics` and `reports` are for reading."""

    def __init__(self, keys: Keys) -> None:
        self.nodes: dict[NodeName, NodeView] = {}
        self.topics: dict[str, TopicView] = {}
        self.reports: dict[NodeName, Reported] = {}
        self.leases = Leases()
        self.foreign: dict[str, str] = {}  # keys that are none of ours or say nothing, with what is wrong
        self.clear_since = 0.0  # since when the mirror follows etcd
        self.unfair_since: float | None = None
        self._keys = keys

    # --- what is told -----------------------------------------------------------------------------------------

    def changed(self, events: Iterable[KeyEvent], now: float) -> ViewChanges:
        """What the mirror of the whole namespace shows."""
        changes = ViewChanges()
        for event in events:
            self.leases.changed(event, now)
            self._apply(event, now, changes)
        return changes

    def reported(self, name: NodeName, reported: Reported) -> ViewChanges:
        """What a node says of itself. Nothing comes of it when etcd does not show the node (any more)."""
        changes = ViewChanges()
        if name not in self.nodes:
            return changes
        before = self.reports.get(name)
        self.reports[name] = reported
        role, node = name
        if role == "gateway":
            self._watched(node, reported, before, changes)
        else:
            self._polled(node, reported, before, changes)
            self._weigh(reported.at)
        return changes

    def cleared(self, now: float) -> None:
        """The mirror follows etcd (again): what happened meanwhile took no time."""
        self.clear_since = now

    # --- what is known ----------------------------------------------------------------------------------------

    def listed(self) -> Iterator[TopicView]:
        return (topic for topic in self.topics.values() if topic.listed)

    def knows(self, query: str) -> bool:
        """Whether any node has the query in its catalogue, or any topic is of it."""
        return any(query in reported.report.queries for reported in self.reports.values()) or any(
            topic.name.partition("?")[0] == query for topic in self.listed()
        )

    def is_ours(self, key: str) -> bool:
        """Whether a key of that name is written by one of us, ever."""
        keys = self._keys
        parsers = (keys.parse_node, keys.parse_demand, keys.parse_owner, keys.parse_pin, keys.parse_presence)
        return (
            key == keys.leader
            or key.startswith(f"{keys.namespace}/drains/")
            or any(parser(key) is not None for parser in parsers)
        )

    def ready_pollers(self) -> dict[str, NodeView]:
        return {
            node: view for (role, node), view in self.nodes.items() if role == "poller" and view.record.state == "ready"
        }

    def loads(self) -> Counter[str]:
        """How many topics each ready poller owns that nobody has put there by hand."""
        loads = Counter(dict.fromkeys(self.ready_pollers(), 0))
        for topic in self.topics.values():
            if topic.owner is not None and topic.owner.node in loads and topic.pin != topic.owner.node:
                loads[topic.owner.node] += 1
        return loads

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
        elif not event.deleted and not self.is_ours(key):
            self.foreign[key] = "is none of ours"
            return
        if not event.deleted and (fault := self._fault(event.kv)) is not None:
            self.foreign[key] = fault

    def _fault(self, kv: Kv) -> str | None:
        keys = self._keys
        kinds: tuple[tuple[object, type[Record]], ...] = (
            (keys.parse_node(kv.key), NodeRecord),
            (keys.parse_demand(kv.key), DemandRecord),
            (keys.parse_owner(kv.key), OwnerRecord),
            (keys.parse_presence(kv.key), PresenceRecord),
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
            self._forget_report(name, changes)
        changes.nodes.add(name)

    def _demand(self, topic: str, gateway: str, wanted: bool, now: float, changes: ViewChanges) -> None:
        view = self._topic(topic, now)
        view.has_demand(gateway, wanted, now)
        changes.topics.add(topic)
        self._drop_if_empty(view)

    def _owner(self, topic: str, owner: OwnerView | None, now: float, changes: ViewChanges) -> None:
        view = self._topic(topic, now)
        view.has_owner(owner, now)
        changes.topics.add(topic)
        self._drop_if_empty(view)

    def _pin(self, topic: str, event: KeyEvent, now: float) -> None:
        view = self._topic(topic, now)
        record = _read(event, PinRecord)
        view.pin = record.node if record is not None else ""
        self._drop_if_empty(view)

    def _topic(self, topic: str, now: float) -> TopicView:
        view = self.topics.get(topic)
        if view is None:
            view = self.topics[topic] = TopicView(topic, now)
        return view

    def _drop_if_empty(self, view: TopicView) -> None:
        if not (view.listed or view.watched or view.polled or view.pin):
            self.topics.pop(view.name, None)

    def _weigh(self, now: float) -> None:
        """Notes since when the load is unfair."""
        loads = self.loads()
        total = sum(loads.values())
        unfair = len(loads) > 1 and total >= FEWEST_TO_BE_FAIR and max(loads.values()) * len(loads) > UNFAIR * total
        self.unfair_since = (now if self.unfair_since is None else self.unfair_since) if unfair else None

    # --- reports ----------------------------------------------------------------------------------------------

    def _watched(self, gateway: str, reported: Reported, before: Reported | None, changes: ViewChanges) -> None:
        told = {watched.topic: watched for watched in reported.report.watched}
        for name, watched in told.items():
            view = self._topic(name, reported.at)
            if view.watched.get(gateway) != watched:
                view.watched[gateway] = watched
                changes.topics.add(name)
        if before is not None:
            self._unreport("gateway", gateway, (w.topic for w in before.report.watched if w.topic not in told), changes)

    def _polled(self, poller: str, reported: Reported, before: Reported | None, changes: ViewChanges) -> None:
        seconds = reported.at - before.at if before is not None else 0.0
        told = set()
        for polled in reported.report.polled:
            told.add(polled.topic)
            view = self._topic(polled.topic, reported.at)
            view.was_polled(poller, polled, reported.at, seconds, reported.report.now)
            changes.topics.add(polled.topic)
        if before is not None:
            self._unreport("poller", poller, (p.topic for p in before.report.polled if p.topic not in told), changes)

    def _forget_report(self, name: NodeName, changes: ViewChanges) -> None:
        reported = self.reports.pop(name, None)
        if reported is not None:
            report = reported.report
            told = [*(w.topic for w in report.watched), *(p.topic for p in report.polled)]
            self._unreport(*name, told, changes)

    def _unreport(self, role: Role, node: str, topics: Iterable[str], changes: ViewChanges) -> None:
        for name in topics:
            view = self.topics.get(name)
            if view is not None:
                (view.watched if role == "gateway" else view.polled).pop(node, None)
                changes.topics.add(name)
                self._drop_if_empty(view)


def _read(event: KeyEvent, kind: type[R]) -> R | None:
    """What counts: a value as one of us writes it, on a lease."""
    if event.deleted or not event.kv.lease:
        return None
    try:
        return kind.decode(event.kv.value)
    except ValueError:
        return None
