"""Runs the audit while this coordinator leads: logs findings when they begin and when they end, counts, and repairs.

`run` lives as long as the service; a coordinator that does not lead, or does not follow etcd, judges nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

import prometheus_client

from pollcast.coordinator.audit import BREAKS, Finding, audit
from pollcast.coordinator.view import View
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.claims import batches
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import TxnResult
from pollcast.services.errors import EtcdError
from pollcast.services.process import logs

log = logs.get_logger("audit")

PERIOD_SECONDS = 1.0

MOST_LOGGED = 5
"""Findings of one kind that begin, or end, at once."""

FINDINGS = prometheus_client.Gauge(
    "pollcast_coordinator_findings", "What the audit of the leader finds wrong now.", ["kind"]
)
FOUND = prometheus_client.Counter("pollcast_coordinator_found", "Findings that began, ever.", ["kind"])
REPAIRED = prometheus_client.Counter("pollcast_coordinator_repaired_keys", "Keys of nobody's that were deleted.")


class Ledger:
    """The findings that stand. Pure."""

    def __init__(self) -> None:
        self.standing: dict[Finding, Finding] = {}

    def update(self, findings: Iterable[Finding]) -> tuple[list[Finding], list[Finding]]:
        """Those that begin, and those that end."""
        found = {finding: finding for finding in findings}
        began = [finding for finding in found if finding not in self.standing]
        ended = [finding for finding in self.standing if finding not in found]
        self.standing = found
        return began, ended


class Auditor:
    """`leads` says whether it is our turn."""

    def __init__(self, etcd: Etcd, view: View, mirror: Mirror, leads: Callable[[], bool]) -> None:
        self.ledger = Ledger()
        self._etcd = etcd
        self._view = view
        self._mirror = mirror
        self._leads = leads
        for kind in BREAKS:
            FINDINGS.labels(kind)
            FOUND.labels(kind)

    async def run(self) -> NoReturn:
        """Until cancelled."""
        followed = False
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            now = asyncio.get_running_loop().time()
            if self._mirror.healthy and not followed:
                self._view.cleared(now)
            followed = self._mirror.healthy
            if not self._leads():
                self._tell([])
            elif followed:
                findings = audit(self._view, now)
                self._tell(findings)
                await self._repair([finding for finding in findings if finding.abandoned])

    def _tell(self, findings: list[Finding]) -> None:
        began, ended = self.ledger.update(findings)
        for finding in began:
            FOUND.labels(finding.kind).inc()
        for one, others in _told(began):
            log.warning(
                "finding", kind=one.kind, breaks=one.breaks, about=one.subject, detail=one.detail, others=others
            )
        for one, others in _told(ended):
            log.info("finding is over", kind=one.kind, breaks=one.breaks, about=one.subject, others=others)
        standing = Counter(finding.kind for finding in findings)
        for kind in BREAKS:
            FINDINGS.labels(kind).set(standing[kind])

    async def _repair(self, findings: list[Finding]) -> None:
        """Deletes what is nobody's, each key only if it is as it was when that was found."""
        abandoned = [item for finding in findings for item in finding.abandoned]
        for batch in batches(abandoned, lambda item: item[0]):
            try:
                deletes = [op.nested([op.unchanged(key, revision)], [op.delete(key)]) for key, revision in batch]
                done = await self._etcd.txn([], deletes)
            except EtcdError as error:
                log.warning("not repaired, trying on", keys=len(batch), detail=error.detail)
                return
            gone = sum(isinstance(result, TxnResult) and result.succeeded for result in done.results)
            if gone:
                REPAIRED.inc(gone)
                log.info("deleted keys of nobody's", keys=gone, such_as=batch[0][0])


def _told(findings: list[Finding]) -> Iterator[tuple[Finding, int]]:
    """What is logged: a few of each kind, the last of these with the number of others that are not."""
    kinds: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        kinds[finding.kind].append(finding)
    for each in kinds.values():
        for number, finding in enumerate(each[:MOST_LOGGED]):
            yield finding, max(len(each) - MOST_LOGGED, 0) if number == MOST_LOGGED - 1 else 0
