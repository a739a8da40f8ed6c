"""Benchmark of connecting: the CPU time of one connection, and a reconnect storm.

In the storm a gateway is killed, its 2,000 clients connect to another one at once, and the delay of results for the
clients that were there already is measured.
"""

from __future__ import annotations

import asyncio
import time

from bench import table
from bench.latency import result, round_size
from bench.processes import Process, module, running, swarm
from bench.stage import SOCKET, rows, stage, topic_names

OTHERS = 500
REFUGEES = 2_000


CONNECTIONS = 4_000
CONCURRENCY = 100
SETTLE_SECONDS = 1.0


async def run() -> None:
    """Print both benchmarks."""
    await connections()
    await storm()


async def connections() -> None:
    """Print the gateway's CPU time per connection, with the headers of a browser, beside that of a bare server."""
    names = topic_names(1)
    async with stage(names, rows(5, 180)) as on:
        join = on.joins(names)[0]
        to_101 = await per_connection(on.gateway, on.port, "", "")
        joined = await per_connection(on.gateway, on.port, join, '"interval_ms"')
    async with running(*module("bench.yardstick", 1, 1)) as server:
        bare = await per_connection(server, int(await server.line()), "", "ready")
    lines = [
        ("TCP, HTTP and the handshake", to_101 * 1e6, 1 / to_101),
        ("… and a join with its snapshot", joined * 1e6, 1 / joined),
        ("a bare server", bare * 1e6, 1 / bare),
    ]
    table.show(
        f"Connections with a browser's headers and deflate, {CONCURRENCY} at a time (target: 8,000 a second)",
        ("what", "CPU µs", "per CPU-second"),
        lines,
    )


async def per_connection(server: Process, port: int, send: str, until: str) -> float:
    """Return the server's CPU-seconds per connection that sends a message and has arrived when it gets `until`."""
    best = float("inf")
    for _ in range(3):
        async with swarm() as clients:
            order = {"do": "connect", "port": port, "path": SOCKET, "send": [send], "until": until}
            order |= {"browser": True, "deflate": True, "concurrency": CONCURRENCY}
            await clients.ask(**order, n=200)
            before = server.cpu
            await clients.ask(**order, n=CONNECTIONS)
            best = min(best, (server.cpu - before) / CONNECTIONS)
        await asyncio.sleep(SETTLE_SECONDS)  # until the server has noticed that they are gone
    return best


async def storm() -> None:
    """Print the latencies before and during the storm, and its cost in CPU time and etcd writes."""
    names = topic_names(2)
    async with stage(names, rows(5, 180), gateways=2) as on, swarm() as others, swarm() as refugees:
        joins = on.joins(names)
        await others.ask(do="connect", port=on.ports[1], path=SOCKET, n=OTHERS, send=joins[:1], until='"snapshot"')
        # A few clients of the refugees' topic are on the second gateway already, so that the topic is warm there.
        await others.ask(do="connect", port=on.ports[1], path=SOCKET, n=5, send=joins[1:], until='"snapshot"')
        await refugees.ask(do="connect", port=on.ports[0], path=SOCKET, n=REFUGEES, send=joins[1:], until='"snapshot"')
        size = await round_size(on, others, names[0])
        calm = [await result(on, others, names[0], size) for _ in range(100)]
        revision, cpu = await on.revision(), on.gateways[1].cpu
        on.gateways[0].process.kill()
        began = time.monotonic()
        storm = {
            "do": "connect",
            "port": on.ports[1],
            "path": SOCKET,
            "n": REFUGEES,
            "send": joins[1:],
            "until": '"snapshot"',
            "concurrency": REFUGEES,
        }
        arriving = asyncio.ensure_future(refugees.ask(**storm))
        rough: list[float] = []
        while not arriving.done():
            rough.append(await result(on, others, names[0], size))
        arrived = await arriving
        writes = await on.revision() - revision
        lines = [
            ("a result to the last of the others, before the storm: p50", table.percentile(calm, 0.5) * 1e3),
            ("… p99", table.percentile(calm, 0.99) * 1e3),
            ("a result to the last of the others, during the storm: p50", table.percentile(rough, 0.5) * 1e3),
            ("… maximum", max(rough) * 1e3),
            ("until all clients are back", arrived["seconds"] * 1e3),
            ("one client, from TCP to its snapshot: p50", arrived["connect_p50"] * 1e3),
            ("… maximum", arrived["connect_p100"] * 1e3),
        ]
        table.show(
            f"A storm: {REFUGEES:,} clients connect at once to a gateway with {OTHERS} others",
            ("what", "ms"),
            lines,
        )
        print(f"Writes to etcd meanwhile, the dead gateway's keys included: {writes}. ", end="")
        print(f"CPU of the gateway: {(on.gateways[1].cpu - cpu):.2f} s in {time.monotonic() - began:.2f} s.")
