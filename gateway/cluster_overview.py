"""The cluster as the page shows it: `GET /api/cluster`. It is made for that page; programs should use the gRPC API.

Nodes come from a mirror of their keys, and the topics that are listed are those of this gateway, at most MAX_TOPICS.
Numbers of topics, clients and polls come from each node's metrics, which are read when a client asks, at most once in
GATHER_SECONDS whatever the number of clients. So an answer costs the same whatever the number of topics. A node that
does not answer in a second is shown without figures. With tokens required, the answer omits the parameters of topics
and the queries that the token's roles do not allow.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pollcast.gateway import node_metrics, takeovers
from pollcast.gateway.hub import Owner
from pollcast.gateway.identity import Identity
from pollcast.gateway.takeovers import Takeovers
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.clock import now_rfc3339
from pollcast.services.coordination.keys import NodeRecord
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.errors import PollcastError
from pollcast.services.ordered import Ordered
from pollcast.services.process.settings import GatewaySettings

GATHER_SECONDS = 0.9
"""Minimum time between two readings of the nodes' metrics, in seconds."""

RATE_SECONDS = 10.0
"""Maximum time between the two readings that a rate is computed from, in seconds."""

MAX_TOPICS = 300
"""Maximum number of topics that are listed."""

SOCKETS = "pollcast_gateway_sockets"
SUBSCRIPTIONS = "pollcast_gateway_subscriptions"
OWNED = "pollcast_poller_owned_topics"
RATES = {
    "polls_per_second": "pollcast_poller_polls_total",
    "statements_per_second": "pollcast_poller_statements_total",
    "unsent_per_second": "pollcast_poller_unsent_total",
    "bytes_per_second": "pollcast_poller_received_bytes_total",
    "avoided_per_second": "pollcast_poller_avoided_statements_total",
    "hinted_per_second": "pollcast_poller_hinted_polls_total",
}
"""Names of the rates of a poller, each with the metric that it is the rate of."""
METRICS = (SOCKETS, SUBSCRIPTIONS, OWNED, *RATES.values())
"""Names of the metrics that are read from each node."""


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """A node's metrics at one time, and at the time before."""

    at: float  # monotonic seconds
    totals: Mapping[str, float]
    before: NodeFigures | None

    def rate(self, name: str) -> float | None:
        """Return the increase per second; None when it is not known yet or the node has restarted in between."""
        if self.before is None or not 0 < self.at - self.before.at <= RATE_SECONDS:
            return None
        grown = self.totals[name] - self.before.totals[name]
        return grown / (self.at - self.before.at) if grown >= 0 else None


