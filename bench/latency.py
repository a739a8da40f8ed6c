"""Latency of a gateway: from a result to the last client, and from a join to its snapshot; joins per CPU-second."""

from __future__ import annotations

import asyncio
import time
from itertools import count

from bench import table
from bench.processes import Process, swarm
from bench.stage import SOCKET, Stage, rows, stage, topic_names

CLIENTS = 1_000
RESULTS = 200
PAUSE_SECONDS = 0.05
JOINS = 2_000

stamps = count(1)


async def run() -> None:
    names = topic_names(1)
    async with stage(names, rows(5, 180), environment={"POLLCAST_JOIN_RATE": "1000000"}) as on:
        async with swarm() as crowd:
            await crowd.ask(do="connect", port=on.port, path=SOCKET, n=CLIENTS, say=on.joins(names), until='"snapshot"')
            size = await round_size(on, crowd, names[0])
            took = [await result(on, crowd, names[0], size) for _ in range(RESULTS)]
        async with swarm() as crowd:
            joined, per_join, per_connection = await joins(on, crowd, names[0])
    table.show(
        "Latency, milliseconds",
        ("what", "p50", "p99", "target (p99)"),
        [
            (
                f"a result to the last of {CLIENTS:,} clients",
                table.percentile(took, 0.5) * 1e3,
                table.percentile(took, 0.99) * 1e3,
                20,
            ),
            ("a join of a warm topic to its snapshot", joined["p50"] * 1e3, joined["p99"] * 1e3, 5),
        ],
    )
    table.show(
        "Joins per CPU-second of the gateway (target: 3,000; Phoenix: 2,000 to 2,500)",
        ("what", "per second"),
        [
            ("joins on sockets that are there, each with a snapshot", 1 / per_join),
            ("connections: TCP, HTTP, handshake, join, snapshot", 1 / per_connection),
        ],
    )


async def round_size(on: Stage, crowd: Process, topic: str) -> int:
    """Bytes that all clients get together of one change."""
    await asyncio.sleep(0.5)
    await crowd.ask(do="reset")
    on.change(topic, rows(5, 180, next(stamps)))
    await asyncio.sleep(0.5)
    return int((await crowd.ask(do="state"))["received"])


async def result(on: Stage, crowd: Process, topic: str, size: int) -> float:
    """Seconds from `Stage.change` to the last byte at the last client."""
    await crowd.ask(do="reset")
    began = time.monotonic()
    on.change(topic, rows(5, 180, next(stamps)))
    at = (await crowd.ask(do="expect", bytes=size))["at"]
    await asyncio.sleep(PAUSE_SECONDS)
    return float(at) - began


async def joins(on: Stage, crowd: Process, topic: str) -> tuple[dict[str, float], float, float]:
    """Seconds of one join after the other, CPU-seconds per join, CPU-seconds per connection with its join."""
    say = on.joins([topic])[0]
    await crowd.ask(do="connect", port=on.port, path=SOCKET, n=JOINS, say=[""], until="")
    one_by_one = await crowd.ask(do="say", text=say, until='"snapshot"', first=0, last=500)
    await crowd.ask(do="reset")
    await crowd.ask(do="say", text=say, first=500, last=501)
    await asyncio.sleep(0.5)
    size = (await crowd.ask(do="state"))["received"]
    await crowd.ask(do="reset")
    before = on.gateway.cpu
    await crowd.ask(do="say", text=say, first=501)
    await crowd.ask(do="expect", bytes=size * (JOINS - 501))
    per_join = (on.gateway.cpu - before) / (JOINS - 501)
    await crowd.ask(do="drop")
    await asyncio.sleep(1.0)
    before = on.gateway.cpu
    await crowd.ask(do="connect", port=on.port, path=SOCKET, n=JOINS, say=[say], until='"snapshot"')
    return one_by_one, per_join, (on.gateway.cpu - before) / JOINS
