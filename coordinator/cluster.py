"""The Cluster service: shows and steers the cluster (docs/reference/grpc.md#cluster). Every coordinator serves it.

It shows the view, which follows etcd and the nodes' reports. It steers by transactions of etcd, whose effect the nodes
see there, so a coordinator that dies in between leaves nothing half done. Every call waits a moment for the first
listing of etcd.
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
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.drain import request_drain
from pollcast.services.coordination.keys import Keys, NodeRecord
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.errors import Draining, EtcdRefused, EtcdUnknown, PollcastError, UnknownQuery, UnknownTopic
from pollcast.services.serving import rpc
from pollcast.v1 import cluster_pb2, cluster_pb2_grpc

SERVICES = (cluster_pb2.DESCRIPTOR.services_by_name["Cluster"].full_name, REPORT)

SYNC_SECONDS = 3.0
"""Maximum time that a call waits for the first listing of etcd, in seconds."""

REFRESH_SECONDS = 0.5
"""Maximum time that a call that lists topics waits for new reports of the nodes, in seconds."""

SHOWN_SECONDS = 1.0
"""Maximum time that a call that moves a topic waits for the view to show the new owner, in seconds."""

Response = cluster_pb2.WatchClusterResponse
Context = grpc.aio.ServicerContext[Any, Any]


class ClusterService(cluster_pb2_grpc.ClusterServicer):
    """The servicer of Cluster. The auditor uses its `view` and `mirror` as well."""

    def __init__(self, etcd: Etcd, keys: Keys, catalog: Catalog | None) -> None:
        self.view = View(keys)
        self.mirror = Mirror(etcd, f"{keys.namespace}/", self._etcd_changed)
        self._reports = ReportCollector(self.view, self._notify)
        self._etcd = etcd
        self._keys = keys
        self._catalog = catalog
        self._watches: set[ClusterWatch] = set()
        self._closed = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register Cluster and Report with the gRPC server."""
        cluster_pb2_grpc.add_ClusterServicer_to_server(self, server)
        self._reports.add_to(server)

    async def run(self) -> None:
        """Follow etcd until cancelled."""
        await self.mirror.run()

    def close(self) -> None:
        """End every stream, so that its consumer looks for another coordinator."""
        self._closed.set()
        self._reports.close()
        for watch in self._watches:
            watch.wake()

    # --- calls ------------------------------------------------------------------------------------------------

    async def ListNodes(self, request: cluster_pb2.ListNodesRequest, context: Context) -> cluster_pb2.ListNodesResponse:
        async with _abort_on_error(context):
            await self._synced()
        nodes = [node_info(self.view.nodes[name].record) for name in sorted(self.view.nodes)]
        return cluster_pb2.ListNodesResponse(nodes=nodes)

    async def ListTopics(
        self, request: cluster_pb2.ListTopicsRequest, context: Context
    ) -> cluster_pb2.ListTopicsResponse:
        async with _abort_on_error(context):
            await self._synced()
            await self._reports.refresh(REFRESH_SECONDS)
            if request.query and not self._knows(request.query):
                raise UnknownQuery(f"there is no query {request.query!r}")
        listed = sorted(self.view.listed(), key=lambda topic: topic.name)
        wanted = (topic for topic in listed if request.query in ("", topic.name.partition("?")[0]))
        return cluster_pb2.ListTopicsResponse(topics=[topic.info() for topic in wanted])

    async def WatchCluster(self, request: cluster_pb2.WatchClusterRequest, context: Context) -> AsyncIterator[Response]:
        async with _abort_on_error(context):
            await self._synced()
        watch = ClusterWatch(self.view)
        self._watches.add(watch)
        try:
            while not self._closed.is_set():
                for response in watch.take():
                    yield response
                await watch.wait_pending()
        finally:
            self._watches.discard(watch)
        await rpc.abort(context, Draining())

    async def MoveTopic(self, request: cluster_pb2.MoveTopicRequest, context: Context) -> cluster_pb2.MoveTopicResponse:
        async with _abort_on_error(context):
            await self._synced()
            topic = self._canonical(request.topic)
            epoch = await move_topic(self._etcd, self._keys, topic, request.poller)
            await self._wait_shown(topic, epoch)
        return cluster_pb2.MoveTopicResponse(epoch=epoch)

    async def DrainNode(self, request: cluster_pb2.DrainNodeRequest, context: Context) -> cluster_pb2.DrainNodeResponse:
        async with _abort_on_error(context):
            await request_drain(self._etcd, self._keys, request.node)
        return cluster_pb2.DrainNodeResponse()

    # --- helpers ----------------------------------------------------------------------------------------------

    async def _synced(self) -> None:
        """Wait for the first listing of etcd. Raises EtcdRefused after SYNC_SECONDS."""
        try:
            async with asyncio.timeout(SYNC_SECONDS):
                await self.mirror.synced.wait()
        except TimeoutError:
            raise EtcdRefused("this coordinator has not reached etcd yet") from None

    async def _wait_shown(self, topic: str, epoch: int) -> None:
        """Wait until the view shows this epoch or a later one, at most SHOWN_SECONDS, so that the next call sees the
        move."""
        watch = ClusterWatch(self.view)
        self._watches.add(watch)
        try:
            async with asyncio.timeout(SHOWN_SECONDS):
                while not self._shows(topic, epoch) and not self._closed.is_set():
                    await watch.wait_change()
        except TimeoutError:
            return  # the move is done all the same
        finally:
            self._watches.discard(watch)

    def _shows(self, topic: str, epoch: int) -> bool:
        view = self.view.topics.get(topic)
        return view is not None and view.owner is not None and view.owner.epoch >= epoch

    def _knows(self, query: str) -> bool:
        return self.view.knows(query) or (self._catalog is not None and query in self._catalog.queries)

    def _canonical(self, spelling: str) -> str:
        """Return the canonical topic of a spelling. Without a catalogue only the canonical spelling of a listed topic
        is accepted. Raises UnknownQuery, UnknownTopic, InvalidParams or Forbidden."""
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
        raise UnknownTopic(f"nobody watches {spelled!r} now (spell it as ListTopics does)")

    def _etcd_changed(self, events: list[KeyEvent]) -> None:
        changes = self.view.changed(events, asyncio.get_running_loop().time())
        if changes.nodes:
            self._reports.nodes_changed()
        self._notify(changes)

    def _notify(self, changes: ViewChanges) -> None:
        for watch in self._watches:
            watch.note(changes)


