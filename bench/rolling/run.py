"""The course of the rolling restart, and its table."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from tests.support.waiting import eventually

from bench.processes import Process, module, running
from bench.rolling.crowd import Report
from bench.rolling.haproxy import haproxy
from bench.soak.cluster import NODES, SoakCluster, soak_cluster
from bench.soak.shop import ITEMS, rows_of
from bench.table import percentile, show

PROCESSES = 2
"""Number of crowds, each a process with a load balancer of its own: one has not enough file descriptors."""

SHARES = {"WebSocket": 0.5, "SSE": 0.3, "JSON": 0.15, "gRPC": 0.05}
"""Share of each protocol among the clients."""

TOPICS = [f"stock?shelf={shelf}" for shelf in "abcd"]

WRITE_SECONDS = 1.25
"""Time between two changes of rows, in seconds. The topics take turns, so each changes every five seconds."""

ARRIVAL_SECONDS = 300.0
QUIET_SECONDS = 60.0


async def run(options: Sequence[str] = ()) -> None:
    """Restart everything and print the table. Raises SystemExit when a client was lost or shows wrong rows."""
    values = dict(zip(options[::2], options[1::2], strict=False))
    if set(values) - {"--clients", "--check"} or len(options) % 2:
        raise SystemExit("options of `rolling`: --clients 10000, --check 5")
    clients, check = int(values.get("--clients", "10000")), float(values.get("--check", "5"))
    folder = Path(tempfile.mkdtemp(prefix="pollcast-rolling-"))
    async with (
        soak_cluster(folder, {**NODES, "poller": 2, "gateway": 3}) as cluster,
        contextlib.AsyncExitStack() as stack,
    ):
        gateways = [(cluster.http[name][1], cluster.grpc[name][1]) for name in sorted(cluster.http)]
        crowds = []
        for number in range(PROCESSES):
            http, grpc = await stack.enter_async_context(haproxy(folder, number, gateways, check))
            process = running(*module("bench.rolling.crowd"), errors=folder / f"crowd-{number}.log")
            crowd = await stack.enter_async_context(process)
            counts = {kind: round(clients * share / PROCESSES) for kind, share in SHARES.items()}
            await crowd.ask(do="join", http=http, grpc=grpc, counts=counts, topics=TOPICS)
            crowds.append(crowd)
        faults = await _restart_under_load(cluster, crowds, clients)
    if faults:
        print(*(f"FINDING: {fault}" for fault in faults[:20]), f"the logs are in {folder}", sep="\n")
        raise SystemExit(1)
    shutil.rmtree(folder, ignore_errors=True)


async def _restart_under_load(cluster: SoakCluster, crowds: list[Process], clients: int) -> list[str]:
    """Restart all services while rows change, print the tables, and return the faults."""
    url = cluster.world.url
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(_write(url))
        await eventually(lambda: _none(crowds, do="waiting"), ARRIVAL_SECONDS, what="all clients have a result")
        for crowd in crowds:
            await crowd.ask(do="begin")
        seconds = [await _restart(cluster, name) for name in cluster.names]
        await asyncio.sleep(6.0)  # the longest `retry` of an event stream
        writing.cancel()
    rows = await rows_of(url, set(TOPICS), cluster.edition)
    wrong = 0
    try:
        await eventually(lambda: _none(crowds, do="wrong", rows=rows), QUIET_SECONDS)
    except AssertionError:
        wrong = sum([(await crowd.ask(do="wrong", rows=rows))["clients"] for crowd in crowds])
    reports = _merged([await crowd.ask(do="reports") for crowd in crowds])
    restarts = [[name, took] for name, took in zip(cluster.names, seconds, strict=True)]
    show(f"Restarts with {clients} clients", ["", "seconds"], [*restarts, ["all", sum(seconds)]])
    _show(reports)
    return [
        *(f"{kind}: {ended}" for kind, report in reports.items() for ended in report.ended),
        *(f"{kind}: {violation}" for kind, report in reports.items() for violation in report.violations),
        *([f"{wrong} clients show other rows than the database"] if wrong else []),
    ]


async def _write(url: str) -> None:
    """Change a row of each topic in turn, for ever."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for number in itertools.count():
            await connection.execute("update stock set n = n + 1000 where id = %s", [number % ITEMS])
            await asyncio.sleep(WRITE_SECONDS)


async def _restart(cluster: SoakCluster, name: str) -> float:
    """Replace a service and return how long that took, with the time until load balancers have found it again."""
    began = time.monotonic()
    await cluster.replace(name, kill=False)
    if name in cluster.http:
        await asyncio.sleep(5.0)
    return time.monotonic() - began


async def _none(crowds: list[Process], **order: Any) -> bool:
    answers = [await crowd.ask(**order) for crowd in crowds]
    return not any(answer["clients"] for answer in answers)


def _merged(answers: list[dict[str, Any]]) -> dict[str, Report]:
    """Return the reports of several crowds as one."""
    merged: dict[str, Report] = {}
    for answer in answers:
        for kind, values in answer.items():
            report = merged.setdefault(kind, Report())
            report.clients += values["clients"]
            report.refusals += Counter(values["refusals"])
            for name in ("ended", "violations", "reconnects", "offline", "silences"):
                getattr(report, name).extend(values[name])
    return merged


def _show(reports: dict[str, Report]) -> None:
    head = ["", "clients", "ended", "reconnects", "most in 1 s", "offline p50 s", "p99", "max", "silent p99 s", "max"]
    show(
        "Clients",
        head,
        [
            [
                kind,
                report.clients,
                len(report.ended),
                len(report.reconnects),
                report.busiest(),
                percentile(report.offline, 0.5),
                percentile(report.offline, 0.99),
                max(report.offline),
                percentile(report.silences, 0.99),
                max(report.silences),
            ]
            for kind, report in reports.items()
        ],
    )
    refusals = [[f"{kind}: {how}", count] for kind, report in reports.items() for how, count in report.refusals.items()]
    if refusals:
        show("Refused, cut or closed", ["", "times"], refusals)
