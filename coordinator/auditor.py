"""The auditor: audits while this coordinator leads, logs findings when they begin and end, counts and repairs them.

A coordinator that does not lead, or does not follow etcd at the moment, does not audit. An audit yields to the event
loop after every SLICE steps, and so does all that is done with its findings.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import NoReturn, TypeVar

import prometheus_client

from pollcast.coordinator.audit import BREAKS, Finding, Kind, finds
from pollcast.coordinator.view import View
from pollcast.services.coordination.claims import delete_unchanged
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.mirror import KeptMirror
from pollcast.services.process import logs

log = logs.get_logger("audit")

T = TypeVar("T")

PERIOD_SECONDS = 1.0
"""Time between two audits, in seconds."""

SLICE = 500
"""Number of steps of an audit, or of its comparison with the one before, between two yields to the event loop."""

MAX_LOGGED = 5
"""Maximum number of log lines for findings of one kind that begin, or end, at the same time."""

FINDINGS = prometheus_client.Gauge("pollcast_coordinator_findings", "Current findings of the leader's audit.", ["kind"])
FOUND = prometheus_client.Counter("pollcast_coordinator_found", "Findings that began.", ["kind"])
REPAIRED = prometheus_client.Counter("pollcast_coordinator_repaired_keys", "Abandoned keys that the leader deleted.")


class Ledger:
    """The current findings. Pure."""

    def __init__(self) -> None:
        self.current: dict[Finding, Finding] = {}

    def compare(self, findings: Iterable[Finding]) -> Iterator[tuple[Finding, bool] | None]:
        """Yield each finding that begins with True, then each that ends with False, and None for each step without one.
        Once exhausted, these findings are the current ones."""
        found: dict[Finding, Finding] = {}
        for finding in findings:
            yield None if finding in self.current or finding in found else (finding, True)
            found[finding] = finding
        for finding in self.current:
            yield None if finding in found else (finding, False)
        self.current = found


class Digest:
    """The number of some findings of each kind, and the first ones to log; they are added one by one. Pure."""

    def __init__(self) -> None:
        self.numbers = Counter[Kind]()
        self._first: defaultdict[Kind, list[Finding]] = defaultdict(list)

    def add(self, finding: Finding) -> None:
        """Count the finding, and keep it if it is among the first MAX_LOGGED of its kind."""
        self.numbers[finding.kind] += 1
        if self.numbers[finding.kind] <= MAX_LOGGED:
            self._first[finding.kind].append(finding)

    def to_log(self) -> Iterator[tuple[Finding, int]]:
        """Yield the findings to log: at most MAX_LOGGED of each kind, the last one with the number that is left out."""
        for kind, first in self._first.items():
            for number, finding in enumerate(first, start=1):
                yield finding, self.numbers[kind] - MAX_LOGGED if number == MAX_LOGGED else 0


async def in_slices(steps: Iterable[T | None]) -> AsyncIterator[T]:
    """Yield what the steps give other than None. Other tasks have a turn after every SLICE steps."""
    for number, result in enumerate(steps, start=1):
        if result is not None:
            yield result
        if number % SLICE == 0:
            await asyncio.sleep(0)


class Auditor:
    """The auditor of one coordinator. `leads` returns whether this coordinator is the leader now."""

    def __init__(self, etcd: Etcd, view: View, mirror: KeptMirror[int], leads: Callable[[], bool]) -> None:
        self.ledger = Ledger()
        self._etcd = etcd
        self._view = view
        self._mirror = mirror
        self._leads = leads
        self._present = Counter[Kind]()  # number of current findings
        for kind in BREAKS:
            FINDINGS.labels(kind)
            FOUND.labels(kind)

    async def run(self) -> NoReturn:
        """Audit every PERIOD_SECONDS until cancelled."""
        followed = False
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            now = asyncio.get_running_loop().time()
            if self._mirror.healthy and not followed:
                self._view.cleared(now)
            followed = self._mirror.healthy
            if not self._leads():
                await self.publish([])
            elif followed:
                findings = [finding async for finding in in_slices(finds(self._view, now))]
                await self.publish(findings)
                await self._repair(findings)

    async def publish(self, findings: list[Finding]) -> None:
        """Log what begins and ends, and update the metrics."""
        began, ended = Digest(), Digest()
        async for finding, begins in in_slices(self.ledger.compare(findings)):
            (began if begins else ended).add(finding)
        self._present += began.numbers
        self._present -= ended.numbers
        for kind, number in began.numbers.items():
            FOUND.labels(kind).inc(number)
        for one, others in began.to_log():
            log.warning(
                "finding", kind=one.kind, breaks=one.breaks, about=one.subject, detail=one.detail, others=others
            )
        for one, others in ended.to_log():
            log.info("finding is over", kind=one.kind, breaks=one.breaks, about=one.subject, others=others)
        for kind in BREAKS:
            FINDINGS.labels(kind).set(self._present[kind])

    async def _repair(self, findings: list[Finding]) -> None:
        """Delete the abandoned keys, each only if it was not written since it was found."""
        abandoned: dict[str, int] = {}
        async for finding in in_slices(findings):
            abandoned.update(finding.abandoned)
        if gone := await delete_unchanged(self._etcd, abandoned):
            REPAIRED.inc(len(gone))
            log.info("deleted abandoned keys", keys=len(gone), such_as=gone[0])
