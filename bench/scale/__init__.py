"""Benchmark of size: clusters of up to a hundred pollers on one machine, most of them simulated.

`python -m bench scale` measures all of TOPICS × POLLERS × GATEWAYS, as many of them as BUDGET_SECONDS allow, the
smallest first. With options it measures one size (`--topics 20000 --pollers 50 --gateways 2`), or several
(`--topics 100,100000`), in detail.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import pprint
import time
from collections.abc import Sequence
from pathlib import Path

from bench.scale import tables
from bench.scale.cluster import LISTENS, Size, cluster
from bench.scale.measure import REST_SECONDS, Result, as_dict, empty, measure

TOPICS = (1_000, 10_000, 100_000)
POLLERS = (3, 20, 100)
GATEWAYS = (2, 20)

BUDGET_SECONDS = 570.0
"""Time for a run without options, in seconds."""

SECONDS_PER_TOPIC = 0.0008
"""Time that a size is expected to take at most for each of its topics, in seconds: one without time left is skipped."""


def numbers(text: str) -> list[int]:
    """Parse numbers that are separated by commas."""
    return [int(number) for number in text.split(",")]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = argparse.ArgumentParser(prog="python -m bench scale")
    options.add_argument("--topics", type=numbers, default=[1000])
    options.add_argument("--pollers", type=numbers, default=[3])
    options.add_argument("--gateways", type=numbers, default=[2])
    options.add_argument("--real-pollers", type=int, default=1)
    options.add_argument("--real-gateways", type=int, default=1)
    options.add_argument("--served", type=int, default=1000, help="topics with a client, per real gateway")
    options.add_argument("--kind", choices=("light", "product", "idle"), default="light", help="bench/scale/pollers.py")
    options.add_argument("--processes", type=int, default=1, help="processes of simulated pollers")
    options.add_argument("--ttl", type=int, default=5, help="time to live of leases, in seconds")
    options.add_argument("--interval", default="30s")
    options.add_argument("--listens", default=",".join(LISTENS), help="prefixes that simulated nodes watch")
    options.add_argument("--folder", type=Path, help="keep logs and stacks of stops here, at some cost of CPU")
    options.add_argument("--join", action="store_true", help="let a poller join at last")
    options.add_argument("--kill", action="store_true", help="kill a real poller at last")
    options.add_argument("--details", action="store_true")
    return options


async def several(size: Size, topics: Sequence[int], given: argparse.Namespace, ends: float) -> list[Result]:
    """Measure a cluster with each number of topics in turn, those that are expected to end in time."""
    results: list[Result] = []
    rest_seconds = REST_SECONDS if ends == float("inf") else REST_SECONDS / 2
    failed = False
    began = time.monotonic()
    async with cluster(size, given.folder) as running:
        nodes = f"{size.pollers} pollers and {size.gateways} gateways"
        print(f"{nodes} are ready after {time.monotonic() - began:.1f} s", flush=True)
        for number, count in enumerate(topics):
            if time.monotonic() + count * SECONDS_PER_TOPIC > ends:
                print(f"left out for want of time: {tables.title(dataclasses.replace(size, topics=count))}", flush=True)
                continue
            running.size = dataclasses.replace(size, topics=count)
            last = number == len(topics) - 1
            try:
                result = await measure(
                    running, joins=given.join and last, kills=given.kill and last, rest_seconds=rest_seconds
                )
                results.append(result)
                if not last:
                    await empty(running)
            except* TimeoutError as late:
                print(f"{tables.title(running.size)}: {late.exceptions[0]}", flush=True)
                failed = True
            if failed:
                break
    return results


async def run(options: Sequence[str] = ()) -> None:
    """Measure clusters of the sizes that the command line asks for."""
    given = parser().parse_args(options)
    pollers, gateways, topics, ends = given.pollers, given.gateways, given.topics, float("inf")
    if not options:
        pollers, gateways, topics = POLLERS, GATEWAYS, TOPICS
        ends = time.monotonic() + BUDGET_SECONDS
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
    all_results: list[Result] = []
    for of_pollers, of_gateways in itertools.product(pollers, gateways):
        size = Size(
            topics[-1], of_pollers, of_gateways, min(given.real_pollers, of_pollers),
            min(given.real_gateways, of_gateways), given.served, given.kind,
            given.processes if options else 1 + (of_pollers > 20), given.ttl, given.interval,
            tuple(filter(None, given.listens.split(","))), stacks=given.folder is not None,
        )  # fmt: skip
        for result in await several(size, topics, given, ends):
            all_results.append(result)
            if options:
                tables.show_one(result)
            if given.details:
                pprint.pprint(as_dict(result), width=160)
    tables.show_all(all_results)
