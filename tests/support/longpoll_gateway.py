"""A gateway's long polling in the test's own process, and a client that speaks it as phoenix.js does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette

from pollcast.gateway.admission import Admission
from pollcast.gateway.departure import Departure
from pollcast.gateway.door import Doorkeeper
from pollcast.gateway.entrance import Entrance
from pollcast.gateway.identity import Authenticator
from pollcast.gateway.limits import Limits
from pollcast.gateway.longpoll import PATH, LongPoll
from pollcast.gateway.longpoll_sessions import LongPollSessions
from pollcast.gateway.longpoll_text import owner_name
from pollcast.gateway.longpoll_workers import WorkerSessions
from pollcast.gateway.origin import OriginPolicy
from pollcast.gateway.sockets import SWEEPS, Sockets
from pollcast.services.auth.tokens import Verifier
from pollcast.services.process.addresses import join_host_port
from pollcast.services.serving import web
from tests.support.gateway_in_process import InProcessGateway

MAX_FRAME = 64 * 1024
SECONDS = 20.0
"""Maximum time of one request of a client."""


class PolledGateway(InProcessGateway):
    """An in-process gateway with sessions of long polling.

    Set `departure.closing` to let it refuse new clients as draining.
    """

    def __init__(self, folder: Path, limits: Limits | None, node: str, authenticator: Authenticator) -> None:
        super().__init__(folder, limits)
        limits = self.sockets.context.limits
        self.sockets = Sockets(self.hub, self.catalogue, limits, authenticator.identify, time.monotonic)
        self.polled = LongPollSessions(self.sockets, MAX_FRAME, owner_name(node))
        self.departure = Departure(0.0, asyncio.Event(), time.monotonic)

    @property
    def host(self) -> str:
        """`host:port` of its HTTP."""
        return join_host_port(*self.address)

    async def sweep(self) -> None:
        """Sweep its sockets and sessions until cancelled."""
        while True:
            self.sockets.sweep(time.monotonic(), time.time())
            self.polled.sweep()
            await asyncio.sleep(1 / SWEEPS / SWEEPS)


@contextlib.asynccontextmanager
async def polled_gateway(
    folder: Path,
    limits: Limits | None = None,
    *,
    node: str = "here",
    shared: Path | None = None,
    verifier: Verifier | None = None,
    listener: socket.socket | None = None,
) -> AsyncIterator[PolledGateway]:
    """Serve long polling alone on a port of its own. `shared` is the folder of the workers of one gateway."""
    authenticator = Authenticator(verifier)
    gateway = PolledGateway(folder, limits, node, authenticator)
    admission = Admission(gateway.sockets.context.limits.max_connections, lambda: len(gateway.sockets))
    entrance = Entrance(gateway.sockets, authenticator, OriginPolicy(), admission, gateway.departure)
    others = None if shared is None else WorkerSessions(shared, gateway.polled)
    endpoint = LongPoll(entrance, gateway.polled, MAX_FRAME, others)
    door = Doorkeeper(("/no/websocket",), entrance.admit, MAX_FRAME, (PATH,))
    app = Starlette(routes=list(endpoint.routes()))
    async with (
        contextlib.nullcontext() if others is None else others.serving(),
        web.serve_app(app, listener or "127.0.0.1:0", door) as gateway.address,
        asyncio.TaskGroup() as tasks,
    ):
        sweeping = tasks.create_task(gateway.sweep())
        yield gateway
        for each in list(gateway.sockets):
            each.wire.abort(1012, "the test is over")
        await gateway.sockets.all_closed()
        sweeping.cancel()


class Polling:
    """A client of long polling at one address after another. `answer` is the JSON of the last answer."""

    def __init__(self, gateway: str, query: str = "vsn=2.0.0", headers: Mapping[str, str] | None = None) -> None:
        self.gateway = gateway
        self.query = query
        self.headers = dict(headers or {})
        self.token: str | None = None
        self.http_status = 0
        self.http_headers: dict[str, str] = {}
        self.answer: dict[str, Any] = {}
        self._ref = 0

    async def open(self) -> int:
        """Open a session and return the status."""
        self.token = None
        return await self._get()

    async def poll(self) -> list[Any]:
        """Poll and return the messages; the status is in `answer`."""
        await self._get()
        return [orjson.loads(message) for message in self.answer.get("messages") or []]

    async def post(self, *messages: Sequence[Any] | bytes, kind: str = "application/x-ndjson") -> int:
        """Send messages and return the status."""
        lines = [each if isinstance(each, bytes) else orjson.dumps(each) for each in messages]
        await self.request("POST", b"\n".join(lines), {"content-type": kind})
        return int(self.answer["status"])

    async def join(self, topic: str, payload: object = None) -> int:
        """Send a join and return the status of the POST."""
        self._ref += 1
        return await self.post([str(self._ref), str(self._ref), topic, "phx_join", payload or {}])

    async def until(self, event: str) -> Any:
        """Poll until a message with this event comes, and return its payload."""
        async with asyncio.timeout(SECONDS):
            while True:
                for message in await self.poll():
                    if message[3] == event:
                        return message[4]

    async def request(self, method: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send a request on a connection of its own."""
        query = self.query if self.token is None else f"{self.query}&token={self.token}"
        head = {"host": self.gateway, "content-length": str(len(body)), "connection": "close"}
        head |= self.headers | dict(headers or {})
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        host, _, port = self.gateway.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with contextlib.closing(writer):
            writer.write(f"{method} {PATH}?{query} HTTP/1.1\r\n{lines}\r\n".encode() + body)
            async with asyncio.timeout(SECONDS):
                answer, _, text = (await reader.read()).partition(b"\r\n\r\n")
        status, *named = answer.decode("latin-1").split("\r\n")
        self.http_status = int(status.split()[1])
        self.http_headers = dict(each.split(": ", 1) for each in named)
        self.answer = orjson.loads(text) if text.startswith(b"{") else {}

    async def _get(self) -> int:
        await self.request("GET")
        self.token = self.answer.get("token", self.token)
        return int(self.answer["status"])
