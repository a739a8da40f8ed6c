"""The course of the soak, and its table."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.waiting import eventually

from bench.clients.record import LiveClient
from bench.soak.catalogue import CatalogueChanges
from bench.soak.churn import Guests, residents
from bench.soak.cluster import NODES, SoakCluster, soak_cluster
from bench.soak.faults import Faults
from bench.soak.measure import COUNTS, Held, breaches, key_breaches
from bench.soak.shop import rows_of, write
from bench.table import show
from pollcast.services.errors import EtcdError
from pollcast.services.process.settings import Role

WARM_UP_SHARE = 0.15
"""Part of the duration that is the warm-up."""

MEMORY_FROM_SECONDS = 600.0
"""Duration from which on memory is judged: that of a process grows for minutes after its start."""

LOOK_SECONDS = 1.0
"""Time between two looks at the keys in etcd before the first measurement, in seconds."""

REST_SECONDS = 16.0
"""Time for which nothing happens before the first measurement, in seconds: a gateway notices at the next comment on an
event stream, after 15 s, that a client has died."""

QUIET_SECONDS = 60.0
"""Maximum time until clients show the database and etcd has the keys of the residents only."""


@dataclass(frozen=True)
class Plan:
    """The length of a soak in seconds, the number of guests at a time, and the rate of changes of rows per second.

    With a length of 0 everything happens once, without a warm-up.
    """

    seconds: float = 3600.0
    guests: int = 16
    writes: float = 4.0
    seed: int = 1
    nodes: Mapping[Role, int] = field(default_factory=lambda: NODES)
    flood: int = 10_000  # topics of the warm-up, for caches of topics to be full
    checks: int = 8  # after the warm-up; the last one is at the end

    @classmethod
    def of(cls, options: Sequence[str]) -> Plan:
        """Return the plan of `--duration 1h --guests 16 --seed 1 --checks 8`. Raises SystemExit for other options."""
        values = dict(zip(options[::2], options[1::2], strict=False))
        unknown = set(values) - {"--duration", "--guests", "--seed", "--checks"}
        if unknown or len(options) % 2:
            raise SystemExit("options of `soak`: --duration 1h, --guests 16, --seed 1, --checks 8")
        return cls(
            seconds=duration(values.get("--duration", "1h")),
            checks=int(values.get("--checks", "8")),
            guests=int(values.get("--guests", "16")),
            seed=int(values.get("--seed", "1")),
        )


def duration(text: str) -> float:
    """Return the seconds of `90s`, `10m` or `1h`. Raises SystemExit for another text."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", text)
    if match is None:
        raise SystemExit(f"{text!r} is no duration, as 90s, 10m or 1h are")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


@dataclass
class Findings:
    """The measurements, and everything that was wrong."""

    held: dict[str, list[Held]] = field(default_factory=dict)  # by process; the first is that after the warm-up
    keys: list[Counter[str]] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    compared: int = 0  # number of results that were compared with the database

    def show(self) -> None:
        """Print the tables."""
        rows = []
        for name, measured in self.held.items():
            for what in ("rss", *COUNTS):
                values = [held.rss if what == "rss" else held.counts[what] for held in measured]
                first, last = values[0], values[-1]
                change = f"{(last - first) / first * 100:+.1f} %" if first else "-"
                label = "RSS, KiB" if what == "rss" else what
                replaced = len({held.pid for held in measured}) > 1
                title = f"{name}{' (replaced)' if replaced else ''}: {label}"
                rows.append([title, first, min(values), max(values), last, change])
        for kind in sorted(self.keys[0] if self.keys else []):
            counts = [keys[kind] for keys in self.keys]
            rows.append([f"etcd: {kind}", counts[0], min(counts), max(counts), counts[-1], ""])
        show("What is held at rest", ["", "after warm-up", "least", "most", "at the end", "change"], rows)
        show("What happened", ["", "times"], [[what, times] for what, times in sorted(self.happened.items())])
        print(f"{self.compared} results compared with the database; {len(self.faults)} findings")
        for fault in self.faults:
            print(f"FINDING: {fault}")


