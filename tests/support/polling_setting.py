"""A poller without etcd for tests: the test gains and loses topics for it, and reads its updates as a gateway would."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import psycopg

from pollcast.gateway.change import Change
from pollcast.gateway.feed_updates import Piece, decode
from pollcast.poller.feed import SERVICE
from pollcast.poller.listener import Listener
from pollcast.poller.polling import Polling
from pollcast.poller.postgresql.kind import POSTGRESQL, only_source
from pollcast.poller.sources.database import Database
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.delta import Row, apply
from pollcast.services.process.settings import PollerSettings
from pollcast.services.serving import rpc
from pollcast.v1 import feed_pb2, feed_pb2_grpc


def rows_of(update: feed_pb2.FeedUpdate) -> list[Row]:
    """Return the rows of a piece of a snapshot."""
    body = decode(update).body
    assert isinstance(body, Piece)
    return body.rows


@dataclass
class Followed:
    """One topic as a gateway knows it."""

    rows: list[Row] | None = None
    version: tuple[int, int] = (0, 0)
    state: str = ""
    reason: str = ""
    pieces: list[Row] = field(default_factory=list)
    updates: list[feed_pb2.FeedUpdate] = field(default_factory=list)

    def take(self, update: feed_pb2.FeedUpdate) -> None:
        self.updates.append(update)
        version = (update.epoch, update.seq)
        match update.WhichOneof("body"):
            case "snapshot":
                self.pieces += rows_of(update)
                if not update.snapshot.more:
                    self.rows, self.pieces, self.version = self.pieces, [], version
            case "delta":
                assert self.rows is not None
                assert version == (self.version[0], self.version[1] + 1)
                self.rows, self.version = apply(self.rows, Change.received(update.delta).delta), version
            case "status":
                self.state, self.reason = update.status.state, update.status.reason

    @property
    def values(self) -> list[tuple[int, int]] | None:
        return None if self.rows is None else [tuple(json.loads(row).values()) for _, row in self.rows]

    def bodies(self, kind: str) -> list[feed_pb2.FeedUpdate]:
        return [update for update in self.updates if update.WhichOneof("body") == kind]


class Gateway:
    """A gateway with one stream to the poller."""

    def __init__(self, call: grpc.aio.StreamStreamCall[feed_pb2.FeedRequest, feed_pb2.FeedUpdates]) -> None:
        self._call = call
        self.topics: dict[str, Followed] = {}

    async def attach(self, topic: str, epoch: int = 0, seq: int = 0) -> Followed:
        followed = self.topics[topic] = Followed()
        attach = feed_pb2.Attach(topic=topic, epoch=epoch, seq=seq)
        await self._call.write(feed_pb2.FeedRequest(gateway="gateway-1", attach=[attach]))
        return followed

    async def detach(self, topic: str) -> None:
        await self._call.write(feed_pb2.FeedRequest(detach=[topic]))

    async def read(self) -> None:
        async for message in self._call:
            for update in message.updates:
                self.topics[update.topic].take(update)


@dataclass
class Setting:
    polling: Polling
    address: str
    database: str

    @contextlib.asynccontextmanager
    async def gateway(self) -> AsyncIterator[Gateway]:
        async with (
            grpc.aio.insecure_channel(self.address, options=rpc.VIGILANT) as channel,
            asyncio.TaskGroup() as tasks,
        ):
            call = feed_pb2_grpc.FeedStub(channel).Subscribe()
            gateway = Gateway(call)
            reading = tasks.create_task(gateway.read())
            yield gateway
            reading.cancel()

    async def execute(self, sql: str) -> None:
        """Run the statement in a thread, so that polls continue: one may have to end before a lock is granted."""
        await asyncio.to_thread(execute, self.database, sql)


def execute(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())


@contextlib.asynccontextmanager
async def polling_on(url: str, folder: Path, catalog: str) -> AsyncIterator[Setting]:
    """Poll within a scope, with at most four connections to `url`. `catalog` is TOML."""
    path = folder / "catalog.toml"
    path.write_text(catalog)
    settings = PollerSettings(catalog=path, database_url=url)  # type: ignore[arg-type]
    async with Database.open(POSTGRESQL.driver, url, 4, "poller-1") as database:
        loaded = catalogue.load(path)
        polling = Polling(loaded, only_source(database), on_owned_changed=lambda query: listener.owned_changed(query))
        listener = Listener(loaded, lambda: url, "pollcast poller-1 listen", polling)
        async with rpc.serve(settings, [polling.feed.add_to], [SERVICE]) as server, asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(work) for work in (polling.run(), listener.run())]
            yield Setting(polling, f"127.0.0.1:{server.port}", url)
            polling.feed.close()
            for task in running:
                task.cancel()
