"""The auditor: what in the cluster breaks a guarantee. A pure function of the view and the time.

`audit(view, now)` is what the leading coordinator runs every second and what tests ask at their end. A finding is named
after the clause of CONTRACT.md that it breaks. What may pass by itself is a finding only once it has lasted longer than
it may. Only what is provably nobody's is repaired: keys that hang on no lease, or on one that is no node's. Whoever is
alive after all puts back what is theirs, so that a wrong verdict costs a hand-over, never correctness.
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
    "orphaned",  # demand, and nobody polls
    "doubled",  # two pollers poll the same topic
    "unheard",  # the owner polls, and no gateway listens
    "idle",  # an owner goes on without demand
    "abandoned",  # keys that are nobody's
    "unfair",  # one poller has more than its share
    "silent",  # a node holds a lease and does not answer
    "clock",  # a node's clock differs from ours
    "version",  # nodes run different versions
    "foreign",  # a key that says nothing
]

BREAKS: dict[Kind, str] = {
    "orphaned": "§9.3",
    "doubled": "§9.1",
    "unheard": "§9.2",
    "idle": "§9.4",
    "abandoned": "§9.4",
    "unfair": "§9.3",
    "silent": "§9.3",
    "clock": "§4 polled_at",
    "version": "§7 nodes",
    "foreign": "§7",
}
"""The clause of CONTRACT.md that each kind breaks."""

ORPHANED_SECONDS = 3.0
"""A free topic is claimed within a second; then there is time to lose a claim or two."""

OVERLAP_SECONDS = 1.5
"""For which two pollers may have polled the same topic: until the one learns of the other."""

UNHEARD_SECONDS = 5.0
IDLE_SECONDS = 2.0
"""Beyond the linger."""

NOBODYS_SECONDS = 10.0
"""For which keys may hang on a lease without a node: one that registers writes other keys first."""

LEASELESS_SECONDS = 2.0
"""For which a key without a lease may stand: whose it is overwrites it within a second."""

UNFAIR_SECONDS = 10.0
SILENT_SECONDS = 10.0
CLOCK_SECONDS = 1.0
"""A node's clock may be so far from ours."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind` and `subject` (a topic, a node, a key, a lease) tell findings apart; `detail` is for people. `abandoned`
    holds the keys to delete, each with the mod_revision under which it is nobody's; at most a few."""

    kind: Kind
    subject: str
    detail: str = field(compare=False)
    abandoned: tuple[tuple[str, int], ...] = field(default=(), compare=False)

    @property
    def breaks(self) -> str:
        return BREAKS[self.kind]

    def __str__(self) -> str:
        return f"{self.kind} ({self.breaks}): {self.subject}: {self.detail}"


def audit(view: View, now: float) -> list[Finding]:
    """Everything that is wrong now. Call it while the view follows etcd only."""
    findings = list(_keys(view, now))
    for topic in view.topics.values():
        findings.extend(_topic(view, topic, now))
    findings.extend(_nodes(view, now))
    findings.extend(_load(view, now))
    return findings


def _topic(view: View, topic: TopicView, now: float) -> Iterator[Finding]:
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
            yield Finding("unheard", topic.name, f"{owner.node} polls it, and none of {gateways} listens")
    if len(topic.polled) > 1:
        yield from _doubled(view, topic)


def _doubled(view: View, topic: TopicView) -> Iterator[Finding]:
    """Two pollers have polled in the same time, by our clock: from when the later gained the topic to when the earlier
    polled it last."""
    spans = []
    for poller, polled in topic.polled.items():
        ahead = view.reports["poller", poller].ahead
        spans.append((polled.owned_since / 1e6 - ahead, polled.last_polled_at / 1e6 - ahead, poller))
    spans.sort()
    for (_, last, earlier), (since, later_last, later) in pairwise(spans):
        if (overlap := min(last, later_last) - since) > OVERLAP_SECONDS:
            yield Finding("doubled", topic.name, f"{earlier} and {later} both polled it for {overlap:.1f} s")


def _polls_query(view: View, query: str) -> bool:
    """Or may, for all that is known."""
    reports = [view.reports.get(("poller", poller)) for poller in view.ready_pollers()]
    return any(reported is None or query in reported.report.queries for reported in reports)


def _keys(view: View, now: float) -> Iterator[Finding]:
    for lease, since in view.leases.nobodys():
        keys = {key: revision for key, revision in view.leases.keys[lease].items() if view.is_ours(key)}
        lasted = now - max(since, view.clear_since)
        if not lease:
            for key, revision in keys.items():
                if now - max(view.leases.since(key), view.clear_since) > LEASELESS_SECONDS:
                    yield Finding("abandoned", key, "hangs on no lease, so it is nobody's", ((key, revision),))
        elif keys and lasted > NOBODYS_SECONDS:
            detail = f"{len(keys)} keys hang on it, such as {min(keys)}, and no node does"
            yield Finding("abandoned", f"lease {lease_hex(lease)}", detail, tuple(keys.items()))
    for key, why in view.foreign.items():
        yield Finding("foreign", key, why)


def _nodes(view: View, now: float) -> Iterator[Finding]:
    versions: defaultdict[str, list[str]] = defaultdict(list)
    for (role, node), entry in view.nodes.items():
        versions[entry.record.version].append(node)
        if role == "coordinator":
            continue
        reported = view.reports.get((role, node))
        heard = max(entry.since, view.clear_since, reported.at if reported is not None else 0.0)
        if now - heard > SILENT_SECONDS:
            yield Finding("silent", node, f"this {role} keeps its lease and has not answered for {now - heard:.0f} s")
        elif reported is not None and abs(reported.ahead) - reported.unsure > CLOCK_SECONDS:
            direction = "ahead of" if reported.ahead > 0 else "behind"
            at = rfc3339(reported.report.now)
            detail = f"its clock is {abs(reported.ahead):.1f} s {direction} the coordinator's: it said {at}"
            yield Finding("clock", node, detail)
    if len(versions) > 1:
        told = "; ".join(f"{version}: {', '.join(sorted(nodes))}" for version, nodes in sorted(versions.items()))
        yield Finding("version", ", ".join(sorted(versions)), told)


def _load(view: View, now: float) -> Iterator[Finding]:
    since = view.unfair_since
    if since is None or now - max(since, view.clear_since) <= UNFAIR_SECONDS:
        return
    loads = view.loads()
    most = max(loads, key=lambda node: loads[node])
    mean = sum(loads.values()) / len(loads)
    detail = f"{most} owns {loads[most]} topics, the mean is {mean:.0f}, and {UNFAIR:g} times that is allowed"
    yield Finding("unfair", most, detail)
