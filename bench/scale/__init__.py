"""Benchmark of size: a cluster of up to a hundred nodes on one machine, most of them simulated."""

from __future__ import annotations

import argparse
import pprint
import time
from collections.abc import Sequence
from pathlib import Path

from bench import table
from bench.scale.cluster import LISTENS, Size, cluster
from bench.scale.measure import Result, as_dict, measure


def sizes(options: Sequence[str]) -> tuple[list[Size], argparse.Namespace]:
    """Return the sizes that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench scale")
    parser.add_argument("--topics", type=int, default=1000)
    parser.add_argument("--pollers", type=int, default=3)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--real-pollers", type=int, default=1)
    parser.add_argument("--real-gateways", type=int, default=1)
    parser.add_argument("--served", type=int, default=1000, help="topics with a client, per real gateway")
    parser.add_argument("--kind", choices=("light", "product", "idle"), default="light")
    parser.add_argument("--processes", type=int, default=1, help="processes of simulated pollers")
    parser.add_argument("--ttl", type=int, default=5)
    parser.add_argument("--interval", default="30s")
    parser.add_argument("--listens", default=",".join(LISTENS), help="prefixes that each simulated node watches")
    parser.add_argument("--folder", type=Path, help="keep logs and the stacks of stops here")
    parser.add_argument("--join", action="store_true", help="let a poller join at last")
    parser.add_argument("--kill", action="store_true", help="kill a real poller at last")
    parser.add_argument("--details", action="store_true")
    given = parser.parse_args(options)
    size = Size(
        given.topics, given.pollers, given.gateways, min(given.real_pollers, given.pollers),
        min(given.real_gateways, given.gateways), given.served, given.kind, given.processes, given.ttl, given.interval,
        tuple(filter(None, given.listens.split(","))),
    )  # fmt: skip
    return [size], given


def show(size: Size, result: Result) -> None:
    """Print the measurements of one cluster."""
    start, rest, churn = result.start, result.rest, result.churn
    assert start is not None
    assert rest is not None
    title = f"{size.topics:,} topics × {size.pollers} pollers × {size.gateways} gateways"
    table.show(
        f"{title} ({size.real_pollers} and {size.real_gateways} of them real, the others {size.kind})",
        ("", "seconds", "changes of keys", "proposals", "watch events", "MB from etcd", "messages of watches"),
        [
            (name, p.seconds, int(p.changes), int(p.etcd["proposals"]), int(p.etcd["events"]), p.etcd["sent"] / 1e6,
             int(p.etcd["watch answers"]))
            for name in ("start", "rest", "churn", "join", "kill") if (p := getattr(result, name)) is not None
        ],
    )  # fmt: skip
    rows = []
    for name in start.cpu:
        mib = result.rss.get(name, 0) / 2**20
        row: list[object] = [name, result.owned_by.get(name, ""), start.cpu[name], start.stops.get(name, 0.0) * 1e3]
        row += [100 * rest.cpu[name] / rest.seconds, rest.stops.get(name, 0.0) * 1e3]
        if churn is not None:
            idle = rest.cpu[name] / rest.seconds * churn.seconds
            row.append(1e6 * (churn.cpu[name] - idle) / max(1.0, churn.changes))
            row.append(churn.stops.get(name, 0.0) * 1e3)
        else:
            row += ["", ""]
        rows.append([*row, mib, mib - result.empty.get(name, 0) / 2**20])
    head = ["", "topics", "CPU s to start", "stop ms", "rest % of a core", "stop ms", "µs per change", "stop ms"]
    head += ["RSS MiB", "more than empty"]
    table.show("processes", head, rows)
    views = result.views
    print(
        f"the coordinator: first page {views.page[0] * 1e3:.0f} ms of CPU in {views.page[1] * 1e3:.0f} ms; all topics "
        f"{views.listing[0] * 1e3:.0f} ms of CPU in {views.listing[1]:.2f} s; `top` {100 * views.top:.1f} % of a core "
        f"and {views.top_bytes / 1e3:.1f} KB/s"
    )
    if result.joined:
        table.show(
            f"a poller joins, whose share is {size.topics / (size.pollers + 1):.0f}",
            ("seconds after", "its topics", "least", "most"),
            result.joined,
        )
    if result.kill is not None:
        print(f"a poller with {result.killed[0]:,} topics killed: all owned after {result.killed[1] * 1000:.0f} ms")
    print(
        f"every topic owned after {result.owned_seconds:.1f} s, with results after {result.results_seconds:.1f} s; "
        f"sessions lost: {result.lost}; watchers: {result.watchers:.0f}\n",
        flush=True,
    )


async def run(options: Sequence[str] = ()) -> None:
    """Measure clusters of the sizes that the command line asks for."""
    wanted, given = sizes(options)
    for size in wanted:
        began = time.monotonic()
        if given.folder is not None:
            given.folder.mkdir(parents=True, exist_ok=True)
        async with cluster(size, given.folder) as running:
            print(f"ready after {time.monotonic() - began:.1f} s", flush=True)
            result = await measure(running, joins=given.join, kills=given.kill)
            show(size, result)
            if given.details:
                pprint.pprint(as_dict(result), width=160)
