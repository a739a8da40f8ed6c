"""The manual's shop on a running cluster: its catalogue, its table, tokens, and clients that keep whole messages."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg
from etcd3 import etcdrpc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from pollcast.services.auth.tokens import sign
from tests.support.cluster import Cluster, cluster
from tests.support.manual import examples
from tests.support.tokens import SECRET

ORIGIN = "https://app.example.org"
MAX_CONNECTIONS = 30

TABLE = "create table orders (id int primary key, customer text, amount int, region text)"
ROWS = "insert into orders values (1, 'Ada', 250, 'north'), (2, 'Bob', 120, 'north'), (3, 'Cyd', 80, 'north')"

Message = list[Any]
"""A message of the V2 JSON serializer: `[join_ref, ref, topic, event, payload]`."""


@dataclass(frozen=True)
class Shop:
    """A cluster that requires tokens, with two gateways and two pollers, and a connection to its database."""

    cluster: Cluster
    database: psycopg.Connection[Any]

    def grpc(self, node: str) -> str:
        """Return the gRPC address of a node."""
        address = next(each["grpc"] for each in self.cluster.info["nodes"] if each["name"] == node)
        assert isinstance(address, str)
        return address

    @contextlib.contextmanager
    def in_etcd(self, records: Callable[[int], Mapping[str, object]]) -> Iterator[None]:
        """Keep keys in etcd inside the scope. `records` returns their JSON values for the lease that they hang on."""
        with grpc.insecure_channel(self.cluster.etcd[0]) as channel:
            kv, leases = etcdrpc.KVStub(channel), etcdrpc.LeaseStub(channel)
            lease = leases.LeaseGrant(etcdrpc.LeaseGrantRequest(TTL=60)).ID
            puts = [
                etcdrpc.RequestOp(
                    request_put=etcdrpc.PutRequest(key=key.encode(), value=json.dumps(value).encode(), lease=lease)
                )
                for key, value in records(lease).items()
            ]
            for at in range(0, len(puts), 100):
                kv.Txn(etcdrpc.TxnRequest(success=puts[at : at + 100]))
            try:
                yield
            finally:
                leases.LeaseRevoke(etcdrpc.LeaseRevokeRequest(ID=lease))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the table `orders` inside the scope, so that no poll can read it."""
        with self.database.transaction():
            self.database.execute("lock table orders in access exclusive mode")
            yield

    @contextlib.contextmanager
    def without_table(self) -> Iterator[None]:
        """Take the table `orders` away inside the scope."""
        self.database.execute("alter table orders rename to orders_away")
        try:
            yield
        finally:
            self.database.execute("alter table orders_away rename to orders")


@contextlib.contextmanager
def shop(folder: Path, database_url: str) -> Iterator[Shop]:
    """Run the shop in a database of its own."""
    catalog = folder / "shop.toml"
    catalog.write_text(examples("catalogue")["catalogue.shop"].text)
    environment = {
        "POLLCAST_AUTH_SECRET": SECRET,
        "POLLCAST_POKE_ROLES": "backend",
        "POLLCAST_ORIGINS": ORIGIN,
        "POLLCAST_MAX_CONNECTIONS": str(MAX_CONNECTIONS),
    }
    flags = ["--catalog", str(catalog), "--no-demo", "--database-url", database_url]
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute(TABLE)
        database.execute(ROWS)
        with cluster(folder / "data", *flags, environment=environment) as up:
            yield Shop(up, database)


def token(**claims: object) -> str:
    """Return a token that is good for five minutes, without `sub` and roles unless given."""
    return sign(SECRET, {"exp": int(time.time()) + 300} | claims)


class Socket:
    """A WebSocket that keeps every message it receives, in order."""

    def __init__(self, connection: ClientConnection) -> None:
        self.received: list[Message] = []
        self._connection = connection
        self._news = asyncio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, gateway: str, with_token: str) -> AsyncIterator[Socket]:
        """Connect as phoenix.js does, with the token among the subprotocols."""
        bearer = base64.b64encode(with_token.encode()).decode().rstrip("=")
        offered = [Subprotocol("phoenix"), Subprotocol(f"base64url.bearer.phx.{bearer}")]
        url = f"ws://{gateway}/socket/websocket?vsn=2.0.0"
        async with asyncio.TaskGroup() as tasks, connect(url, subprotocols=offered, max_size=2**24) as connection:
            assert connection.subprotocol == "phoenix"
            socket = cls(connection)
            reading = tasks.create_task(socket._read())
            yield socket
            reading.cancel()

    async def send(self, message: Message) -> None:
        """Send one message."""
        await self._connection.send(json.dumps(message))

    async def ask(self, message: Message) -> Message:
        """Send one message and return the reply to it, the next one with its ref."""
        after = len(self.received)
        await self.send(message)
        return await self.until(lambda each: each[3] == "phx_reply" and each[1] == message[1], after)

    async def until(self, matches: Callable[[Message], bool], after: int = 0) -> Message:
        """Return the first message, from index `after` on, that matches. Raises AssertionError after 10 seconds."""
        try:
            async with asyncio.timeout(10):
                while True:
                    self._news.clear()
                    for message in self.received[after:]:
                        if matches(message):
                            return message
                    await self._news.wait()
        except TimeoutError:
            shown = "\n".join(str(each)[:300] for each in self.received[after:])
            raise AssertionError(f"no such message; received:\n{shown}") from None

    async def closed(self) -> int | None:
        """Wait until the connection is closed and return the close code."""
        await self._connection.wait_closed()
        return self._connection.close_code

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self._connection:
                self.received.append(json.loads(text))
                self._news.set()


async def refusal(url: str) -> tuple[int, Any]:
    """Return the HTTP status and the JSON body that a WebSocket handshake is refused with."""
    try:
        async with connect(url):
            raise AssertionError(f"{url} was accepted")
    except InvalidStatus as refused:
        return refused.response.status_code, json.loads(refused.response.body or b"null")


class Call:
    """A streaming gRPC call, or what else gives responses, all of which are kept in order."""

    def __init__(self, responses: AsyncIterable[Any], tasks: asyncio.TaskGroup) -> None:
        self.received: list[Any] = []
        self.error: grpc.aio.AioRpcError | None = None
        self._responses = responses
        self._news = asyncio.Event()
        self._reading = tasks.create_task(self._read())

    async def until(self, matches: Callable[[Any], bool]) -> Any:
        """Return the first response that matches. Raises AssertionError after 10 seconds."""
        try:
            async with asyncio.timeout(10):
                while True:
                    self._news.clear()
                    for response in self.received:
                        if matches(response):
                            return response
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no such response; received: {self.received}") from None

    async def ended(self) -> grpc.aio.AioRpcError:
        """Wait for the error that the call ends with and return it."""
        await self._reading
        assert self.error is not None
        return self.error

    def cancel(self) -> None:
        """End the call from this side."""
        self._reading.cancel()

    async def _read(self) -> None:
        try:
            async for response in self._responses:
                self.received.append(response)
                self._news.set()
        except grpc.aio.AioRpcError as error:
            self.error = error


def metadata(**claims: object) -> Sequence[tuple[str, str]]:
    """Return the metadata of a gRPC call with a token of these claims."""
    return (("authorization", f"Bearer {token(**claims)}"),)
