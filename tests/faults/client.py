"""A client that believes nothing: applies what a gateway pushes as strictly as CONTRACT.md §4 is written."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gateway.version import Version
from tests.waiting import eventually

HEARTBEAT_SECONDS = 5.0


@dataclass(slots=True)
class Seen:
    """What a client knows of one topic, and how it came to."""

    rows: list[dict[str, Any]] | None = None
    version: str | None = None
    key: list[str] = field(default_factory=list)
    snapshots: int = 0
    deltas: int = 0
    statuses: list[str] = field(default_factory=list)
    reply: dict[str, Any] | None = None
    replied_after: float = 0.0
    at: list[float] = field(default_factory=list)  # when each result came, monotonic

    def take(self, event: str, payload: dict[str, Any]) -> None:
        if event == "status":
            self.statuses.append(payload["state"])
            return
        assert event in ("snapshot", "delta"), event
        self.at.append(time.monotonic())
        if self.version is not None:
            assert Version.parse(payload["version"]) > Version.parse(self.version)  # type: ignore[operator]
        if event == "snapshot":
            self.snapshots += 1
            self.rows, self.key = payload["rows"], payload["key"]
        else:
            self.deltas += 1
            self._apply(payload)
        self.version = payload["version"]

    def _apply(self, delta: dict[str, Any]) -> None:
        assert self.rows is not None
        assert delta["base"] == self.version
        deletes = {orjson.dumps(key) for key in delta["deletes"]}
        assert deletes <= {self._key_of(row) for row in self.rows}
        assert delta["deletes"] or delta["upserts"]
        gone = deletes | {self._key_of(upsert["row"]) for upsert in delta["upserts"]}
        rows = [row for row in self.rows if self._key_of(row) not in gone]
        for upsert in delta["upserts"]:
            rows.insert(upsert["at"], upsert["row"])
        self.rows = rows

    def _key_of(self, row: dict[str, Any]) -> bytes:
        return orjson.dumps([row[name] for name in self.key])


class Client:
    """One socket. `seen` by canonical topic; `closed` is the close code once it is closed."""

    def __init__(self, connection: ClientConnection) -> None:
        self.seen: dict[str, Seen] = {}
        self.closed: int | None = None
        self._connection = connection
        self._joined_at: dict[str, float] = {}

    @staticmethod
    @contextlib.asynccontextmanager
    async def open(address: str) -> AsyncIterator[Client]:
        url = f"ws://{address}/socket/websocket?vsn=2.0.0"
        async with connect(url, ping_interval=None, close_timeout=0.2) as connection, asyncio.TaskGroup() as tasks:
            client = Client(connection)
            working = [tasks.create_task(client._read()), tasks.create_task(client._beat())]
            yield client
            for task in working:
                task.cancel()

    async def join(self, *topics: str) -> None:
        """Returns when all are answered (ok)."""
        for topic in topics:
            await self._join(topic, Seen(), {})
        await eventually(lambda: all(self.seen[topic].reply for topic in topics), 5.0, what="all joins are answered")

    async def resume(self, topic: str, seen: Seen) -> None:
        """Joins with what was seen (perhaps on another gateway) as `since`. Counts anew."""
        again = Seen(list(seen.rows or ()), seen.version, list(seen.key))
        await self._join(topic, again, {"since": seen.version})
        await eventually(lambda: again.reply, 5.0)

    async def _join(self, topic: str, seen: Seen, payload: dict[str, Any]) -> None:
        self.seen[topic] = seen
        self._joined_at[topic] = time.monotonic()
        await self._send("1", topic, f"live:{topic}", "phx_join", payload)

    async def has_results(self, *topics: str, seconds: float = 10.0) -> None:
        await eventually(lambda: all(self.seen[topic].rows is not None for topic in topics), seconds)

    async def shows(self, topic: str, rows: list[dict[str, Any]], seconds: float = 10.0) -> None:
        await eventually(lambda: self.seen[topic].rows == rows, seconds, what=f"{topic} shows {rows}")

    async def hears_more(self, topic: str, seconds: float = 5.0) -> None:
        """Another result of the topic."""
        before = len(self.seen[topic].at)
        await eventually(lambda: len(self.seen[topic].at) > before, seconds, what=f"more of {topic}")

    async def leave(self, topic: str) -> None:
        await self._send("1", f"leave {topic}", f"live:{topic}", "phx_leave", {})

    async def _send(self, join_ref: str | None, ref: str, topic: str, event: str, payload: dict[str, Any]) -> None:
        await self._connection.send(orjson.dumps([join_ref, ref, topic, event, payload]).decode())

    async def _read(self) -> None:
        try:
            async for message in self._connection:
                _, ref, topic, event, payload = orjson.loads(message)
                name = topic.removeprefix("live:")
                if event == "phx_reply":
                    if ref in self.seen:
                        assert payload["status"] == "ok", payload
                        self.seen[ref].reply = payload["response"]
                        self.seen[ref].replied_after = time.monotonic() - self._joined_at[ref]
                elif event != "phx_close":
                    self.seen[name].take(event, payload)
        except ConnectionClosed:
            pass
        finally:
            self.closed = self._connection.close_code

    async def _beat(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(HEARTBEAT_SECONDS)
                await self._send(None, "beat", "phoenix", "heartbeat", {})