class ClusterOverview:
    """The cluster as this gateway sees it.

    Run `nodes` as long as the gateway runs, and call `owned` for every change of the owner of a topic that is kept
    here, and `forget` when it is kept no more.
    """

    def __init__(self, nodes: Mirror, settings: GatewaySettings, catalogue: CatalogueInForce) -> None:
        self.nodes = nodes
        self._takeovers = Takeovers()
        self._node = settings.node
        self._hides_parameters = settings.tokens_required
        self._catalogue = catalogue
        self._owners: dict[str, str] = {}  # node names, by topic
        self._names: Ordered[str] = Ordered()  # of the topics with an owner
        self._queries: Counter[tuple[str, str]] = Counter()  # their number, by query and owner
        self._figures: dict[str, NodeFigures] = {}
        self._gathered = float("-inf")
        self._gathering = asyncio.Lock()

    def owned(self, topic: str, owner: Owner | None, now: float) -> None:
        """Record that the topic has another owner, or none, since `now` (monotonic seconds)."""
        self._takeovers.owned(topic, owner.node if owner is not None else None, now, now_rfc3339())
        self._set_owner(topic, owner.node if owner is not None else None)

    def forget(self, topic: str) -> None:
        """Forget a topic that is not kept any more."""
        self._takeovers.forget(topic)
        self._set_owner(topic, None)

    @property
    def takeovers(self) -> int:
        """The number of takeovers that this gateway has seen."""
        return self._takeovers.total

    async def show(self, identity: Identity) -> dict[str, Any]:
        """Return the answer to `GET /api/cluster`: the `Cluster` of web/src/api.ts."""
        records = self._records()
        async with self._gathering:
            if time.monotonic() - self._gathered >= GATHER_SECONDS:
                await self._gather(records)
                self._gathered = time.monotonic()
        nodes = [self._public(record) for record in records]
        return {
            "gateway": self._node,
            "nodes": nodes,
            "topics": self._topics(identity),
            "topics_total": round(_sum(nodes, "topics") or 0),
            **{rate: _sum(nodes, rate) for rate in RATES},
            "subscriptions": round(_sum(nodes, "subscriptions") or 0),
            "takeovers": [
                takeovers.public(each, spelling)
                for each in self._takeovers.latest()
                if (spelling := self._spelling(each.topic, identity)) is not None
            ],
        }

    # --- inside -----------------------------------------------------------------------------------------------

    def _records(self) -> list[NodeRecord]:
        records = []
        for kv in self.nodes.items.values():
            try:
                records.append(NodeRecord.decode(kv.value))
            except ValueError:
                continue  # leave out a value that describes no node
        return sorted(records, key=lambda record: (record.role, record.node))

    async def _gather(self, records: list[NodeRecord]) -> None:
        async with asyncio.TaskGroup() as tasks:
            reading = {
                record.node: tasks.create_task(node_metrics.read_totals(record.http, record.node, METRICS))
                for record in records
                if record.http is not None and record.role != "coordinator"
            }
        now = time.monotonic()
        read = {node: task.result() for node, task in reading.items()}
        self._figures = {
            node: NodeFigures(now, found, _without_before(self._figures.get(node)))
            for node, found in read.items()
            if found is not None
        }

    def _public(self, record: NodeRecord) -> dict[str, Any]:
        figures = self._figures.get(record.node)
        gateway, poller = record.role == "gateway", record.role == "poller"
        return {
            "name": record.node,
            "role": record.role,
            "state": record.state,
            "http": None if self._hides_parameters else record.http,
            "started_at": record.started_at,
            "version": record.version,
            "catalogue": record.catalogue,
            "clients": round(figures.totals[SOCKETS]) if figures is not None and gateway else None,
            "subscriptions": round(figures.totals[SUBSCRIPTIONS]) if figures is not None and gateway else None,
            "topics": round(figures.totals[OWNED]) if figures is not None and poller else None,
        } | {rate: figures.rate(metric) if figures is not None and poller else None for rate, metric in RATES.items()}

    def _set_owner(self, topic: str, owner: str | None) -> None:
        query = topic.partition("?")[0]
        before = self._owners.pop(topic, None)
        if before is not None:
            self._names.remove(topic)
            self._queries[query, before] -= 1
            if not self._queries[query, before]:
                del self._queries[query, before]
        if owner is not None:
            self._owners[topic] = owner
            self._names.add(topic)
            self._queries[query, owner] += 1

    def _topics(self, identity: Identity) -> list[dict[str, str]]:
        if not self._hides_parameters:
            return [{"topic": name, "owner": self._owners[name]} for name in self._names.after("", MAX_TOPICS)]
        return [
            {"topic": query if number == 1 else f"{query} ({number} topics)", "owner": owner}
            for (query, owner), number in sorted(self._queries.items())
            if self._spelling(query, identity) is not None
        ][:MAX_TOPICS]

    def _spelling(self, topic: str, identity: Identity) -> str | None:
        """Return the part of a topic's name that this client may see, None when it may see nothing."""
        if not self._hides_parameters:
            return topic
        name = topic.partition("?")[0]
        try:
            topics.check_roles(self._catalogue.catalog.query(name), identity.roles)
        except PollcastError:
            return None
        return name


def _without_before(figures: NodeFigures | None) -> NodeFigures | None:
    """Return the figures without their predecessor, so that no chain of them grows."""
    return NodeFigures(figures.at, figures.totals, None) if figures is not None else None


def _sum(nodes: list[dict[str, Any]], name: str) -> float | None:
    known = [node[name] for node in nodes if node[name] is not None]
    return sum(known) if known else None
