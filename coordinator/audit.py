"""The audit: finds what in the cluster breaks a guarantee. A pure function of the view and the time.

The leading coordinator calls `audit(view, now)` every second, and tests call it at their end. Each finding cites the
section of the manual that it breaks. A condition that may pass by itself becomes a finding only when it has lasted
longer than it may. Only keys that provably belong to no live node are repaired: keys without a lease, and keys on a
lease that is no node's. A node that is alive after all puts its keys back, so a wrong verdict costs a hand-over, never
correctness.
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
    findings = list(_keys(view, now))
    for topic in view.topics.values():
        findings.extend(_topic(view, topic, now))
    findings.extend(_nodes(view, now))
    findings.extend(_load(view, now))
    return findings


def _topic(view: View, topic: TopicView, now: float) -> Iterator[Finding]:
    """Find what is wrong with one topic."""
    lasted = now - max(topic.since, view.clear_since)
    owner, report = topic.owner, topic.report
    if topic.gateways and owner is None and lasted > ORPHANED_SECONDS:
        query = topic.name.partition("?")[0]
        why = "nobody claims it" if view.ready_pollers() else "no poller is ready"
        if view.ready_pollers() and not _polls_query(view, query):
            why = f"no poller has query {query} in its catalogue"
        yield Finding("orphaned", topic.name, f"has demand and no owner for {lasted:.1f} s: {why}")
    if owner is not None and not topic.gateways and report is not None:
        linger = report.linger_ms / 1000
        if lasted > linger + IDLE_SECONDS:
            yield Finding("idle", topic.name, f"{owner.node} owns it for {lasted:.1f} s without demand")
    if topic.unheard_since is not None and topic.gateways and owner is not None:
        unheard = now - max(topic.unheard_since, topic.since, view.clear_since)
        if unheard > UNHEARD_SECONDS:
            gateways = ", ".join(sorted(topic.gateways))
            yield Finding("unheard", topic.name, f"{owner.node} polls it, and none of {gateways} is attached")
    if len(topic.polled) > 1:
        yield from _doubled(view, topic)


def _doubled(view: View, topic: TopicView) -> Iterator[Finding]:
    """Find pollers that polled during the same time, by this coordinator's clock: from when the later one gained the
    topic to when the earlier one polled it last."""
    spans = []
    for poller, polled in topic.polled.items():
        ahead = view.reports["poller", poller].ahead
        spans.append((polled.owned_since / 1e6 - ahead, polled.last_polled_at / 1e6 - ahead, poller))
    spans.sort()
    for (_, last, earlier), (since, later_last, later) in pairwise(spans):
        if (overlap := min(last, later_last) - since) > OVERLAP_SECONDS:
            yield Finding("doubled", topic.name, f"{earlier} and {later} both polled it for {overlap:.1f} s")


def _polls_query(view: View, query: str) -> bool:
    """Return whether a ready poller has the query in its catalogue, or may have: it has not reported yet."""
    reports = [view.reports.get(("poller", poller)) for poller in view.ready_pollers()]
    return any(reported is None or query in reported.report.queries for reported in reports)


def _keys(view: View, now: float) -> Iterator[Finding]:
    """Find abandoned and foreign keys."""
    for lease, since in view.leases.without_node():
        keys = {key: revision for key, revision in view.leases.keys[lease].items() if view.is_known(key)}
        lasted = now - max(since, view.clear_since)
        if not lease:
            for key, revision in keys.items():
                if now - max(view.leases.since(key), view.clear_since) > LEASELESS_SECONDS:
                    yield Finding("abandoned", key, "has no lease, so it belongs to no live node", ((key, revision),))
        elif keys and lasted > UNCLAIMED_LEASE_SECONDS:
            detail = f"{len(keys)} keys are on it, such as {min(keys)}, and no node is"
            yield Finding("abandoned", f"lease {lease_hex(lease)}", detail, tuple(keys.items()))
    for key, why in view.foreign.items():
        yield Finding("foreign", key, why)


def _nodes(view: View, now: float) -> Iterator[Finding]:
    """Find silent nodes, wrong clocks and versions that differ."""
    versions: defaultdict[str, list[str]] = defaultdict(list)
    for (role, node), entry in view.nodes.items():
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


def _load(view: View, now: float) -> Iterator[Finding]:
    """Find a poller that owns more than its share of the topics."""
    since = view.unfair_since
    if since is None or now - max(since, view.clear_since) <= UNFAIR_SECONDS:
        return
    loads = view.loads()
    most = max(loads, key=lambda node: loads[node])
    mean = sum(loads.values()) / len(loads)
    detail = f"{most} owns {loads[most]} topics, the mean is {mean:.0f}, and {UNFAIR:g} times that is allowed"
    yield Finding("unfair", most, detail)
