"""The audit: finds what in the cluster breaks a guarantee. A pure function of the view and the time.

The leading coordinator audits every second, in slices (`finds`), and tests call `audit(view, now)` at their end. Only
the topics that the view's tally singles out are looked at, so an audit costs what is wrong and not what there is. Each
finding cites the section of the manual that it breaks. A condition that may pass by itself becomes a finding only when
it has lasted longer than it may. Only keys that provably belong to no live node are repaired: keys without a lease, and
keys on a lease that is no node's. A node that is alive after all puts its keys back, so a wrong verdict costs a
hand-over, never correctness.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from pollcast.coordinator.topicview import TopicView
from pollcast.coordinator.view import UNFAIR, View
from pollcast.services.clock import rfc3339
from pollcast.services.coordination.keys import lease_hex

Kind = Literal[
    "orphaned",  # a topic has demand and no owner
    "doubled",  # two pollers poll the same topic
    "unheard",  # the owner polls and no gateway receives its updates
    "idle",  # an owner goes on without demand
    "abandoned",  # keys belong to no live node
    "unfair",  # one poller owns more than its share of the topics
    "silent",  # a node keeps its lease and does not report
    "clock",  # a node's clock differs from the coordinator's
    "version",  # nodes run different versions
    "foreign",  # a key is not one of Pollcast's, or its value is garbled
]

BREAKS: dict[Kind, str] = {
    "orphaned": "docs/reference/guarantees.md#failover",
    "doubled": "docs/reference/guarantees.md#one-poll",
    "unheard": "docs/reference/guarantees.md#one-owner",
    "idle": "docs/reference/guarantees.md#cleanup",
    "abandoned": "docs/reference/guarantees.md#cleanup",
    "unfair": "docs/reference/guarantees.md#failover",
    "silent": "docs/reference/guarantees.md#failover",
    "clock": "docs/reference/channels.md#snapshot",
    "version": "docs/reference/etcd.md#nodes",
    "foreign": "docs/reference/etcd.md#keys",
}
"""The section of the manual that each kind of finding breaks."""

ORPHANED_SECONDS = 3.0
"""Time that a topic with demand may have no owner: a free topic is claimed within a second, and a claim may fail
twice."""

OVERLAP_SECONDS = 1.5
"""Time that two pollers may poll the same topic, until the former owner learns of its successor."""

UNHEARD_SECONDS = 5.0
"""Time that an owner may poll without a gateway attached while there is demand."""

IDLE_SECONDS = 2.0
"""Time beyond the linger that an owner may go on without demand."""

UNCLAIMED_LEASE_SECONDS = 10.0
"""Time that keys may be on a lease without a node's entry: a node that starts writes other keys before its entry."""

LEASELESS_SECONDS = 2.0
"""Time that a key may exist without a lease: the node that it belongs to overwrites it within a second."""

UNFAIR_SECONDS = 10.0
"""Time that a poller may own more than its share."""

SILENT_SECONDS = 10.0
"""Time that a node may keep its lease without a report."""

CLOCK_SECONDS = 1.0
"""Maximum difference between a node's clock and the coordinator's, in seconds."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken guarantee. Findings with the same `kind` and `subject` (a topic, a node, a key, a lease) are equal;
    `detail` is a text for people. `abandoned` lists the keys to delete, each with the mod_revision at which it was
    found to belong to no live node."""

    kind: Kind
    subject: str
    detail: str = field(compare=False)
    abandoned: tuple[tuple[str, int], ...] = field(default=(), compare=False)

    @property
    def breaks(self) -> str:
        """The section of the manual that this finding breaks."""
        return BREAKS[self.kind]

    def __str__(self) -> str:
        return f"{self.kind} ({self.breaks}): {self.subject}: {self.detail}"


def audit(view: View, now: float) -> list[Finding]:
    """Return every finding at loop time `now`. Call it only while the view follows etcd."""
    return [finding for finding in finds(view, now) if finding is not None]


def finds(view: View, now: float) -> Iterator[Finding | None]:
    """Yield every finding at loop time `now`, and None after each key, topic or node without one. The view may change
    between two steps: what is gone by then is left out."""
    yield from _abandoned(view, now)
    for key, why in list(view.foreign.items()):
        yield Finding("foreign", key, why)
    tally = view.tally
    for suspects, rule in (
        (tally.orphaned, _orphaned),
        (tally.idle, _idle),
        (tally.unheard, _unheard),
        (tally.doubled, _doubled),
    ):
        for name in list(suspects):
            topic = view.topics.get(name)
            yield rule(view, topic, now) if topic is not None else None
    yield from _nodes(view, now)
    yield _load(view, now)


def _orphaned(view: View, topic: TopicView, now: float) -> Finding | None:
    lasted = now - max(topic.since, view.clear_since)
    if not topic.gateways or topic.owner is not None or lasted <= ORPHANED_SECONDS:
        return None
    why = "nobody claims it"
    if not view.ready_pollers():
        why = "no poller is ready"
    elif not _polls_query(view, topic.query):
        why = f"no poller has query {topic.query} in its catalogue"
    return Finding("orphaned", topic.name, f"has demand and no owner for {lasted:.1f} s: {why}")


