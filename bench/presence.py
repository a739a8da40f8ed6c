"""Benchmark of presence. It starts a cluster of its own and measures

1. the requests to etcd of 5,000 joins in a second (100 sockets on two gateways, 50 topics each) and of as many leaves;
2. the messages and bytes that 2,000 clients receive which join one topic within a second, until all have the list;
3. the time from a join until other clients see the new member;
4. the CPU time and the bytes that CHANGES members a second who come or go cost a gateway, by size of the audience.

The third is measured with `pollcast_client`. The others count the bytes of thousands of sockets: their clients in this
process implement just enough of WebSocket, so that they use little of the machine.
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
import psutil
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
AUDIENCES = (100, 1000, 8000)
CHANGES = 30
CHURN_SECONDS = 15
SETTLE_SECONDS = 3.0
"""Time for the broadcasts about the first members to end, in seconds."""


class Client(asyncio.Protocol):
    """A WebSocket that counts the messages and bytes it receives, by event, and keeps the number of listed members."""

    def __init__(self, totals: Counter[str], sizes: Counter[str]) -> None:
        self.open = asyncio.get_running_loop().create_future()
        self.listed = 0
        self._totals, self._sizes = totals, sizes
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport has another base class
        self._transport.write(
            b"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )

    def join(self, topic: str, key: str) -> None:
        """Join the topic with presence, as the member `key`."""
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
        """Return the start and length of the first frame's payload in the buffer, or None while it is incomplete."""
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
    """Return the number of proposals that etcd has committed since its start."""
    with urllib.request.urlopen(f"http://{running.etcd[0]}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("etcd_server_proposals_committed_total "))


def members(running: Cluster) -> int:
    """Return the number of presence keys in etcd, counted by etcd's own JSON gateway."""
    key = f"{running.namespace}/presence/"
    end = key[:-1] + chr(ord(key[-1]) + 1)
    body = {"key": base64.b64encode(key.encode()).decode(), "range_end": base64.b64encode(end.encode()).decode()}
    request = urllib.request.Request(
        f"http://{running.etcd[0]}/v3/kv/range", orjson.dumps(body | {"count_only": True}), method="POST"
    )
    with urllib.request.urlopen(request) as answer:
        return int(orjson.loads(answer.read()).get("count", 0))


def are_in_etcd(running: Cluster, number: int) -> bool:
    """Return whether etcd has exactly this number of presence keys."""
    return members(running) == number


async def open_sockets(
    running: Cluster, number: int, totals: Counter[str], sizes: Counter[str], gateways: int = 2
) -> list[Client]:
    """Open WebSockets on the gateways in turn; all of them count into `totals` (messages) and `sizes` (bytes)."""
    clients = []
    for each in range(number):
        host, _, port = running.gateway(each % gateways).rpartition(":")
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: Client(totals, sizes), host, int(port))
        clients.append(client)
    await asyncio.gather(*(client.open for client in clients))
    return clients


async def until(condition: Callable[[], bool], seconds: float = 120.0, pause: float = 0.02) -> float:
    """Wait until the condition holds, at most `seconds`, and return how many seconds that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"the condition does not hold after {seconds:g} s"
        await asyncio.sleep(pause)
    return time.monotonic() - started


async def joins_in_etcd(running: Cluster) -> None:
    """Print etcd's proposals for SOCKETS × TOPICS joins, and for as many leaves."""
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
            f"including those for the demand and the owners of {TOPICS} topics"
        )


async def one_topic(running: Cluster) -> None:
    """Print the messages and bytes that CLIENTS clients receive when all of them join one topic."""
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
    print(f"  {'total':16} {totals.total():7} messages  {sizes.total() / 1e6:8.2f} MB")
    for client in clients:
        client.close()


async def churn(running: Cluster) -> None:
    """Print what members who come and go cost the first gateway, for each of AUDIENCES."""
    gateway = psutil.Process(next(node["pid"] for node in running.info["nodes"] if node["name"] == "gateway-1"))
    for topic, number in enumerate(AUDIENCES, 3000):
        totals: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        clients = await open_sockets(running, number, totals, sizes, gateways=1)
        for each, client in enumerate(clients):
            client.join(f"live:room?id={topic}", f"user {each}")
            if each % 20 == 19:
                await asyncio.sleep(0.02)
        await until(lambda clients=clients: all(client.listed >= min(len(clients), 1000) for client in clients))  # type: ignore[misc]
        await asyncio.sleep(SETTLE_SECONDS)
        before, received, began = gateway.cpu_times(), sizes.total(), time.monotonic()
        for change in range(CHANGES * CHURN_SECONDS):
            if change % 2:
                clients.pop(0).close()
            else:
                (client,) = await open_sockets(running, 1, totals, sizes, gateways=1)
                client.join(f"live:room?id={topic}", f"late {change}")
                clients.append(client)
            await asyncio.sleep(max(0.0, began + (change + 1) / CHANGES - time.monotonic()))
        took, after = time.monotonic() - began, gateway.cpu_times()
        cpu = after.user + after.system - before.user - before.system
        print(
            f"{number:5} clients, {CHANGES} changes a second: {cpu / took:.3f} of a core, "
            f"{(sizes.total() - received) / took / 1e6:.2f} MB/s"
        )
        for client in clients:
            client.close()
        await until(partial(are_in_etcd, running, 0))


async def latency(running: Cluster) -> None:
    """Print the time from a join until a client of the same gateway, and one of the other gateway, see the member."""
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
        print(f"clients of {name} see a join after {statistics.median(took) * 1000:.0f} ms (median of {len(took)})")
    await until(partial(are_in_etcd, running, 0))


async def stay(running: Cluster, topic: str, member: str, joined: asyncio.Event) -> None:
    """Be a member of the topic on the first gateway until cancelled. Sets `joined` right before it sends the join."""

    def on_event(event: Event) -> None:
        if isinstance(event, Connected):
            joined.set()

    async for _ in watch(topic, url=f"http://{running.gateway(0)}", presence={"key": member}, on_event=on_event):
        pass


async def sees(changes: AsyncGenerator[Change, None], member: str) -> None:
    """Wait until the presence list contains the member; raises TimeoutError after 10 s."""
    async with asyncio.timeout(10):
        async for change in changes:
            if member in change.presence:
                return


async def measure(running: Cluster) -> None:
    """Print all measurements of this benchmark."""
    await latency(running)
    await joins_in_etcd(running)
    await one_topic(running)
    await churn(running)


async def run() -> None:
    """Start a cluster with one poller and two gateways, and measure it."""
    with tempfile.TemporaryDirectory(prefix="pollcast-bench-") as folder:
        catalog = Path(folder) / "catalog.toml"
        catalog.write_text(CATALOG)
        with cluster(Path(folder) / "data", "--catalog", str(catalog), "--no-demo", "--pollers", "1") as running:
            await measure(running)
