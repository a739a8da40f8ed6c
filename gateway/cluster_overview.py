"""The cluster as the page shows it: `GET /api/cluster`. Made for this page; the gRPC API is for programs.

Nodes and owners come from the mirrors of etcd that the gateway keeps anyway; what they do (clients, polls) from the
metrics of each node, which are read when somebody asks, at most once in GATHER_SECONDS whatever the number who ask. A
node that does not answer in a second is shown without figures. With tokens required, parameters of topics are not
told, nor queries that the token's roles do not allow.
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
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.clock import now_rfc3339
from pollcast.services.coordination.keys import NodeRecord
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.errors import PollcastError
from pollcast.services.process.settings import GatewaySettings

GATHER_SECONDS = 0.9

RATE_SECONDS = 10.0
"""Rates are of figures that are at most so far apart."""

MOST_TOPICS = 300

SOCKETS = "pollcast_gateway_sockets"
SUBSCRIPTIONS = "pollcast_gateway_subscriptions"
POLLS = "pollcast_poller_polls_total"
STATEMENTS = "pollcast_poller_statements_total"
METRICS = (SOCKETS, SUBSCRIPTIONS, POLLS, STATEMENTS)


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """A node's metrics at a time, and what they were before."""

    at: float  # monotonic seconds
    totals: Mapping[str, float]
    before: NodeFigures | None

    def rate(self, name: str) -> float | None:
        """Per second; None when it is not known yet, or the node has started again meanwhile."""
        if self.before is None or not 0 < self.at - self.before.at <= RATE_SECONDS:
            return None
        grown = self.totals[name] - self.before.totals[name]
        return grown / (self.at - self.before.at) if grown >= 0 else None


class ClusterOverview:
    """`nodes` is to be run by the gateway, and `owned` to be told; `owners` is what the gateway knows of owners."""

    def __init__(self, nodes: Mirror, settings: GatewaySettings, catalog: Catalog, owners: Mapping[str, Owner]) -> None:
        self.nodes = nodes
        self._takeovers = Takeovers()
        self._node = settings.node
        self._hides = settings.tokens_required
        self._catalog = catalog
        self._owners = owners
        self._figures: dict[str, NodeFigures] = {}
        self._gathered = float("-inf")
        self._gathering = asyncio.Lock()

    def owned(self, topic: str, owner: Owner | None, now: float) -> None:
        """The topic has another owner, or none."""
        self._takeovers.owned(topic, owner.node if owner is not None else None, now, now_rfc3339())

    @property
    def takeovers(self) -> int:
        """That this gateway has seen, ever."""
        return self._takeovers.total

    async def show(self, identity: Identity) -> dict[str, Any]:
        """What web/src/api.ts calls Cluster."""
        records = self._records()
        async with self._gathering:
            if time.monotonic() - self._gathered >= GATHER_SECONDS:
                await self._gather(records)
                self._gathered = time.monotonic()
        owned = Counter(owner.node for owner in self._owners.values())
        nodes = [self._public(record, owned) for record in records]
        return {
            "gateway": self._node,
            "nodes": nodes,
            "topics": self._topics(identity),
            "topics_total": len(self._owners),
            "polls_per_second": _sum(nodes, "polls_per_second"),
            "statements_per_second": _sum(nodes, "statements_per_second"),
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
                continue  # not for a page to complain about
        return sorted(records, key=lambda record: (record.role, record.node))

    async def _gather(self, records: list[NodeRecord]) -> None:
        async with asyncio.TaskGroup() as tasks:
            reading = {
                record.node: tasks.create_task(node_metrics.read_totals(record.http, METRICS))
                for record in records
                if record.http is not None and record.role != "coordinator"
            }
        now = time.monotonic()
        read = {node: task.result() for node, task in reading.items()}
        self._figures = {
            node: NodeFigures(now, found, _alone(self._figures.get(node)))
            for node, found in read.items()
            if found is not None
        }

    def _public(self, record: NodeRecord, owned: Mapping[str, int]) -> dict[str, Any]:
        figures = self._figures.get(record.node)
        gateway, poller = record.role == "gateway", record.role == "poller"
        return {
            "name": record.node,
            "role": record.role,
            "state": record.state,
            "http": None if self._hides else record.http,
            "started_at": record.started_at,
            "version": record.version,
            "clients": round(figures.totals[SOCKETS]) if figures is not None and gateway else None,
            "subscriptions": round(figures.totals[SUBSCRIPTIONS]) if figures is not None and gateway else None,
            "topics": owned.get(record.node, 0) if poller else None,
            "polls_per_second": figures.rate(POLLS) if figures is not None and poller else None,
            "statements_per_second": figures.rate(STATEMENTS) if figures is not None and poller else None,
        }

    def _topics(self, identity: Identity) -> list[dict[str, str]]:
        counted: Counter[tuple[str, str]] = Counter()
        for topic, owner in self._owners.items():
            spelling = self._spelling(topic, identity)
            if spelling is not None:
                counted[spelling, owner.node] += 1
        return [
            {"topic": spelling if number == 1 else f"{spelling} ({number} topics)", "owner": owner}
            for (spelling, owner), number in sorted(counted.items())[:MOST_TOPICS]
        ]

    def _spelling(self, topic: str, identity: Identity) -> str | None:
        """What may be told of a topic's name, None when nothing."""
        if not self._hides:
            return topic
        name = topic.partition("?")[0]
        try:
            topics.check_roles(self._catalog.query(name), identity.roles)
        except PollcastError:
            return None
        return name


def _alone(figures: NodeFigures | None) -> NodeFigures | None:
    return NodeFigures(figures.at, figures.totals, None) if figures is not None else None


def _sum(nodes: list[dict[str, Any]], name: str) -> float | None:
    known = [node[name] for node in nodes if node[name] is not None]
    return sum(known) if known else None
