"""Latency of a gateway: from a poll's result to the last client, and from a join to its snapshot; joins per CPU-second."""

from __future__ import annotations

import asyncio
import time

from bench import table
from bench.processes import Process, swarm
from bench.stage import SOCKET, Stage, rows, stage, topic_names

CLIENTS = 1_000
RESULTS = 200
PAUSE_SECONDS = 0.05
JOINS = 2_000


async def run() -> None:
    names = topic_names(1)
    async with stage(names, rows(5, 180), environment={"POLLCAST_JOIN_RATE": "1000000"}) as on:
        async with swarm() as crowd:
            await crowd.ask(
                do="connect", port=on.port, path=SOCKET, n=CLIENTS, say=on.joins(names), until='"snapshot"'
            )
            took = await results(on, crowd, names[0])
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


async def results(on: Stage, crowd: Process, topic: str, count: int = RESULTS) -> list[float]:
    """Seconds from `Stage.change` to the last byte at the last client, each time."""
    await crowd.ask(do="reset")
    on.change(topic, rows(5, 180, 1))
    await asyncio.sleep(1.0)
    size = (await crowd.ask(do="state"))["received"]
    took = []
    for stamp in range(2, count + 2):
        await crowd.ask(do="reset")
        began = time.monotonic()
        on.change(topic, rows(5, 180, stamp))
        # A version that has become a digit longer is told twice in a message; one that is shorter never comes.
        took.append((await crowd.ask(do="expect", bytes=size))["at"] - began)
        await asyncio.sleep(PAUSE_SECONDS)
    return took


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
