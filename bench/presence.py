"""What presence costs: `python -m bench presence` starts a cluster of its own and measures

1. the requests to etcd of 5,000 joins in a second (100 sockets on two gateways, 50 topics each), and of their leaving;
2. the messages and bytes that 2,000 clients get who join one topic within a second, until all have the list;
3. how long a single join takes to be seen.

The third is measured with `pollcast_client`. The others count the bytes of thousands of sockets: those clients speak
just enough WebSocket for that, in this process, so that its share of the machine is small.
"""

from __future__ import annotations

import asyncio
import base64
import statistics
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import cast

import orjson
from tests.support.cluster import Cluster, cluster

from pollcast_client import Change, Connected, Event, watch

CATALOG = """
[queries.room]
sql = "select %(id)s as id"
interval = "1s"
presence = true
params.id = "int"
"""

SOCKETS, TOPICS = 100, 50
CLIENTS = 2000


class Client(asyncio.Protocol):
    """One WebSocket. Counts what comes, by event."""

    def __init__(self, totals: Counter[str], sizes: Counter[str]) -> None:
        self.open = asyncio.get_running_loop().create_future()
        self.listed = 0
        self._totals, self._sizes = totals, sizes
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        self._transport.write(
            b"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )

    def join(self, topic: str, key: str) -> None:
        message = orjson.dumps(["1", "1", topic, "phx_join", {"presence": {"key": key}}])
        assert self._transport is not None
        self._transport.write(bytes([0x81, 0x80 | 126]) + len(message).to_bytes(2) + bytes(4) + message)

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self.open.done():
            head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not found:
                return
            assert b" 101 " in head, head
            self._buffer = bytearray(rest)
            self.open.set_result(None)
        while (size := self._frame()) is not None:
            start, length = size
            self._message(bytes(self._buffer[start : start + length]), start)
            del self._buffer[: start + length]

    def _frame(self) -> tuple[int, int] | None:
        if len(self._buffer) < 2:
            return None
        start, length = 2, self._buffer[1]
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(self._buffer[2:start])
        return (start, length) if len(self._buffer) >= start + length else None

    def _message(self, text: bytes, header: int) -> None:
        event = text[:120].split(b",", 4)[3].decode().strip('"')
        self._totals[event] += 1
        self._sizes[event] += len(text) + header
        if event == "presence_state":
            self.listed = text.count(b'"phx_ref"')
        elif event == "presence_diff":
            joins, _, leaves = text.partition(b'"leaves":')
            self.listed += joins.count(b'"phx_ref"') - leaves.count(b'"phx_ref"')


def proposals(running: Cluster) -> float:
    with urllib.request.urlopen(f"http://{running.etcd[0]}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("etcd_server_proposals_committed_total "))


def members(running: Cluster) -> int:
    """Presence keys in etcd, by etcd's own JSON gateway."""
    key = f"{running.namespace}/presence/"
    end = key[:-1] + chr(ord(key[-1]) + 1)
    body = {"key": base64.b64encode(key.encode()).decode(), "range_end": base64.b64encode(end.encode()).decode()}
    request = urllib.request.Request(
        f"http://{running.etcd[0]}/v3/kv/range", orjson.dumps(body | {"count_only": True}), method="POST"
    )
    with urllib.request.urlopen(request) as answer:
        return int(orjson.loads(answer.read()).get("count", 0))


def are_in_etcd(running: Cluster, number: int) -> bool:
    return members(running) == number


async def open_sockets(running: Cluster, number: int, totals: Counter[str], sizes: Counter[str]) -> list[Client]:
    clients = []
    for each in range(number):
        host, _, port = running.gateway(each % 2).rpartition(":")
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: Client(totals, sizes), host, int(port))
        clients.append(client)
    await asyncio.gather(*(client.open for client in clients))
    return clients


async def until(condition: Callable[[], bool], seconds: float = 120.0, pause: float = 0.02) -> float:
    """Seconds until the condition holds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "not within the time"
        await asyncio.sleep(pause)
    return time.monotonic() - started


async def joins_in_etcd(running: Cluster) -> None:
    clients = await open_sockets(running, SOCKETS, Counter(), Counter())
    before, started = proposals(running), time.monotonic()
    await asyncio.sleep(3)
    idle = (proposals(running) - before) / (time.monotonic() - started)
    print(f"etcd when idle: {idle:.1f} proposals/s")
    for verb, goal in (("join", SOCKETS * TOPICS), ("leave", 0)):
        before, started = proposals(running), time.monotonic()
        for topic in range(TOPICS):
            for number, client in enumerate(clients):
                if verb == "join":
                    client.join(f"live:room?id={topic}", f"user {number}")
            await asyncio.sleep(max(0.0, started + (topic + 1) / TOPICS - time.monotonic()))
        for client in clients if verb == "leave" else ():
            client.close()
        sent = time.monotonic() - started
        took = sent + await until(partial(are_in_etcd, running, goal))
        used = proposals(running) - before - idle * took
        print(
            f"{SOCKETS * TOPICS} {verb}s sent in {sent:.2f} s, in etcd after {took:.2f} s: {used:.0f} proposals, "
            f"which includes those of demand and of owners of {TOPICS} topics"
        )


async def one_topic(running: Cluster) -> None:
    totals: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    clients = await open_sockets(running, CLIENTS, totals, sizes)
    started = time.monotonic()
    for number, client in enumerate(clients):
        client.join("live:room?id=1000", f"user {number}")
        if number % 20 == 19:
            await asyncio.sleep(max(0.0, started + (number + 1) / CLIENTS - time.monotonic()))
    sent = time.monotonic() - started
    took = sent + await until(lambda: all(client.listed == 1000 for client in clients))
    print(f"{CLIENTS} clients joined one topic in {sent:.2f} s; all list 1,000 members after {took:.2f} s")
    for event, count in totals.most_common():
        print(f"  {event:16} {count:7} messages  {sizes[event] / 1e6:8.2f} MB")
    print(f"  {'in all':16} {totals.total():7} messages  {sizes.total() / 1e6:8.2f} MB")
    for client in clients:
        client.close()


async def latency(running: Cluster) -> None:
    """From a join to the diff at a client of the same gateway, and of the other."""
    topic = "live:room?id=2000"
    for name, number in (("the same gateway", 0), ("the other gateway", 1)):
        took = []
        url = f"http://{running.gateway(number)}"
        async with watch(topic, url=url, presence={"key": "watcher"}) as watcher, aclosing(aiter(watcher)) as changes:
            await sees(changes, "watcher")
            for each in range(20):
                member = f"{name} {each}"
                joined = asyncio.Event()
                async with asyncio.TaskGroup() as tasks:
                    joining = tasks.create_task(stay(running, topic, member, joined))
                    await joined.wait()
                    started = time.monotonic()
                    await sees(changes, member)
                    took.append(time.monotonic() - started)
                    joining.cancel()
        print(f"a join is seen on {name} after {statistics.median(took) * 1000:.0f} ms (the median of {len(took)})")
    await until(partial(are_in_etcd, running, 0))


async def stay(running: Cluster, topic: str, member: str, joined: asyncio.Event) -> None:
    """On the first gateway, until cancelled. `joined` is set right before the join is sent."""

    def told(event: Event) -> None:
        if isinstance(event, Connected):
            joined.set()

    async for _ in watch(topic, url=f"http://{running.gateway(0)}", presence={"key": member}, on_event=told):
        pass


async def sees(changes: AsyncGenerator[Change, None], member: str) -> None:
    async with asyncio.timeout(10):
        async for change in changes:
            if member in change.presence:
                return


async def measure(running: Cluster) -> None:
    await latency(running)
    await joins_in_etcd(running)
    await one_topic(running)


async def run() -> None:
    with tempfile.TemporaryDirectory(prefix="pollcast-bench-") as folder:
        catalog = Path(folder) / "catalog.toml"
        catalog.write_text(CATALOG)
        with cluster(Path(folder) / "data", "--catalog", str(catalog), "--no-demo", "--pollers", "1") as running:
            await measure(running)