def _idle(view: View, topic: TopicView, now: float) -> Finding | None:
    lasted = now - max(topic.since, view.clear_since)
    if topic.owner is None or topic.gateways or topic.report is None:
        return None
    if lasted <= topic.report.linger_ms / 1000 + IDLE_SECONDS:
        return None
    return Finding("idle", topic.name, f"{topic.owner.node} owns it for {lasted:.1f} s without demand")


def _unheard(view: View, topic: TopicView, now: float) -> Finding | None:
    if topic.unheard_since is None or not topic.gateways or topic.owner is None:
        return None
    if now - max(topic.unheard_since, topic.since, view.clear_since) <= UNHEARD_SECONDS:
        return None
    gateways = ", ".join(sorted(topic.gateways))
    return Finding("unheard", topic.name, f"{topic.owner.node} polls it, and none of {gateways} is attached")


def _doubled(view: View, topic: TopicView, now: float) -> Finding | None:
    """Find pollers that polled during the same time, by this coordinator's clock: from when the later one gained the
    topic to when the earlier one polled it last."""
    spans = []
    for poller, polled in topic.polled.items():
        if (reported := view.reports.get(("poller", poller))) is None:
            continue  # it is gone, and its report of this topic is about to be forgotten
        ahead, report = reported.ahead, polled.report
        spans.append((report.owned_since / 1e6 - ahead, report.last_polled_at / 1e6 - ahead, poller))
    spans.sort()
    for (_, last, earlier), (since, later_last, later) in pairwise(spans):
        if (overlap := min(last, later_last) - since) > OVERLAP_SECONDS:
            return Finding("doubled", topic.name, f"{earlier} and {later} both polled it for {overlap:.1f} s")
    return None


def _polls_query(view: View, query: str) -> bool:
    """Return whether a ready poller has the query in its catalogue, or may have: it has not reported yet."""
    reports = [view.reports.get(("poller", poller)) for poller in view.ready_pollers()]
    return any(reported is None or query in reported.report.queries for reported in reports)


def _abandoned(view: View, now: float) -> Iterator[Finding | None]:
    """Find the keys that belong to no live node, by their lease or by the lack of one."""
    for lease, since in list(view.leases.without_node()):
        lasted = now - max(since, view.clear_since)
        if lease and lasted <= UNCLAIMED_LEASE_SECONDS:
            yield None
            continue
        known = []
        for key, revision in list(view.leases.keys.get(lease, {}).items()):
            if not view.is_known(key):
                continue
            if lease:
                known.append((key, revision))
                yield None
            elif now - max(view.leases.since(key, now), view.clear_since) > LEASELESS_SECONDS:
                yield Finding("abandoned", key, "has no lease, so it belongs to no live node", ((key, revision),))
        if known:
            detail = f"{len(known)} keys are on it, such as {min(known)[0]}, and no node is"
            yield Finding("abandoned", f"lease {lease_hex(lease)}", detail, tuple(known))


def _nodes(view: View, now: float) -> Iterator[Finding | None]:
    """Find silent nodes, wrong clocks and versions that differ."""
    versions: defaultdict[str, list[str]] = defaultdict(list)
    for (role, node), entry in list(view.nodes.items()):
        yield None
        versions[entry.record.version].append(node)
        if role == "coordinator":
            continue
        reported = view.reports.get((role, node))
        heard = max(entry.since, view.clear_since, reported.at if reported is not None else 0.0)
        if now - heard > SILENT_SECONDS:
            yield Finding("silent", node, f"this {role} keeps its lease and has not reported for {now - heard:.0f} s")
        elif reported is not None and abs(reported.ahead) - reported.unsure > CLOCK_SECONDS:
            direction = "ahead of" if reported.ahead > 0 else "behind"
            at = rfc3339(reported.report.now)
            detail = f"its clock is {abs(reported.ahead):.1f} s {direction} the coordinator's: it reported {at}"
            yield Finding("clock", node, detail)
    if len(versions) > 1:
        listed = "; ".join(f"{version}: {', '.join(sorted(nodes))}" for version, nodes in sorted(versions.items()))
        yield Finding("version", ", ".join(sorted(versions)), listed)


def _load(view: View, now: float) -> Finding | None:
    """Find a poller that owns more than its share of the topics."""
    since, loads = view.unfair_since, view.loads()
    if since is None or not loads or now - max(since, view.clear_since) <= UNFAIR_SECONDS:
        return None
    most = max(loads, key=lambda node: loads[node])
    mean = sum(loads.values()) / len(loads)
    detail = f"{most} owns {loads[most]} topics, the mean is {mean:.0f}, and {UNFAIR:g} times that is allowed"
    return Finding("unfair", most, detail)