class Soak:
    """One soak on a running cluster."""

    def __init__(self, cluster: SoakCluster, plan: Plan) -> None:
        self.findings = Findings()
        self._cluster = cluster
        self._plan = plan
        self._rng = random.Random(plan.seed)
        self._residents = residents(cluster)
        self._guests = Guests(cluster, plan.guests, random.Random(self._rng.random()))
        changes = CatalogueChanges(cluster, random.Random(self._rng.random()), self._residents)
        self._faults = Faults(cluster, random.Random(self._rng.random()), changes)

    async def run(self) -> None:
        """Warm up, then soak and check until the time is over."""
        began = time.monotonic()
        ends = began + self._plan.seconds
        self._start()
        await self._soak(began + self._plan.seconds * WARM_UP_SHARE, self._warm_up)
        await asyncio.sleep(REST_SECONDS)
        await self._check()
        pause = (ends - time.monotonic()) / self._plan.checks
        for number in range(self._plan.checks):
            await self._soak(ends - pause * (self._plan.checks - number - 1))
            await self._check()
        self._sum_up()

    async def run_once(self) -> None:
        """Check at rest, let everything happen once, and check again: the short form, in which nothing is warmed up."""
        self._start()
        await self._check()
        async with self._churn():
            await self._faults.all_once()
        await self._check()
        self._sum_up()

    def _start(self) -> None:
        for resident in self._residents:
            resident.start()

    async def _warm_up(self) -> None:
        await self._guests.flood(self._plan.flood)
        await self._faults.all_once()

    async def _soak(self, until: float, first: Callable[[], Awaitable[None]] | None = None) -> None:
        """Let everything happen until a time, the warm-up before anything else."""
        async with self._churn() as stop, asyncio.TaskGroup() as tasks:
            if first is not None:
                await first()
            tasks.create_task(self._faults.rage(stop))
            await asyncio.sleep(max(0.0, until - time.monotonic()))
            stop.set()

    @contextlib.asynccontextmanager
    async def _churn(self) -> AsyncIterator[asyncio.Event]:
        """Change rows, and let guests come and go within a scope; all of them have left on leaving."""
        stop = asyncio.Event()
        counts: dict[str, int] = {}
        rng = random.Random(self._rng.random())
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(write(self._cluster.world.url, rng, self._plan.writes, counts))
            tasks.create_task(self._guests.come_and_go(stop))
            yield stop
            stop.set()
            writing.cancel()
        self.findings.happened.update(counts)

    async def _check(self) -> None:
        """Compare everything that is held at rest with the database and with the first check."""
        findings = self.findings
        gc.collect()  # a channel of gRPC that a guest has closed keeps its connection until it is collected
        await self._all_connected()
        await self._compare_rows()
        keys = await self._keys_at_rest()
        findings.keys.append(keys)
        self._find(key_breaches(findings.keys[0], keys))
        names = list(self._cluster.groups)
        memory = self._plan.seconds >= MEMORY_FROM_SECONDS
        first = {name: series[0] for name, series in findings.held.items()}
        measuring = [self._cluster.held(name, first.get(name), memory=memory) for name in names]
        for name, held in zip(names, await asyncio.gather(*measuring), strict=True):
            series = findings.held.setdefault(name, [])
            series.append(held)
            self._find(breaches(name, series[0], held, memory=memory))
        now = ", ".join(
            f"{name} {findings.held[name][-1].rss} KiB {dict(findings.held[name][-1].counts)}" for name in names
        )
        print(f"check {len(findings.keys)}: {now}; {len(findings.faults)} findings", flush=True)

    async def _all_connected(self) -> None:
        """Wait until each resident is connected; those that are not are findings."""

        def away() -> list[str]:
            return [
                f"{each.record.kind} of {', '.join(each.shown)} is not connected: {_state(each)}"
                for each in self._residents
                if not each.record.connected
            ]

        try:
            await eventually(lambda: not away(), QUIET_SECONDS)
        except AssertionError:
            self._find(away())

    async def _compare_rows(self) -> None:
        """Wait until each resident shows the rows of the database; those that do not are findings."""
        topics = {topic for resident in self._residents for topic in resident.shown}
        rows = await rows_of(self._cluster.world.url, topics, self._cluster.edition)

        def wrong() -> list[str]:
            return [
                f"{resident.record.kind} shows other rows of {topic} than the database has: {_state(resident)}"
                for resident in self._residents
                for topic, shown in resident.shown.items()
                if shown.rows != rows[topic]
            ]

        try:
            await eventually(lambda: not wrong(), QUIET_SECONDS)
        except AssertionError:
            self._find(wrong())
        self.findings.compared += sum(len(resident.shown) for resident in self._residents)

    async def _keys_at_rest(self) -> Counter[str]:
        """Return the keys in etcd once they are those of the first check, or after QUIET_SECONDS what they are then."""
        last: Counter[str] = Counter()

        async def at_rest() -> bool:
            nonlocal last
            before = last
            try:
                last = await self._cluster.keys()
            except EtcdError:  # no member of etcd answers just now
                return False
            if self.findings.keys:
                return last == self.findings.keys[0]
            await asyncio.sleep(LOOK_SECONDS)
            return before == last

        try:
            await eventually(at_rest, QUIET_SECONDS)
        except AssertionError:
            return last
        return last

    def _find(self, wrong: list[str]) -> None:
        self.findings.faults += wrong
        for each in wrong:
            print(f"FINDING: {each}", flush=True)

    def _sum_up(self) -> None:
        """Let the residents leave, and add what happened to all clients to the findings."""
        for resident in self._residents:
            resident.stop()
        findings, guests = self.findings, self._guests
        findings.happened.update(self._faults.counts)
        findings.happened.update({f"guest: {kind}": count for kind, count in guests.counts.items()})
        refusals: Counter[str] = Counter(guests.refusals)
        for resident in self._residents:
            record = resident.record
            refusals += record.refusals
            findings.happened[f"reconnects of residents, {record.kind}"] += record.reconnects
            findings.faults += [f"{record.kind}: {violation}" for violation in record.violations]
            if record.ended:
                findings.faults.append(f"a resident has ended for good: {record.ended}")
        findings.happened.update({f"refused or cut: {how}": count for how, count in refusals.items()})
        findings.faults += [*guests.faults, *self._faults.findings]


def _state(client: LiveClient) -> str:
    record = client.record
    return f"{record.reconnects} reconnects, refusals {dict(record.refusals)}, ended {record.ended!r}"


async def soak(plan: Plan, folder: Path) -> Findings:
    """Run a soak in a folder and return its findings; without a duration, its short form."""
    async with soak_cluster(folder, plan.nodes) as cluster:
        course = Soak(cluster, plan)
        await (course.run() if plan.seconds else course.run_once())
    return course.findings


async def run(options: Sequence[str] = ()) -> None:
    """Run the soak and print its tables. Raises SystemExit when something is wrong; then the logs are kept."""
    folder = Path(tempfile.mkdtemp(prefix="pollcast-soak-"))
    findings = await soak(Plan.of(options), folder)
    findings.show()
    if findings.faults:
        print(f"the logs are in {folder}")
        raise SystemExit(1)
    shutil.rmtree(folder, ignore_errors=True)
