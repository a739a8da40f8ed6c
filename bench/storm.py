"""Benchmark of a reconnect storm: a gateway is killed, its 2,000 clients connect to another one at once, and the delay
of results for the clients that were there already is measured."""

from __future__ import annotations

import asyncio
import time

from bench import table
from bench.latency import result, round_size
from bench.processes import swarm
from bench.stage import SOCKET, rows, stage, topic_names

OTHERS = 500
REFUGEES = 2_000


async def run() -> None:
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
