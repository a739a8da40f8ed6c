"""The consumers of `Cluster.WatchCluster`, and what each has not received yet (docs/reference/grpc.md#watchcluster).

`ClusterWatch` sends everything, and then each change. `TopWatch` sends the nodes, the totals and the first topics of an
order, and once a second what has changed in them, so it costs the same whatever the number of topics.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator

from pollcast.coordinator.query_rates import loads
from pollcast.coordinator.ranking import COLUMNS, Ranking
from pollcast.coordinator.topicview import TopicView
from pollcast.coordinator.view import NodeName, View, ViewChanges
from pollcast.services.coordination.keys import NodeRecord
from pollcast.services.errors import InvalidParams
from pollcast.v1 import cluster_pb2

Response = cluster_pb2.WatchClusterResponse

TOP_SECONDS = 1.0
"""Time between two messages of a `TopWatch` that show changed topics or totals, in seconds."""

KEPT_SECONDS = 30.0
"""Time for which an order that nobody watches any more is kept up to date, in seconds: a new filter needs it again."""

MAX_TOP = 1000
"""Maximum number of topics that a `TopWatch` shows."""

SLICE = 500
"""Number of topics that are looked at between two yields to the event loop."""


class ClusterWatch:
    """One consumer's watch: the names of the nodes and topics whose changes it has not received. Only names are kept,
    so that a consumer that reads slowly costs little memory."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._sent_nodes: dict[NodeName, cluster_pb2.Node] = {}
        self._sent_topics: dict[str, cluster_pb2.TopicInfo] = {}
        self._nodes: dict[NodeName, None] = dict.fromkeys(sorted(view.nodes))
        self._topics: dict[str, None] = dict.fromkeys(view.tally.names)
        self._wake = asyncio.Event()

    def note(self, changes: ViewChanges) -> None:
        """Add changed nodes and topics."""
        self._nodes |= dict.fromkeys(sorted(changes.nodes))
        self._topics |= dict.fromkeys(sorted(changes.topics))
        self._wake.set()

    def wake(self) -> None:
        """End the present wait."""
        self._wake.set()

    async def wait_change(self) -> None:
        """Return at the next change, or when woken."""
        self._wake.clear()
        await self._wake.wait()

    async def wait_pending(self) -> None:
        """Return when a change is pending, or when woken."""
        if not self._nodes and not self._topics:
            self._wake.clear()
            await self._wake.wait()

    def take(self) -> Iterator[Response]:
        """Yield a message for each change that is pending now, with the state at the moment of the step. A node or
        topic that is as it was last sent is left out."""
        nodes, self._nodes = self._nodes, {}
        for node in nodes:
            if (response := self._node(node)) is not None:
                yield response
        topics, self._topics = self._topics, {}
        for topic in topics:
            if (response := self._topic(topic)) is not None:
                yield response

    def _node(self, name: NodeName) -> Response | None:
        view, sent = self._view.nodes.get(name), self._sent_nodes.pop(name, None)
        if view is None:
            return Response(node_down=name[1]) if sent is not None else None
        info = self._sent_nodes[name] = node_info(view.record, self._view.sources(name))
        return Response(node_up=info) if info != sent else None

    def _topic(self, name: str) -> Response | None:
        view, sent = self._view.topics.get(name), self._sent_topics.pop(name, None)
        if view is None or not view.listed:
            return Response(topic_gone=name) if sent is not None else None
        info = self._sent_topics[name] = view.info()
        return Response(topic=info) if info != sent else None


