"""Benchmark of fan-out: CPU per delivered message, compared with `bench.yardstick` for the same clients and bytes."""

from __future__ import annotations

import asyncio
import statistics

from bench import table
from bench.processes import module, running, swarm
from bench.stage import SOCKET, rows, stage, topic_names

SHAPES = ((1_000, 1, False), (10_000, 1, False), (2_000, 200, False), (1_000, 1, True), (10_000, 1, True))
"""Shapes to measure: the number of clients, the number of topics that they are spread over, and whether they are event
streams instead of WebSockets."""

ROWS = 5
ROW_BYTES = 180
"""Size of a row in bytes. Each message is a delta of all ROWS rows: about 1 KB."""

MESSAGES_PER_RUN = 200_000
RUNS = 3


async def run() -> None:
    """Print the CPU cost of a message for each of SHAPES."""
    lines = []
    for clients, topics, events in SHAPES:
        ours, size = await gateway_cost(clients, topics, events=events)
        bare = await yardstick_cost(clients, topics, size)
        kind = "event streams" if events else "clients"
        lines.append((f"{clients:,} {kind}, {topics} topic{'s'[: topics - 1]}", size, bare, ours, ours / bare))
    table.show(
        "Fan-out: CPU-seconds of the server per million delivered messages",
        ("shape", "bytes", "bare transport.write", "gateway", "ratio"),
        lines,
    )


async def gateway_cost(clients: int, topics: int, deflate: bool = False, events: bool = False) -> tuple[float, int]:
    """Return a gateway's CPU-seconds per million messages, and the bytes of one message.

    With `events` the clients are event streams of the first topic.
    """
    names = topic_names(topics)
    async with stage(names, rows(ROWS, ROW_BYTES)) as on, swarm() as crowd:
        await crowd.ask(
            do="connect",
            port=on.port,
            path=f"/live/{names[0]}" if events else SOCKET,
            n=clients,
            send=[""] if events else on.joins(names),
            until="event: snapshot" if events else '"interval_ms"',
            deflate=deflate,
            events=events,
        )
        await asyncio.sleep(0.5)
        await crowd.ask(do="reset")
        stamp = 1
        for name in names:  # to learn the size of a message, and to warm up
            on.change(name, rows(ROWS, ROW_BYTES, stamp))
        await asyncio.sleep(1.0)
        size = (await crowd.ask(do="state"))["received"] // clients
        costs = []
        rounds = max(1, MESSAGES_PER_RUN // clients)
        for _ in range(RUNS):
            await crowd.ask(do="reset")
            before = on.gateway.cpu
            for number in range(rounds):
                stamp += 1
                for name in names:
                    on.change(name, rows(ROWS, ROW_BYTES, stamp))
                await crowd.ask(do="expect", bytes=(number + 1) * clients * (size - 8))
            costs.append((on.gateway.cpu - before) / (rounds * clients) * 1e6)
        return statistics.median(costs), size


async def yardstick_cost(clients: int, topics: int, size: int) -> float:
    """Return the bare server's CPU-seconds per million messages of `size` bytes."""
    async with running(*module("bench.yardstick", topics, size)) as server, swarm() as crowd:
        port = int(await server.line())
        await crowd.ask(do="connect", port=port, path="/", n=clients, send=[""], until="ready")
        costs = []
        rounds = max(1, MESSAGES_PER_RUN // clients)
        for _ in range(RUNS):
            await crowd.ask(do="reset")
            before = server.cpu
            for number in range(rounds):
                for group in range(topics):
                    server.write_line(b"%d" % group)
                await crowd.ask(do="expect", bytes=(number + 1) * clients * size)
            costs.append((server.cpu - before) / (rounds * clients) * 1e6)
        return statistics.median(costs)
