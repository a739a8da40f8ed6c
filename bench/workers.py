"""Benchmark of a gateway with several workers: CPU per delivered message, and what the workers deliver together.

The machine has few cores, and the clients need some of them. So the rate is not taken from the clock: it is the number
of messages per CPU-second of the busiest worker, which is what the gateway delivers where each worker has a core.
"""

from __future__ import annotations

import asyncio

from bench import table
from bench.fanout import ROW_BYTES, ROWS
from bench.processes import swarm
from bench.stage import SOCKET, rows, stage, topic_names

SHAPES = ((1_000, 1), (2_000, 200))
"""Shapes to measure: the number of clients and the number of topics that they are spread over."""

WORKERS = (1, 2)
MESSAGES = 100_000


async def run() -> None:
    """Print the CPU cost of a message and the rate for each of SHAPES and WORKERS."""
    lines = []
    for clients, topics in SHAPES:
        for workers in WORKERS:
            busy, messages = await cpu_of_workers(clients, topics, workers)
            shape = f"{clients:,} clients, {topics} topic{'s'[: topics - 1]}"
            lines.append((shape, workers, sum(busy) / messages * 1e6, messages / max(busy)))
    table.show(
        "Workers: CPU per message, and messages per second where each worker has a core",
        ("shape", "workers", "CPU-seconds per million messages", "messages/s"),
        lines,
    )


async def cpu_of_workers(clients: int, topics: int, workers: int) -> tuple[list[float], int]:
    """Return the CPU seconds of each worker for a number of messages, and that number."""
    names = topic_names(topics)
    environment = {"POLLCAST_WORKERS": str(workers)}
    async with stage(names, rows(ROWS, ROW_BYTES), environment=environment) as on, swarm() as crowd:
        await crowd.ask(do="connect", port=on.port, path=SOCKET, n=clients, send=on.joins(names), until='"interval_ms"')
        await asyncio.sleep(0.5)
        await crowd.ask(do="reset")
        for name in names:  # to learn the size of a message, and to warm up
            on.change(name, rows(ROWS, ROW_BYTES, 1))
        await asyncio.sleep(1.0)
        size = (await crowd.ask(do="state"))["received"] // clients
        await crowd.ask(do="reset")
        before = on.gateway.cpu_of_workers or [on.gateway.cpu]
        rounds = max(1, MESSAGES // clients)
        for number in range(rounds):
            for name in names:
                on.change(name, rows(ROWS, ROW_BYTES, number + 2))
            await crowd.ask(do="expect", bytes=(number + 1) * clients * (size - 8))
        after = on.gateway.cpu_of_workers or [on.gateway.cpu]
        return [late - early for early, late in zip(before, after, strict=True)], rounds * clients
