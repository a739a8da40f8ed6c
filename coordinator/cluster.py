"""The Cluster service: shows and steers the cluster (proto/pollcast/v1/cluster.proto). Every coordinator serves it.

What it shows is the view, which follows etcd for as long as `run` lives, and the nodes' reports; before etcd was seen
for the first time every call waits a moment for that. What it steers it does by transactions of etcd, whose effect the
nodes see there: that a coordinator dies in between leaves nothing half done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc.aio

from pollcast.coordinator.move_topic import move_topic
from pollcast.coordinator.reports import SERVICE as REPORT
from pollcast.coordinator.reports import ReportCollector
from pollcast.coordinator.view import NodeName, View, ViewChanges
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.coordination import drain
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.errors import Draining, EtcdRefused, EtcdUnknown, PollcastError, UnknownQuery, UnknownTopic
from pollcast.services.serving import rpc
from pollcast.v1 import cluster_pb2, cluster_pb2_grpc

SERVICES = (cluster_pb2.DESCRIPTOR.services_by_name["Cluster"].full_name, REPORT)

SYNC_SECONDS = 3.0
"""How long a call waits for the first sight of etcd."""

REFRESH_SECONDS = 0.5
"""How long a call that lists topics waits for nodes to say how many clients they have."""

SHOWN_SECONDS = 1.0
"""How long a call that moves a topic waits for the view to show it."""

Response = cluster_pb2.WatchClusterResponse
Context = grpc.aio.ServicerContext[Any, Any]


class ClusterService(cluster_pb2_grpc.ClusterServicer):
    """See the module. `view` and `mirror` are for the auditor as well."""

    def __init__(self, etcd: Etcd, keys: Keys, catalog: Catalog | None) -> None:
        self.view = View(keys)
        self.mirror = Mirror(etcd, f"{keys.namespace}/", self._etcd_changed)
        self._reports = ReportCollector(self.view, self._tell)
        self._etcd = etcd
        self._keys = keys
        self._catalog = catalog
        self._watchers: set[ClusterWatch] = set()
        self._closed = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        cluster_pb2_grpc.add_ClusterServicer_to_server(self, server)
        self._reports.add_to(server)

    async def run(self) -> None:
        """Follows the cluster until cancelled."""
        await self.mirror.run()

    def close(self) -> None:
        """Ends every stream: who watches looks for another coordinator."""
        self._closed.set()
        self._reports.close()
        for watcher in self._watchers:
            watcher.wake()

    # --- calls ------------------------------------------------------------------------------------------------

    async def ListNodes(self, request: cluster_pb2.ListNodesRequest, context: Context) -> cluster_pb2.ListNodesResponse:
        async with _answering(context):
            await self._synced()
        nodes = [node_info(self.view.nodes[name].record) for name in sorted(self.view.nodes)]
        return cluster_pb2.ListNodesResponse(nodes=nodes)

    async def ListTopics(
        self, request: cluster_pb2.ListTopicsRequest, context: Context
    ) -> cluster_pb2.ListTopicsResponse:
        async with _answering(context):
            await self._synced()
            await self._reports.refresh(REFRESH_SECONDS)
            if request.query and not self._knows(request.query):
                raise UnknownQuery(f"there is no query {request.query!r}")
        listed = sorted(self.view.listed(), key=lambda topic: topic.name)
        wanted = (topic for topic in listed if request.query in ("", topic.name.partition("?")[0]))
        return cluster_pb2.ListTopicsResponse(topics=[topic.info() for topic in wanted])

    async def WatchCluster(self, request: cluster_pb2.WatchClusterRequest, context: Context) -> AsyncIterator[Response]:
        async with _answering(context):
            await self._synced()
        watcher = ClusterWatch(self.view)
        self._watchers.add(watcher)
        try:
            while not self._closed.is_set():
                for response in watcher.news():
                    yield response
                await watcher.something()
        finally:
            self._watchers.discard(watcher)
        await rpc.abort(context, Draining())

    async def MoveTopic(self, request: cluster_pb2.MoveTopicRequest, context: Context) -> cluster_pb2.MoveTopicResponse:
        async with _answering(context):
            await self._synced()
            topic = self._canonical(request.topic)
            epoch = await move_topic(self._etcd, self._keys, topic, request.poller)
            await self._shown(topic, epoch)
        return cluster_pb2.MoveTopicResponse(epoch=epoch)

    async def DrainNode(self, request: cluster_pb2.DrainNodeRequest, context: Context) -> cluster_pb2.DrainNodeResponse:
        async with _answering(context):
            await drain.ask(self._etcd, self._keys, request.node)
        return cluster_pb2.DrainNodeResponse()

    # --- inside -----------------------------------------------------------------------------------------------

    async def _synced(self) -> None:
        """Raises EtcdRefused."""
        try:
            async with asyncio.timeout(SYNC_SECONDS):
                await self.mirror.synced.wait()
        except TimeoutError:
            raise EtcdRefused("this coordinator has not reached etcd yet") from None

    async def _shown(self, topic: str, epoch: int) -> None:
        """Until the view shows this owner or a later one, so that who asks next sees what was done; at most a
        moment."""
        watcher = ClusterWatch(self.view)
        self._watchers.add(watcher)
        try:
            async with asyncio.timeout(SHOWN_SECONDS):
                while not self._shows(topic, epoch) and not self._closed.is_set():
                    await watcher.change()
        except TimeoutError:
            return  # it is done all the same
        finally:
            self._watchers.discard(watcher)

    def _shows(self, topic: str, epoch: int) -> bool:
        view = self.view.topics.get(topic)
        return view is not None and view.owner is not None and view.owner.epoch >= epoch

    def _knows(self, query: str) -> bool:
        return self.view.knows(query) or (self._catalog is not None and query in self._catalog.queries)

    def _canonical(self, spelling: str) -> str:
        """Of any spelling, where the catalogue is known; else the canonical one is needed. Raises UnknownQuery,
        UnknownTopic, InvalidParams, Forbidden."""
        spelled = spelling.removeprefix(topics.PREFIX)
        if (known := self.view.topics.get(spelled)) is not None and known.listed:
            return spelled
        if self._catalog is not None:
            try:
                return topics.parse_canonical(spelled, self._catalog).canonical
            except UnknownQuery:
                raise
            except PollcastError:
                return topics.parse(spelled, self._catalog, None).canonical
        query = spelled.partition("?")[0]
        if not self._knows(query):
            raise UnknownQuery(f"there is no query {query!r}")
        raise UnknownTopic(f"nobody watches {spelled!r} now (say it as ListTopics does)")

    def _etcd_changed(self, events: list[KeyEvent]) -> None:
        changes = self.view.changed(events, asyncio.get_running_loop().time())
        if changes.nodes:
            self._reports.nodes_changed()
        self._tell(changes)

    def _tell(self, changes: ViewChanges) -> None:
        for watcher in self._watchers:
            watcher.note(changes)


class ClusterWatch:
    """What one consumer has not been told yet: names only, so that one who reads slowly costs little."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._told_nodes: dict[NodeName, cluster_pb2.Node] = {}
        self._told_topics: dict[str, cluster_pb2.TopicInfo] = {}
        self._nodes: dict[NodeName, None] = dict.fromkeys(sorted(view.nodes))
        self._topics: dict[str, None] = dict.fromkeys(sorted(view.topics))
        self._wake = asyncio.Event()

    def note(self, changes: ViewChanges) -> None:
        self._nodes |= dict.fromkeys(sorted(changes.nodes))
        self._topics |= dict.fromkeys(sorted(changes.topics))
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    async def change(self) -> None:
        """Until the next change, or it was woken."""
        self._wake.clear()
        await self._wake.wait()

    async def something(self) -> None:
        """Until there is something to tell, or it was woken."""
        if not self._nodes and not self._topics:
            self._wake.clear()
            await self._wake.wait()

    def news(self) -> Iterator[Response]:
        """Takes what waits, one at a time, as it is at that moment; nothing that was told already."""
        while self._nodes or self._topics:
            response = self._node(_pop(self._nodes)) if self._nodes else self._topic(_pop(self._topics))
            if response is not None:
                yield response

    def _node(self, name: NodeName) -> Response | None:
        view, told = self._view.nodes.get(name), self._told_nodes.pop(name, None)
        if view is None:
            return Response(node_down=name[1]) if told is not None else None
        info = self._told_nodes[name] = node_info(view.record)
        return Response(node_up=info) if info != told else None

    def _topic(self, name: str) -> Response | None:
        view, told = self._view.topics.get(name), self._told_topics.pop(name, None)
        if view is None or not view.listed:
            return Response(topic_gone=name) if told is not None else None
        info = self._told_topics[name] = view.info()
        return Response(topic=info) if info != told else None


def node_info(record: NodeRecord) -> cluster_pb2.Node:
    return cluster_pb2.Node(
        name=record.node,
        role=record.role,
        http=record.http or "",
        grpc=record.grpc or "",
        pid=record.pid,
        version=record.version,
        started_at=record.started_at,
        state=record.state,
    )


def _pop(names: dict[Any, None]) -> Any:
    name = next(iter(names))
    del names[name]
    return name


@contextlib.asynccontextmanager
async def _answering(context: Context) -> AsyncIterator[None]:
    """Errors of the body end the call with their status."""
    try:
        yield
    except TimeoutError:
        await rpc.abort(context, EtcdUnknown("no answer in time: it was done, or was not"))
    except PollcastError as error:
        await rpc.abort(context, error)