class ClusterWatch:
    """One consumer's watch: the names of the nodes and topics whose changes it has not received. Only names are kept,
    so that a consumer that reads slowly costs little memory."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._sent_nodes: dict[NodeName, cluster_pb2.Node] = {}
        self._sent_topics: dict[str, cluster_pb2.TopicInfo] = {}
        self._nodes: dict[NodeName, None] = dict.fromkeys(sorted(view.nodes))
        self._topics: dict[str, None] = dict.fromkeys(sorted(view.topics))
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
        """Yield a message for each pending change, with the state at that moment. A node or topic that is as it was
        last sent is left out."""
        while self._nodes or self._topics:
            response = self._node(_pop(self._nodes)) if self._nodes else self._topic(_pop(self._topics))
            if response is not None:
                yield response

    def _node(self, name: NodeName) -> Response | None:
        view, sent = self._view.nodes.get(name), self._sent_nodes.pop(name, None)
        if view is None:
            return Response(node_down=name[1]) if sent is not None else None
        info = self._sent_nodes[name] = node_info(view.record)
        return Response(node_up=info) if info != sent else None

    def _topic(self, name: str) -> Response | None:
        view, sent = self._view.topics.get(name), self._sent_topics.pop(name, None)
        if view is None or not view.listed:
            return Response(topic_gone=name) if sent is not None else None
        info = self._sent_topics[name] = view.info()
        return Response(topic=info) if info != sent else None


def node_info(record: NodeRecord) -> cluster_pb2.Node:
    """Convert a node's entry to the API's message."""
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
async def _abort_on_error(context: Context) -> AsyncIterator[None]:
    """Abort the call with the status of an error of the body."""
    try:
        yield
    except TimeoutError:
        await rpc.abort(context, EtcdUnknown("no answer in time: the change was made or was not"))
    except PollcastError as error:
        await rpc.abort(context, error)
