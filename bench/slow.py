"""Benchmark of slow readers: the memory of stuck sockets by pattern (bench/stuck.py), and the life of 100 of them.

These clients do not read, on a topic that sends a snapshot of 100 KB with each change.
"""

from __future__ import annotations

import asyncio

from bench import stuck, table
from bench.processes import swarm
from bench.stage import SOCKET, WHOLE, noise, stage

SLOW = 100
QUICK = 100
SNAPSHOT_BYTES = 100_000
CHANGES = 150
PAUSE_SECONDS = 0.1
STUCK_SECONDS = 30.0


async def run() -> None:
    """Print the memory of stuck sockets by pattern, and what becomes of clients that do not read."""
    await stuck.run()
    async with stage([WHOLE], noise(SNAPSHOT_BYTES)) as on, swarm() as slow, swarm() as quick:
        everybody = {"do": "connect", "port": on.port, "path": SOCKET, "send": on.joins([WHOLE]), "until": '"snapshot"'}
        await slow.ask(**everybody, n=SLOW)
        await quick.ask(**everybody, n=QUICK, beats=True)
        await asyncio.sleep(1.0)
        await slow.ask(do="pause")
        await quick.ask(do="reset")
        memory = []
        for number in range(1, CHANGES + 1):
            on.change(WHOLE, noise(SNAPSHOT_BYTES))
            await quick.ask(do="expect", bytes=int(number * QUICK * SNAPSHOT_BYTES))
            await asyncio.sleep(PAUSE_SECONDS)
            if number % 30 == 0:
                memory.append((number, on.gateway.rss / 1024 / 1024))
        fell = on.metrics()["pollcast_gateway_slow_readers_total"]
        # Half of them read again: each receives what the buffers hold and then only the newest snapshot.
        await slow.ask(do="reset")
        await slow.ask(do="resume", first=0, last=SLOW // 2)
        await asyncio.sleep(2.0)
        caught_up = (await slow.ask(do="state"))["received"] / (SLOW // 2) / SNAPSHOT_BYTES
        await asyncio.sleep(STUCK_SECONDS)
        closed = on.metrics()["pollcast_gateway_stuck_sockets_total"]
    table.show(
        f"Slow readers: RSS of the gateway while {SLOW} of {SLOW + QUICK} clients read no snapshots of 100 KB",
        ("changes", "MiB"),
        memory,
    )
    print(
        f"Sockets that fell behind: {fell:.0f}. Each of those that read again received {caught_up:.1f} of {CHANGES} "
        f"snapshots, most from the kernel's buffers. Closed with 1013 after {STUCK_SECONDS:.0f} s: {closed:.0f}."
    )
