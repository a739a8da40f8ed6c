"""A gateway's WebSocket side in the test's own process, without etcd: a real server, hub and sockets.

Tests play the owner: their results reach the hub as if they came off the feed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pollcast.gateway.admission import Admission
from pollcast.gateway.door import Doorkeeper
from pollcast.gateway.event_stream import EventStream, EventStreams
from pollcast.gateway.feed_updates import decode
from pollcast.gateway.follower import first_result
from pollcast.gateway.handshake import Offer
from pollcast.gateway.hub import Hub
from pollcast.gateway.identity import ANONYMOUS
from pollcast.gateway.limits import Limits
from pollcast.gateway.offload import INLINE, Offload
from pollcast.gateway.presence import Presences
from pollcast.gateway.presence_keys import MemberId
from pollcast.gateway.renewal import Renewal
from pollcast.gateway.sockets import Sockets
from pollcast.gateway.wire import Receiver, Wire
from pollcast.poller.owned import OwnedTopic, Updates
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.coordination.keys import PresenceRecord
from pollcast.services.coordination.operations import Kv
from pollcast.services.delta import Row
from pollcast.services.process.settings import GatewaySettings
from pollcast.services.serving import web
from pollcast.v1 import feed_pb2

CATALOG = """
[queries.keyed]
sql = "select id, text from t where n = %(n)s"
key = ["id"]
[queries.keyed.params]
n = { type = "int", default = 0 }

[queries.whole]
sql = "select text from t"

[queries.room]
sql = "select id, text from t where n = %(n)s"
key = ["id"]
presence = true
[queries.room.params]
n = { type = "int", default = 0 }
"""

OWNER = "127.0.0.1:1"
"""The address that updates seem to come from."""


class NoEtcd:
    """A demand sink and a presence store without etcd: demand calls `on_want`, and there are no other gateways."""

    gateway = "here"

    def __init__(self, on_want: Callable[[str], None]) -> None:
        self.want = on_want

    def unwant(self, topic: str) -> None:
        """Do nothing."""

    def show(self, topic: str, ref: str, record: PresenceRecord) -> None:
        """Do nothing."""

    def hide(self, topic: str, ref: str) -> None:
        """Do nothing."""

    def others(self, topic: str) -> Mapping[MemberId, Kv]:
        """Return no members."""
        return {}

    def ignore(self, kv: Kv, why: str) -> None:
        """Do nothing."""


class InProcessGateway:
    """A gateway whose topics are owned by the test. `address` is set by `serving`."""

    def __init__(
        self,
        folder: Path,
        limits: Limits | None = None,
        now: Callable[[], float] = time.monotonic,
        call_soon: Callable[..., object] | None = None,
        offload: Offload = INLINE,
    ) -> None:
        """Make a gateway; without `call_soon` that of the running loop is used."""
        file = folder / "catalog.toml"
        file.write_text(CATALOG)
        self.catalogue = CatalogueInForce(catalogue.load(file))
        self.identity = ANONYMOUS  # of sockets that are opened from now on
        etcd = NoEtcd(self._attach)
        self.presences = Presences(etcd, now)
        self.hub = Hub(GatewaySettings(catalog=file), etcd, self.presences, lambda _: None, offload)
        limits = limits or Limits(max_topics=100, join_rate=1e6, max_connections=10_000)
        self.sockets = Sockets(self.hub, self.catalogue, limits, lambda _: ANONYMOUS, now)
        self.address = ("", 0)
        self._owned: dict[str, OwnedTopic] = {}
        self._call_soon = call_soon

    @property
    def url(self) -> str:
        """The URL of its WebSocket endpoint."""
        host, port = self.address
        return f"ws://{host}:{port}/"

    @property
    def catalog(self) -> Catalog:
        """The catalogue in force."""
        return self.catalogue.catalog

    async def take(self, text: str) -> None:
        """Take another catalogue over; the owner has no result by it yet."""
        self._owned.clear()
        found = self.catalogue.replace(CatalogueInForce(catalogue.parse(text, "test.toml")))
        await Renewal(self.hub, self.sockets, self.presences)(self.catalog, found)

    def wires(self) -> list[Wire]:
        """Return the WebSockets that are open."""
        return [socket.wire for socket in self.sockets if isinstance(socket.wire, Wire)]

    def topic(self, canonical: str) -> topics.Topic:
        """Return the topic with this canonical spelling."""
        return topics.parse_canonical(canonical, self.catalog)

    def change(self, canonical: str, rows: list[Row], epoch: int = 1) -> None:
        """Give the topic these rows, by the owner of that epoch."""
        owned = self._owned.get(canonical)
        if owned is None or owned.epoch != epoch:
            owned = self._owned[canonical] = OwnedTopic(self.topic(canonical), epoch, 0)
        self._receive(owned.record_result(rows, time.time_ns() // 1000))

    def _attach(self, canonical: str) -> None:
        owned = self._owned.get(canonical)
        if owned is not None:
            call_soon = self._call_soon or asyncio.get_running_loop().call_soon
            call_soon(self._receive, list(owned.current_updates("live")))

    def _receive(self, updates: Updates) -> None:
        for update in updates:
            self.hub.on_update(OWNER, decode(feed_pb2.FeedUpdate.FromString(update)))


@contextlib.asynccontextmanager
async def serving(
    folder: Path, limits: Limits | None = None, listener: socket.socket | None = None
) -> AsyncIterator[InProcessGateway]:
    """Serve a gateway on a port of its own: WebSockets at `/`, and its topic `whole` as `/json` and `/events`."""
    gateway = InProcessGateway(folder, limits)

    def admit(_: Offer) -> Callable[[Wire], Receiver]:
        return lambda wire: gateway.sockets.open(wire, gateway.identity)

    door = Doorkeeper(("/",), admit, max_frame=64 * 1024)
    admission = Admission(10_000, lambda: len(gateway.sockets))
    streams = EventStreams(gateway.hub)

    async def as_json(_: Request) -> Response:
        return Response((await first_result(gateway.hub, gateway.topic("whole"))).payload)

    async def as_events(_: Request) -> Response:
        return EventStream(streams, gateway.topic("whole"), None, None, admission, {})

    app = Starlette(routes=[Route("/json", as_json), Route("/events", as_events)])
    async with web.serve_app(app, listener or "127.0.0.1:0", door) as gateway.address:
        yield gateway


async def turn() -> None:
    """Let the event loop go round a few times."""
    for _ in range(5):
        await asyncio.sleep(0)
