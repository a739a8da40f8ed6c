"""Benchmark of latency: from a result to its last client, and from a join to its snapshot, for topics that are polled
already and for topics that are not. It also counts joins per CPU-second. The first is compared with `bench.yardstick`
for the same clients and bytes.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from itertools import count
from pathlib import Path

from tests.support.world import start_world

from bench import table
from bench.processes import Process, module, running, swarm
from bench.stage import SOCKET, Stage, rows, stage, topic_names
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.local.postgres_server import PostgresServer

CLIENTS = 1_000
RESULTS = 200
PAUSE_SECONDS = 0.05
JOINS = 2_000
COLD = 200

COLD_CATALOG = """
[queries.one]
sql = "select %(n)s as n"
interval = "1s"
[queries.one.params]
n = "int"
"""

stamps = count(1)
"""Numbers that make each change of the rows a different one."""


async def run() -> None:
    """Print the latencies and the joins per CPU-second."""
    names = topic_names(1)
    async with stage(names, rows(5, 180), environment={"POLLCAST_JOIN_RATE": "1000000"}) as on:
        async with swarm() as crowd:
            await crowd.ask(
                do="connect", port=on.port, path=SOCKET, n=CLIENTS, send=on.joins(names), until='"snapshot"'
            )
            size = await round_size(on, crowd, names[0])
            took = [await result(on, crowd, names[0], size) for _ in range(RESULTS)]
        async with swarm() as crowd:
            joined, per_join, per_connection = await joins(on, crowd, names[0])
    bare, per_bare_connection = await yardstick(size // CLIENTS)
    cold = await cold_joins()
    table.show(
        "Latency, milliseconds",
        ("what", "p50", "p99", "target (p99)"),
        [
            (f"a result to the last of {CLIENTS:,} clients", *in_milliseconds(took), 20),
            ("… the same bytes by a bare transport.write", *in_milliseconds(bare), ""),
            ("a join of a warm topic to its snapshot", joined["p50"] * 1e3, joined["p99"] * 1e3, 5),
            ("a join of a topic without clients, to its first result", *in_milliseconds(cold), "50 + query"),
        ],
    )
    table.show(
        "Joins per CPU-second of the gateway (target: 3,000; Phoenix: 2,000 to 2,500)",
        ("what", "per second"),
        [
            ("on open sockets, each with its snapshot", 1 / per_join),
            ("with TCP, HTTP and the handshake", 1 / per_connection),
            ("… by a bare server that answers prepared bytes once", 1 / per_bare_connection),
        ],
    )


async def round_size(on: Stage, crowd: Process, topic: str) -> int:
    """Change the topic once and return the bytes that all clients together receive."""
    await asyncio.sleep(0.5)
    await crowd.ask(do="reset")
    on.change(topic, rows(5, 180, next(stamps)))
    await asyncio.sleep(0.5)
    return int((await crowd.ask(do="state"))["received"])


async def result(on: Stage, crowd: Process, topic: str, size: int) -> float:
    """Change the topic and return the seconds from `Stage.change` to the last byte at the last client."""
    await crowd.ask(do="reset")
    began = time.monotonic()
    on.change(topic, rows(5, 180, next(stamps)))
    at = (await crowd.ask(do="expect", bytes=size))["at"]
    await asyncio.sleep(PAUSE_SECONDS)
    return float(at) - began


def in_milliseconds(seconds: list[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile in milliseconds."""
    return table.percentile(seconds, 0.5) * 1e3, table.percentile(seconds, 0.99) * 1e3


async def yardstick(size: int) -> tuple[list[float], float]:
    """Return the seconds that each of RESULTS messages of a bare server takes, as `result` measures them, and the
    server's CPU-seconds per connection."""
    async with running(*module("bench.yardstick", 1, size)) as server, swarm() as crowd:
        port = int(await server.line())
        await crowd.ask(do="connect", port=port, path="/", n=CLIENTS, send=[""], until="ready")
        took = []
        for _ in range(RESULTS):
            await crowd.ask(do="reset")
            began = time.monotonic()
            server.write_line(b"0")
            took.append(float((await crowd.ask(do="expect", bytes=size * CLIENTS))["at"]) - began)
            await asyncio.sleep(PAUSE_SECONDS)
        before = server.cpu
        await crowd.ask(do="connect", port=port, path=SOCKET, n=JOINS, send=[""], until="ready")
        return took, (server.cpu - before) / JOINS


async def cold_joins() -> list[float]:
    """Join COLD new topics of a real cluster one after the other and return the seconds from each join to its snapshot.

    Each join takes the whole way: demand, claim, poll and Feed.
    """
    with tempfile.TemporaryDirectory(prefix="pollcast-bench-") as name:
        folder = Path(name)
        with EtcdServer.start(folder / "etcd") as etcd, PostgresServer.start(folder / "pg") as postgres:
            async with start_world(folder, etcd.endpoints, postgres.url, catalog=COLD_CATALOG) as world:
                await world.start_all(pollers=2, gateways=1)
                port = int((await world.http("gateway-1")).rpartition(":")[2])
                took = []
                async with swarm() as crowd:
                    for n in range(COLD):
                        send = Stage.joins([f"one?n={n}"])
                        order = {"do": "connect", "port": port, "path": SOCKET, "n": 1, "send": send}
                        took.append((await crowd.ask(**order, until='"snapshot"'))["join_p50"])
                return took


async def joins(on: Stage, crowd: Process, topic: str) -> tuple[dict[str, float], float, float]:
    """Return three costs: the seconds of single joins (`p50`, `p99`, `p100`), the gateway's CPU-seconds per join on an
    open socket, and its CPU-seconds per connection with its join."""
    send = on.joins([topic])[0]
    await crowd.ask(do="connect", port=on.port, path=SOCKET, n=JOINS, send=[""], until="")
    one_by_one = await crowd.ask(do="send", text=send, until='"snapshot"', first=0, last=500)
    await crowd.ask(do="reset")
    await crowd.ask(do="send", text=send, first=500, last=501)
    await asyncio.sleep(0.5)
    size = (await crowd.ask(do="state"))["received"]
    await crowd.ask(do="reset")
    before = on.gateway.cpu
    await crowd.ask(do="send", text=send, first=501)
    await crowd.ask(do="expect", bytes=size * (JOINS - 501))
    per_join = (on.gateway.cpu - before) / (JOINS - 501)
    await crowd.ask(do="drop")
    await asyncio.sleep(1.0)
    before = on.gateway.cpu
    await crowd.ask(do="connect", port=on.port, path=SOCKET, n=JOINS, send=[send], until='"snapshot"')
    return one_by_one, per_join, (on.gateway.cpu - before) / JOINS
