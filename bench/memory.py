"""Benchmark of memory: a gateway's per joined client, idle and busy, and a poller's peak (bench/poller_memory.py).

The memory of stuck sockets belongs to the benchmark `slow`.
"""

from __future__ import annotations

import asyncio

from bench import poller_memory, table
from bench.processes import swarm
from bench.stage import SOCKET, rows, stage, topic_names

CLIENTS = 10_000
SETTLE_SECONDS = 3.0
BUSY_SECONDS = 30


async def run() -> None:
    """Print the memory per client, with and without permessage-deflate, and a poller's."""
    await poller_memory.run()
    lines = []
    for deflate in (False, True):
        idle, busy = await per_client(deflate)
        lines.append(("permessage-deflate" if deflate else "plain", idle / 1024, busy / 1024))
    table.show(
        f"Memory: KiB of the gateway's RSS per joined client, {CLIENTS:,} clients on one topic (targets: 25, 30)",
        ("connection", "idle", "1 message a second"),
        lines,
    )


async def per_client(deflate: bool) -> tuple[float, float]:
    """Return the bytes of RSS per client when idle, and after BUSY_SECONDS with one message per second.

    A message is a delta of 1 KB, which the topic's history keeps as well.
    """
    names = topic_names(1)
    async with stage(names, rows(5, 180)) as on, swarm() as crowd:
        warm = {"port": on.port, "path": SOCKET, "send": on.joins(names), "deflate": deflate, "beats": True}
        await crowd.ask(do="connect", **warm, n=100, until='"interval_ms"')
        await crowd.ask(do="drop")
        await asyncio.sleep(SETTLE_SECONDS)
        before = on.gateway.rss
        await crowd.ask(do="connect", **warm, n=CLIENTS, until='"interval_ms"')
        await asyncio.sleep(SETTLE_SECONDS)
        idle = (on.gateway.rss - before) / CLIENTS
        for stamp in range(1, BUSY_SECONDS + 1):
            on.change(names[0], rows(5, 180, stamp))
            await asyncio.sleep(1.0)
        return idle, (on.gateway.rss - before) / CLIENTS
