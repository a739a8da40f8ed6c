"""The gateway's side of demand: makes etcd show the topics that this gateway has clients on.

`want` and `unwant` only note what should be; `run(session)` writes it, as fast as etcd takes it, in batches: what was
wanted and unwanted meanwhile costs nothing. It follows its own keys, so that one which is deleted or overwritten by
somebody else is put back at once. Out of etcd's reach it keeps trying; under a new session everything is written anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NoReturn

from coordinator import etcd as e
from coordinator.etcd import Etcd, Event
from coordinator.keys import DemandRecord, Keys
from coordinator.mirror import Mirror
from coordinator.session import Session, backoff
from services import clock, logs
from services.errors import EtcdRefused, EtcdUnknown, LeaseLost

log = logs.get_logger("demand")

BATCH = 100  # operations in a request; etcd's default --max-txn-ops is 128


class Demand:
    """What the gateway wants, and that etcd shows it."""

    def __init__(self, etcd: Etcd, keys: Keys, gateway: str) -> None:
        self._etcd = etcd
        self._keys = keys
        self._gateway = gateway
        self._wanted: dict[str, bytes] = {}  # topic → the value that should be stored
        self._unsettled: dict[str, None] = {}  # topics to look at, the oldest first
        self._wake = asyncio.Event()
        self._shown: Shown | None = None

    def want(self, topic: str) -> None:
        """The gateway has a client on the topic. Wanting twice is wanting."""
        if topic not in self._wanted:
            self._wanted[topic] = DemandRecord(self._gateway, clock.now_rfc3339()).encode()
            self._look_at(topic)

    def unwant(self, topic: str) -> None:
        """The last client left the topic."""
        if self._wanted.pop(topic, None) is not None:
            self._look_at(topic)

    @property
    def wanted(self) -> frozenset[str]:
        return frozenset(self._wanted)

    @property
    def settled(self) -> bool:
        """Whether etcd shows all that is wanted, and nothing else, as far as is known."""
        return self._shown is not None and not self._unsettled and self._shown.mirror.synced.is_set()

    @property
    def healthy(self) -> bool:
        """Whether etcd is followed now."""
        return self._shown is not None and self._shown.mirror.healthy

    async def run(self, session: Session) -> NoReturn:
        """Raises LeaseLost when etcd says that the session is over (as the session itself does)."""
        shown = Shown(self._etcd, self._keys, self._gateway, session.lease, self._look_at)
        self._shown = shown
        self._unsettled = dict.fromkeys(self._wanted)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(shown.mirror.run(), name="mirror of demand")
                await self._write(shown)
        finally:
            self._shown = None
        raise AssertionError("unreachable")

    def _look_at(self, topic: str) -> None:
        self._unsettled[topic] = None
        self._wake.set()

    async def _write(self, shown: Shown) -> NoReturn:
        failures = 0
        while True:
            batch = list(islice(self._unsettled, BATCH))
            if not batch:
                self._wake.clear()
                await self._wake.wait()
                continue
            # What is wanted may change while etcd is at it: the topic is then unsettled again.
            change = {topic: self._wanted.get(topic) for topic in batch}
            for topic in batch:
                del self._unsettled[topic]
            try:
                await shown.write({topic: value for topic, value in change.items() if not shown.agrees(topic, value)})
                failures = 0
            except LeaseLost:
                raise
            except (EtcdRefused, EtcdUnknown) as error:
                if not failures:
                    log.warning("demand not written, trying on", topics=len(change), detail=error.detail)
                shown.doubt(change)
                self._unsettled = dict.fromkeys(change) | self._unsettled
                await asyncio.sleep(backoff(failures))
                failures += 1


class Shown:
    """What etcd has of this gateway under one lease, by its mirror and by the answers to what was written."""

    def __init__(self, etcd: Etcd, keys: Keys, gateway: str, lease: int, look_at: Callable[[str], None]) -> None:
        self.mirror = Mirror(etcd, keys.demands(), self._changed)
        self._etcd = etcd
        self._keys = keys
        self._gateway = gateway
        self._lease = lease
        self._look_at = look_at
        self._values: dict[str, bytes] = {}
        self._doubted: set[str] = set()
        self._written: dict[
            str, int
        ] = {}  # topics of which the mirror has not yet shown what was written at a revision

    def agrees(self, topic: str, value: bytes | None) -> bool:
        return topic not in self._doubted and self._values.get(topic) == value

    def doubt(self, topics: Iterable[str]) -> None:
        """Nobody knows whether these were written."""
        self._doubted.update(topics)

    async def write(self, change: dict[str, bytes | None]) -> None:
        """Puts the values on the lease, deletes where there is none."""
        if not change:
            return
        operations = []
        for topic, value in change.items():
            key = self._keys.demand(topic, self._gateway)
            operations.append(e.delete(key) if value is None else e.put(key, value, self._lease))
        revision = (await self._etcd.txn([], operations)).revision
        for topic, value in change.items():
            self._doubted.discard(topic)
            if value is not None:
                self._values[topic] = value
                self._written[topic] = revision
            elif self._values.pop(topic, None) is not None:
                self._written[topic] = revision

    def _changed(self, events: list[Event]) -> None:
        for event in events:
            parsed = self._keys.parse_demand(event.kv.key)
            if parsed is None or parsed[1] != self._gateway:
                continue
            topic = parsed[0]
            if event.kv.mod_revision < self._written.get(topic, 0):
                continue
            self._written.pop(topic, None)
            before = self._values.get(topic)
            # On another lease it is not ours: where it is wanted it is written over, else it goes with that lease.
            if not event.deleted and event.kv.lease == self._lease:
                self._values[topic] = event.kv.value
            else:
                self._values.pop(topic, None)
            if self._values.get(topic) != before:
                self._look_at(topic)