class TopWatch:
    """One consumer's watch of the first topics of an order. Use it as a context manager: meanwhile the view keeps the
    order up to date."""

    def __init__(self, view: View, request: cluster_pb2.WatchClusterRequest) -> None:
        """Raises InvalidParams when the request names no column, or more topics than MAX_TOP."""
        column = request.sort or "cost"
        if column not in COLUMNS:
            raise InvalidParams(f"there is no column {column!r}; the columns are {', '.join(COLUMNS)}")
        if not 0 < request.top <= MAX_TOP:
            raise InvalidParams(f"top is {request.top}; at most {MAX_TOP} topics are shown")
        self._view = view
        self._limit = request.top
        self._reverse = request.reverse
        self._pattern = request.filter.lower()
        self._column = column
        self._ranking = Ranking(column)
        self._nodes: dict[str, cluster_pb2.Node] = {}  # as they were sent
        self._topics: dict[str, cluster_pb2.TopicInfo] = {}
        self._totals: cluster_pb2.ClusterTotals | None = None

    async def __aenter__(self) -> TopWatch:
        ranking = self._ranking = self._view.tally.rankings.setdefault(self._column, self._ranking)
        ranking.users += 1
        if not ranking.complete:
            for number, name in enumerate(list(self._view.topics)):
                if (topic := self._view.topics.get(name)) is not None:
                    ranking.update(topic)
                if number % SLICE == SLICE - 1:
                    await asyncio.sleep(0)
            ranking.complete = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ranking.users -= 1
        asyncio.get_running_loop().call_later(KEPT_SECONDS, self._drop_unused)

    def _drop_unused(self) -> None:
        if not self._ranking.users and self._view.tally.rankings.get(self._column) is self._ranking:
            del self._view.tally.rankings[self._column]

    @property
    def shown(self) -> list[str]:
        """The topics that are shown now."""
        return list(self._topics)

    async def changes(self) -> AsyncIterator[Response]:
        """Yield the changes since the last call: nodes, totals, and the topics that are shown now or were before."""
        view = self._view
        nodes = {
            entry.record.node: node_info(entry.record, view.sources(name)) for name, entry in sorted(view.nodes.items())
        }
        for name in self._nodes.keys() - nodes.keys():
            yield Response(node_down=name)
        for name, node in nodes.items():
            if self._nodes.get(name) != node:
                yield Response(node_up=node)
        self._nodes = nodes
        totals = totals_of(self._view)
        if totals != self._totals:
            self._totals = totals
            yield Response(totals=totals)
        topics = {topic.name: topic.info() for topic in await self._first()}
        for name in self._topics.keys() - topics.keys():
            yield Response(topic_gone=name)
        for name, info in topics.items():
            if self._topics.get(name) != info:
                yield Response(topic=info)
        self._topics = topics

    async def _first(self) -> list[TopicView]:
        if not self._pattern:
            names = self._ranking.first(self._limit, reverse=self._reverse)
            return [self._view.topics[name] for name in names]
        found = []
        for number, name in enumerate(self._ranking.first(len(self._view.tally.names), reverse=self._reverse)):
            topic = self._view.topics.get(name)
            if topic is not None and topic.listed and self._matches(topic):
                found.append(topic)
                if len(found) == self._limit:
                    break
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        return found

    def _matches(self, topic: TopicView) -> bool:
        owner = topic.owner.node if topic.owner is not None else ""
        return self._pattern in topic.name.lower() or self._pattern in owner.lower() or self._pattern in topic.state


def totals_of(view: View) -> cluster_pb2.ClusterTotals:
    """Return the cluster in numbers."""
    tally = view.tally
    topics = dict(tally.owned) | dict(tally.watched)
    return cluster_pb2.ClusterTotals(
        topics=len(tally.names),
        clients=tally.clients,
        polls_per_second=tally.polls_per_second,
        cost=tally.cost,
        nodes=[cluster_pb2.NodeTopics(name=name, topics=count) for name, count in sorted(topics.items())],
        queries=loads(view.query_rates.rates(), tally.queries),
    )


def node_info(record: NodeRecord, sources: Iterable[cluster_pb2.NodeSource] = ()) -> cluster_pb2.Node:
    """Convert a node's entry, and the databases that it has reported, to the API's message."""
    return cluster_pb2.Node(
        name=record.node,
        role=record.role,
        http=record.http or "",
        grpc=record.grpc or "",
        pid=record.pid,
        version=record.version,
        started_at=record.started_at,
        state=record.state,
        catalogue=record.catalogue or "",
        sources=sources,
    )
