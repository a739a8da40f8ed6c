"""The auditor: audits while this coordinator leads, logs findings when they begin and end, counts and repairs them.

A coordinator that does not lead, or does not follow etcd at the moment, does not audit. An audit yields to the event
loop after every SLICE steps.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

import prometheus_client

from pollcast.coordinator.audit import BREAKS, Finding, finds
from pollcast.coordinator.view import View
from pollcast.services.coordination.claims import delete_unchanged
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.mirror import KeptMirror
from pollcast.services.process import logs

log = logs.get_logger("audit")

PERIOD_SECONDS = 1.0
"""Time between two audits, in seconds."""

SLICE = 500
"""Number of steps of an audit between two yields to the event loop."""

MAX_LOGGED = 5
"""Maximum number of log lines for findings of one kind that begin, or end, at the same time."""

FINDINGS = prometheus_client.Gauge("pollcast_coordinator_findings", "Current findings of the leader's audit.", ["kind"])
FOUND = prometheus_client.Counter("pollcast_coordinator_found", "Findings that began.", ["kind"])
REPAIRED = prometheus_client.Counter("pollcast_coordinator_repaired_keys", "Abandoned keys that the leader deleted.")


class Ledger:
    """The current findings. Pure."""

    def __init__(self) -> None:
        self.current: dict[Finding, Finding] = {}

    def update(self, findings: Iterable[Finding]) -> tuple[list[Finding], list[Finding]]:
        """Set the current findings. Return those that begin, and those that end."""
        found = {finding: finding for finding in findings}
        began = [finding for finding in found if finding not in self.current]
        ended = [finding for finding in self.current if finding not in found]
        self.current = found
        return began, ended


class Auditor:
    """The auditor of one coordinator. `leads` returns whether this coordinator is the leader now."""

    def __init__(self, etcd: Etcd, view: View, mirror: KeptMirror[int], leads: Callable[[], bool]) -> None:
        self.ledger = Ledger()
        self._etcd = etcd
        self._view = view
        self._mirror = mirror
        self._leads = leads
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
                self._publish([])
            elif followed:
                findings = await self._audit(now)
                self._publish(findings)
                await self._repair([finding for finding in findings if finding.abandoned])

    async def _audit(self, now: float) -> list[Finding]:
        findings: list[Finding] = []
        for step, finding in enumerate(finds(self._view, now)):
            if finding is not None:
                findings.append(finding)
            if step % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        return findings

    def _publish(self, findings: list[Finding]) -> None:
        """Log what begins and ends, and update the metrics."""
        began, ended = self.ledger.update(findings)
        for finding in began:
            FOUND.labels(finding.kind).inc()
        for one, others in _to_log(began):
            log.warning(
                "finding", kind=one.kind, breaks=one.breaks, about=one.subject, detail=one.detail, others=others
            )
        for one, others in _to_log(ended):
            log.info("finding is over", kind=one.kind, breaks=one.breaks, about=one.subject, others=others)
        counts = Counter(finding.kind for finding in findings)
        for kind in BREAKS:
            FINDINGS.labels(kind).set(counts[kind])

    async def _repair(self, findings: list[Finding]) -> None:
        """Delete the abandoned keys, each only if it was not written since it was found."""
        abandoned = dict(item for finding in findings for item in finding.abandoned)
        if gone := await delete_unchanged(self._etcd, abandoned):
            REPAIRED.inc(len(gone))
            log.info("deleted abandoned keys", keys=len(gone), such_as=gone[0])


def _to_log(findings: list[Finding]) -> Iterator[tuple[Finding, int]]:
    """Yield the findings to log: at most MAX_LOGGED of each kind, the last one with the number that is left out."""
    kinds: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        kinds[finding.kind].append(finding)
    for each in kinds.values():
        for number, finding in enumerate(each[:MAX_LOGGED]):
            yield finding, max(len(each) - MAX_LOGGED, 0) if number == MAX_LOGGED - 1 else 0
