"""The WebSocket side of a gateway in the test's own process, without etcd: a real server, hub and sockets; what owners
send is handed to the hub as it comes off the feed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from pollcast.gateway.feeds import decode
from pollcast.gateway.handshake import SCOPE_KEY, Handshake
from pollcast.gateway.hub import Hub
from pollcast.gateway.identity import NOBODY
from pollcast.gateway.limits import Limits
from pollcast.gateway.presence import Presences
from pollcast.gateway.presence_keys import MemberId
from pollcast.gateway.sockets import Sockets
from pollcast.gateway.turns import PacedHttp
from pollcast.poller.owned import OwnedTopic
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue import topics
from pollcast.services.coordination.keys import PresenceRecord
from pollcast.services.coordination.operations import Kv
from pollcast.services.delta import Row
from pollcast.services.process.settings import GatewaySettings
from pollcast.services.serving import web

CATALOG = """
[queries.keyed]
sql = "select id, text from t where n = %(n)s"
key = ["id"]
[queries.keyed.params]
n = { type = "int", default = 0 }

[queries.whole]
sql = "select text from t"
"""

OWNER = "127.0.0.1:1"


class NoEtcd:
    """What is wanted is told, and nobody else is there (`hub.DemandSink`, `presence_list.PresenceStore`)."""

    gateway = "here"

    def __init__(self) -> None:
        self.on_want: Callable[[str], None] = lambda _: None

    def want(self, topic: str) -> None:
        self.on_want(topic)

    def unwant(self, topic: str) -> None: ...

    def show(self, topic: str, ref: str, record: PresenceRecord) -> None: ...

    def hide(self, topic: str, ref: str) -> None: ...

    def others(self, topic: str) -> Mapping[MemberId, Kv]:
        return {}

    def ignore(self, kv: Kv, why: str) -> None: ...


@dataclass
class Gateway:
    hub: Hub
    sockets: Sockets
    address: tuple[str, int] = ("", 0)
    owned: dict[str, OwnedTopic] = field(default_factory=dict)

    @property
    def url(self) -> str:
        host, port = self.address
        return f"ws://{host}:{port}/"

    def take(self, updates: list[bytes]) -> None:
        """Updates of an owner."""
        for update in updates:
            self.hub.on_update(OWNER, decode(update))

    def attach(self, canonical: str) -> None:
        """The owner sends what it has, soon."""
        owned = self.owned.get(canonical)
        if owned is not None:
            asyncio.get_running_loop().call_soon(self.take, list(owned.current_updates("live")))

    def change(self, canonical: str, rows: list[Row], epoch: int = 1) -> None:
        """The owner of that epoch found these rows."""
        owned = self.owned.get(canonical)
        if owned is None or owned.epoch != epoch:
            topic = topics.parse_canonical(canonical, self.sockets.context.catalog)
            owned = self.owned[canonical] = OwnedTopic(topic, epoch, 0)
        self.take(owned.record_result(rows, time.time_ns() // 1000))


def gateway(folder: Path, limits: Limits | None = None) -> Gateway:
    file = folder / "catalog.toml"
    file.write_text(CATALOG)
    catalog = catalogue.load(file)
    nothing = NoEtcd()
    hub = Hub(GatewaySettings(catalog=file), nothing, Presences(nothing, time.monotonic), lambda _: None)
    limits = limits or Limits(max_topics=100, join_rate=1e6, max_connections=10_000)
    here = Gateway(hub, Sockets(hub, catalog, limits, lambda _: NOBODY, time.monotonic))
    nothing.on_want = here.attach
    return here


@contextlib.asynccontextmanager
async def serving(folder: Path, limits: Limits | None = None) -> AsyncIterator[Gateway]:
    """A gateway that takes clients."""
    here = gateway(folder, limits)

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        handshake = cast(Handshake, websocket.scope["extensions"][SCOPE_KEY])
        handshake.attach(lambda wire: here.sockets.open(wire, NOBODY))

    async with web.serve_app(
        Starlette(routes=[WebSocketRoute("/", endpoint)]),
        "127.0.0.1:0",
        http=PacedHttp,
        ws=Handshake,
        ws_max_size=64 * 1024,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
    ) as here.address:
        yield here


async def turn() -> None:
    """The loop has gone round a few times."""
    for _ in range(5):
        await asyncio.sleep(0)
