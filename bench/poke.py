"""Benchmark of pokes: from the request to the first and the last client, for a topic whose interval is half a minute.

The request goes to a gateway that has no client of the topic, so it takes the whole way: every poller is asked, the
owner polls PostgreSQL, and another gateway sends the change. The last client is compared with `bench.yardstick` for the
same clients and bytes. A flood of pokes for topics that nobody watches shows what a poke costs, and that nothing grows.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil
import psycopg
from tests.support.world import World, start_world

from bench import table
from bench.latency import CLIENTS, PAUSE_SECONDS, RESULTS, in_milliseconds, yardstick
from bench.processes import Process, swarm
from bench.stage import SOCKET, Stage
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.local.postgres_server import PostgresServer

CATALOG = """
[queries.bench]
sql = "select id, text from rows where n = %(n)s order by id"
key = ["id"]
interval = "30s"
min_interval = "20ms"
params = { n = "int" }
"""

TOPIC = "bench?n=1"
TABLE = "create table rows (id int primary key, n int, text text)"
FILL = "insert into rows select id, 1, repeat('x', 150) from generate_series(1, 5) id"
CHANGE = "update rows set text = %s || repeat('x', 150)"

FLOOD = 10_000
"""Number of pokes in the flood."""

CONNECTIONS = 16
"""Number of connections that send it, each one request after the other."""

stamps = count(1)


class Poker:
    """A connection to a gateway that is kept open, as an application's HTTP client keeps it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> Poker:
        """Connect to the gateway at this port."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def poke(self, topic: str) -> int:
        """Poke the topic, and return the number of topics that are polled for it."""
        self._writer.write(f"POST /poke/{topic} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 202"), head
        size = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
        return int((await self._reader.readexactly(size)).removeprefix(b'{"topics":').removesuffix(b"}"))


@dataclass(frozen=True)
class Flood:
    """The cost of a flood of pokes: pokes per second, CPU seconds, and bytes of memory of the gateway and pollers."""

    rate: float
    gateway_cpu: float
    poller_cpu: float
    gateway_grew: int
    poller_grew: int


async def run() -> None:
    """Print the latencies of pokes, and what a flood of them costs."""
    with tempfile.TemporaryDirectory(prefix="pollcast-bench-") as name:
        folder = Path(name)
        with EtcdServer.start(folder / "etcd") as etcd, PostgresServer.start(folder / "pg") as postgres:
            async with start_world(folder, etcd.endpoints, postgres.url, catalog=CATALOG) as world:
                world.execute(TABLE)
                world.execute(FILL)
                await world.start_all(pollers=2, gateways=2)
                serving, other = [int((await world.http(f"gateway-{n}")).rpartition(":")[2]) for n in (1, 2)]
                poker = await Poker.connect(other)
                few = await latencies(world, serving, poker, clients=1)
                many = await latencies(world, serving, poker, clients=CLIENTS)
                query = await polls(world)
                cost = await flood(world, other)
    bare, _ = await yardstick(many.size // CLIENTS)
    table.show(
        "From a poke to clients, milliseconds",
        ("what", "p50", "p99", "target"),
        [
            ("the only client", *in_milliseconds(few.first), "6 (p50)"),
            (f"the first of {CLIENTS:,} clients", *in_milliseconds(many.first), "6 (p50)"),
            (f"the last of {CLIENTS:,} clients", *in_milliseconds(many.last), "15 (p99)"),
            ("… the same bytes by a bare transport.write", *in_milliseconds(bare), ""),
            ("the answer, 202", *in_milliseconds(few.answered), ""),
            ("the query alone, on one connection", *in_milliseconds(query), ""),
        ],
    )
    table.show(
        f"A flood of {FLOOD:,} pokes, each for another topic without clients",
        ("what", "pokes per second", "µs of CPU per poke", "growth, KiB"),
        [
            ("gateway", cost.rate, cost.gateway_cpu / FLOOD * 1e6, cost.gateway_grew // 1024),
            ("two pollers", "", cost.poller_cpu / FLOOD * 1e6, cost.poller_grew // 1024),
        ],
    )


@dataclass(frozen=True)
class Latencies:
    """Seconds from a poke to its answer and to clients, and the size of the messages that all clients received."""

    answered: list[float]
    first: list[float]
    last: list[float]
    size: int


async def latencies(world: World, port: int, poker: Poker, clients: int) -> Latencies:
    """Change the rows and poke, RESULTS times, and return what this took."""
    answered, first, last = list[float](), list[float](), list[float]()
    async with swarm() as crowd, await psycopg.AsyncConnection.connect(world.url, autocommit=True) as database:
        joins = Stage.joins([TOPIC])
        await crowd.ask(do="connect", port=port, path=SOCKET, n=clients, send=joins, until='"snapshot"')
        size = await change_size(crowd, database, poker)
        for _ in range(RESULTS):
            await change(database)
            await crowd.ask(do="reset")
            began = time.monotonic()
            poked = asyncio.create_task(poker.poke(TOPIC))
            expected = asyncio.create_task(crowd.ask(do="expect", bytes=size))
            assert await poked == 1
            answered.append(time.monotonic() - began)
            seen = await expected
            first.append(seen["first"] - began)
            last.append(seen["at"] - began)
            await asyncio.sleep(PAUSE_SECONDS)
    return Latencies(answered, first, last, size)


async def change(database: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
    """Change all rows, so that their size stays the same."""
    await database.execute(CHANGE, [f"{next(stamps):08}"])


async def change_size(crowd: Process, database: psycopg.AsyncConnection[tuple[object, ...]], poker: Poker) -> int:
    """Change the rows, poke, and return the bytes that all clients receive."""
    for _ in range(2):  # versions have as many digits from the second one on
        await change(database)
        await asyncio.sleep(0.5)
        await crowd.ask(do="reset")
        await poker.poke(TOPIC)
        await asyncio.sleep(0.5)
    return int((await crowd.ask(do="state"))["received"])


async def polls(world: World) -> list[float]:
    """Return the seconds that the query alone takes."""
    took = []
    async with await psycopg.AsyncConnection.connect(world.url, autocommit=True) as database:
        for _ in range(RESULTS):
            began = time.monotonic()
            await (await database.execute("select id, text from rows where n = %s order by id", [1])).fetchall()
            took.append(time.monotonic() - began)
    return took


async def flood(world: World, port: int) -> Flood:
    """Poke FLOOD topics that nobody watches."""
    numbers = iter(range(FLOOD))
    gateway = psutil.Process(world.services["gateway-2"].pid)
    pollers = [psutil.Process(world.services[f"poller-{n}"].pid) for n in (1, 2)]

    async def send(poker: Poker) -> None:
        for number in numbers:
            assert await poker.poke(f"bench?n={number + 1000}") == 0

    pokers = [await Poker.connect(port) for _ in range(CONNECTIONS)]
    for n, poker in enumerate(pokers):  # so that the memory of connections does not count
        await poker.poke(f"bench?n={n + 100}")
    before = [used(each) for each in (gateway, *pollers)]
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for poker in pokers:
            tasks.create_task(send(poker))
    rate = FLOOD / (time.monotonic() - began)
    cpu, grew = zip(
        *(
            (after[0] - earlier[0], after[1] - earlier[1])
            for earlier, after in zip(before, (used(each) for each in (gateway, *pollers)), strict=True)
        ),
        strict=True,
    )
    return Flood(rate, cpu[0], sum(cpu[1:]), grew[0], sum(grew[1:]))


def used(process: psutil.Process) -> tuple[float, int]:
    """Return the CPU seconds and the resident memory of a process."""
    times = process.cpu_times()
    return float(times.user + times.system), int(process.memory_info().rss)
