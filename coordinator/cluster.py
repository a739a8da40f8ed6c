"""The Cluster service: shows and steers the cluster (docs/reference/grpc.md#cluster). Every coordinator serves it.

It shows the view, which follows etcd and the nodes' reports. It steers by transactions of etcd, whose effect the nodes
see there, so a coordinator that dies in between leaves nothing half done. Every call waits a moment for the first
listing of etcd.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from pollcast.coordinator.move_topic import move_topic
from pollcast.coordinator.pokes import Connect, Pokes
from pollcast.coordinator.reports import SERVICE as REPORT
from pollcast.coordinator.reports import ReportCollector
from pollcast.coordinator.view import View, ViewChanges
from pollcast.coordinator.watches import TOP_SECONDS, ClusterWatch, Response, TopWatch, node_info
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.drain import request_drain
from pollcast.services.coordination.keys import Keys
from pollcast.services.coordination.mirror import KeptMirror
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.errors import (
    Draining,
    EtcdRefused,
    EtcdUnknown,
    Forbidden,
    InvalidParams,
    PollcastError,
    TooManyTopics,
    UnknownQuery,
    UnknownTopic,
)
from pollcast.services.serving import rpc
from pollcast.v1 import cluster_pb2, cluster_pb2_grpc, types_pb2

SERVICES = (cluster_pb2.DESCRIPTOR.services_by_name["Cluster"].full_name, REPORT)

SYNC_SECONDS = 3.0
"""Maximum time that a call waits for the first listing of etcd, in seconds."""

REFRESH_SECONDS = 0.5
"""Maximum time that a call that lists topics waits for new reports of the nodes, in seconds."""

SHOWN_SECONDS = 1.0
"""Maximum time that a call that moves a topic waits for the view to show the new owner, in seconds."""

MAX_PAGE = 5000
"""Maximum number of topics in one page."""

MAX_UNPAGED = 10_000
"""Maximum number of topics in an answer without pages."""

SLICE = 200
"""Number of topics that are converted between two yields to the event loop."""

Context = grpc.aio.ServicerContext[Any, Any]


class ClusterService(cluster_pb2_grpc.ClusterServicer):
    """The servicer of Cluster. The auditor uses its `view` and `mirror` as well."""

    def __init__(self, etcd: Etcd, keys: Keys, catalogue: CatalogueInForce | None, connect: Connect) -> None:
        """`connect` opens a channel to a poller."""
        self.view = View(keys)
        self.pokes = Pokes(self.view, connect)
        # The view has what it needs of each key; the mirror needs to know only which revision of it was passed on.
        self.mirror = KeptMirror(etcd, f"{keys.namespace}/", lambda kv: kv.mod_revision, self._etcd_changed)
        self._reports = ReportCollector(self.view, self._view_changed, self._shown)
        self._etcd = etcd
        self._keys = keys
        self._catalogue = catalogue
        self._watches: set[ClusterWatch] = set()
        self._top_watches: set[TopWatch] = set()
        self._forgetting: asyncio.Handle | None = None
        self._closed = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register Cluster and Report with the gRPC server."""
        cluster_pb2_grpc.add_ClusterServicer_to_server(self, server)
        self._reports.add_to(server)

    async def run(self) -> None:
        """Follow etcd until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.mirror.run())
            tasks.create_task(self.pokes.run())

    @property
    def _catalog(self) -> Catalog | None:
        """The catalogue in force, if this coordinator has one."""
        return None if self._catalogue is None else self._catalogue.catalog

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
        nodes = [node_info(self.view.nodes[name].record, self.view.sources(name)) for name in sorted(self.view.nodes)]
        return cluster_pb2.ListNodesResponse(nodes=nodes)

    async def ListTopics(
        self, request: cluster_pb2.ListTopicsRequest, context: Context
    ) -> cluster_pb2.ListTopicsResponse:
        async with _abort_on_error(context):
            await self._synced()
            if not request.page_token:
                await self._reports.refresh(REFRESH_SECONDS)
            if request.query and not self._knows(request.query):
                raise UnknownQuery(f"there is no query {request.query!r}")
            return await self._page(request)

    async def WatchCluster(self, request: cluster_pb2.WatchClusterRequest, context: Context) -> AsyncIterator[Response]:
        async with _abort_on_error(context):
            await self._synced()
            top = TopWatch(self.view, request) if request.top else None
        async for response in self._watch_top(top) if top is not None else self._watch_all():
            yield response
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

    async def Poke(self, request: types_pb2.PokeRequest, context: Context) -> types_pb2.PokeResponse:
        async with _abort_on_error(context):
            await self._synced()
            return types_pb2.PokeResponse(topics=await self.pokes.poke(self._poked(request.topic)))

    # --- listing and watching -----------------------------------------------------------------------------------

    async def _page(self, request: cluster_pb2.ListTopicsRequest) -> cluster_pb2.ListTopicsResponse:
        """Return the topics after the page token. Raises TooManyTopics when there are too many for one answer, and
        InvalidParams for a page size or token that is none."""
        query, names = request.query, self.view.tally.names
        count = self.view.tally.queries[query] if query else len(names)
        if request.page_size < 0 or (request.page_token and not request.page_size):
            raise InvalidParams("page_size must be positive, and a page_token needs one")
        if not request.page_size and count > MAX_UNPAGED:
            raise TooManyTopics(f"there are {count} topics; list them in pages, by page_size and page_token")
        limit = min(request.page_size or count, MAX_PAGE if request.page_size else MAX_UNPAGED)
        response = cluster_pb2.ListTopicsResponse()
        after = self._begin_page(request, response)
        while len(response.topics) < limit and (found := self._names(query, after, min(SLICE, limit))):
            found = found[: limit - len(response.topics)]
            response.topics.extend(self.view.topics[name].info() for name in found)
            after = found[-1]
            await asyncio.sleep(0)
        if request.page_size and response.topics and self._names(query, after, 1):
            response.next_page_token = after
        return response

    def _begin_page(self, request: cluster_pb2.ListTopicsRequest, response: cluster_pb2.ListTopicsResponse) -> str:
        """Return the name after which the page begins. A query's topics lie together, after its name and `?`, but for
        the topic without parameters, which is added here."""
        if not request.query:
            return request.page_token
        if not request.page_token and self._is_listed(request.query):
            response.topics.append(self.view.topics[request.query].info())
        return max(request.page_token, f"{request.query}?")

    def _names(self, query: str, after: str, limit: int) -> list[str]:
        """Return the next listed topics, of one query or of all."""
        names = self.view.tally.names.after(after, limit)
        return [name for name in names if name.startswith(f"{query}?")] if query else names

    def _is_listed(self, topic: str) -> bool:
        view = self.view.topics.get(topic)
        return view is not None and view.listed

    async def _watch_all(self) -> AsyncIterator[Response]:
        watch = ClusterWatch(self.view)
        self._watches.add(watch)
        try:
            while not self._closed.is_set():
                for response in watch.take():
                    yield response
                await watch.wait_pending()
        finally:
            self._watches.discard(watch)

    async def _watch_top(self, watch: TopWatch) -> AsyncIterator[Response]:
        async with watch:
            self._top_watches.add(watch)
            try:
                while not self._closed.is_set():
                    async for response in watch.changes():
                        yield response
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(TOP_SECONDS):
                            await self._closed.wait()
            finally:
                self._top_watches.discard(watch)

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

    def _poked(self, spelling: str) -> topics.Poke:
        """Return the topics that a spelling means in a poke, canonical or not. Raises as `_canonical` does."""
        spelled = spelling.removeprefix(topics.PREFIX)
        if "?" not in spelled:
            if not self._knows(spelled):
                raise UnknownQuery(f"there is no query {spelled!r}")
            return topics.Poke(spelled, whole=True)
        try:
            return topics.Poke(self._canonical(spelled))
        except Forbidden:  # a claim is missing, for which any value is meant
            assert self._catalog is not None
            return topics.parse_poke(spelled, self._catalog, None)

    def _etcd_changed(self, events: list[KeyEvent]) -> None:
        changes = self.view.changed(events, asyncio.get_running_loop().time())
        if changes.nodes:
            self._reports.nodes_changed()
            self.pokes.nodes_changed()
        self._view_changed(changes)

    def _view_changed(self, changes: ViewChanges) -> None:
        """Notify the watches, and have the view forget in slices what nodes that have gone had reported."""
        for watch in self._watches:
            watch.note(changes)
        if self.view.forgets and self._forgetting is None:
            self._forgetting = asyncio.get_running_loop().call_soon(self._forget_more)

    def _forget_more(self) -> None:
        self._forgetting = None
        self._view_changed(self.view.forget_more())

    def _shown(self) -> set[str]:
        return {topic for watch in self._top_watches for topic in watch.shown}


@contextlib.asynccontextmanager
async def _abort_on_error(context: Context) -> AsyncIterator[None]:
    """Abort the call with the status of an error of the body."""
    try:
        yield
    except TimeoutError:
        await rpc.abort(context, EtcdUnknown("no answer in time: the change was made or was not"))
    except PollcastError as error:
        await rpc.abort(context, error)
