"""Keys that etcd should show on this process's lease: demand's and presence's.

`put` and `drop` only note what should be; `run(session, mirror)` writes it, in batches: what is put and dropped
meanwhile costs nothing. Who made the mirror tells `changed` of the keys that are ours, so that one which is deleted or
overwritten by somebody else is put back at once. Out of etcd's reach it keeps trying; under a new session everything is
written anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NoReturn

from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.coordination.session import Session, backoff
from pollcast.services.errors import EtcdRefused, EtcdUnknown, LeaseLost
from pollcast.services.process import logs

log = logs.get_logger("desired")

BATCH = 100  # operations in a request; etcd's default --max-txn-ops is 128


class DesiredKeys:
    """`wanted` by key: the values that should be stored. `requests` counts the transactions, ever."""

    def __init__(self, etcd: Etcd, what: str, gather_seconds: float = 0.0) -> None:
        """`what` is the word for the log. A batch that is not full yet waits `gather_seconds` for more."""
        self.wanted: dict[str, bytes] = {}
        self.requests = 0
        self._etcd = etcd
        self._what = what
        self._gather_seconds = gather_seconds
        self._unsettled: dict[str, None] = {}  # keys to look at, the oldest first
        self._wake = asyncio.Event()
        self._full = asyncio.Event()
        self._shown: Shown | None = None

    def put(self, key: str, value: bytes) -> None:
        self.wanted[key] = value
        self._look_at(key)

    def drop(self, key: str) -> None:
        if self.wanted.pop(key, None) is not None:
            self._look_at(key)

    def changed(self, events: Iterable[KeyEvent]) -> None:
        """What the mirror has seen of our keys."""
        if self._shown is not None:
            for key in self._shown.changed(events):
                self._look_at(key)

    def listed(self) -> None:
        """The mirror has listed: what we wrote may be gone again without its having seen it (docs/design/model.md)."""
        if self._shown is not None:
            self._look_at_overtaken(self._shown)

    @property
    def settled(self) -> bool:
        """Whether etcd shows all that is wanted, and nothing else, as far as is known."""
        return self._shown is not None and not self._unsettled and self._shown.mirror.synced.is_set()

    @property
    def healthy(self) -> bool:
        """Whether etcd is followed now, under a session."""
        return self._shown is not None and self._shown.mirror.healthy

    async def run(self, session: Session, mirror: Mirror) -> NoReturn:
        """Raises LeaseLost when etcd says that the session is over (as the session itself does)."""
        shown = Shown(self._etcd, mirror, session.lease)
        self._shown = shown
        self._unsettled = dict.fromkeys(self.wanted)
        try:
            await self._write(shown)
        finally:
            self._shown = None

    def _look_at(self, key: str) -> None:
        self._unsettled[key] = None
        self._wake.set()
        if len(self._unsettled) >= BATCH:
            self._full.set()

    async def _write(self, shown: Shown) -> NoReturn:
        failures = 0
        while True:
            if not self._unsettled:
                self._wake.clear()
                await self._wake.wait()
            await self._gather()
            batch = list(islice(self._unsettled, BATCH))
            # What is wanted may change while etcd is at it: the key is then unsettled again.
            change = {key: self.wanted.get(key) for key in batch}
            for key in batch:
                del self._unsettled[key]
            due = {key: value for key, value in change.items() if not shown.agrees(key, value)}
            if not due:
                continue
            try:
                self.requests += 1
                await shown.write(due)
                self._look_at_overtaken(shown)
                failures = 0
            except LeaseLost:
                raise
            except (EtcdRefused, EtcdUnknown) as error:
                if not failures:
                    log.warning("not written, trying on", what=self._what, keys=len(due), detail=error.detail)
                shown.doubt(due)
                self._unsettled = dict.fromkeys(due) | self._unsettled
                await asyncio.sleep(backoff(failures))
                failures += 1

    def _look_at_overtaken(self, shown: Shown) -> None:
        for key in shown.overtaken():
            self._look_at(key)

    async def _gather(self) -> None:
        if not self._gather_seconds or len(self._unsettled) >= BATCH:
            return
        self._full.clear()
        try:
            async with asyncio.timeout(self._gather_seconds):
                await self._full.wait()
        except TimeoutError:
            return


class Shown:
    """What etcd has of us under one lease, by its mirror and by the answers to what was written."""

    def __init__(self, etcd: Etcd, mirror: Mirror, lease: int) -> None:
        self.mirror = mirror
        self._etcd = etcd
        self._lease = lease
        self._doubted: set[str] = set()
        self._written: dict[str, tuple[bytes | None, int]] = {}  # with the revision, until the mirror is as far

    def agrees(self, key: str, value: bytes | None) -> bool:
        return key not in self._doubted and self._value(key) == value

    def doubt(self, keys: Iterable[str]) -> None:
        """Nobody knows whether these were written."""
        self._doubted.update(keys)

    async def write(self, change: Mapping[str, bytes | None]) -> None:
        """Puts the values on the lease, deletes where there is none."""
        operations = [
            op.delete(key) if value is None else op.put(key, value, self._lease) for key, value in change.items()
        ]
        revision = (await self._etcd.txn([], operations)).revision
        for key, value in change.items():
            self._doubted.discard(key)
            self._written[key] = (value, revision)

    def overtaken(self) -> list[str]:
        """The keys whose last write the mirror has passed without a word of it."""
        return [key for key, (_, revision) in self._written.items() if revision <= self.mirror.revision]

    def changed(self, events: Iterable[KeyEvent]) -> list[str]:
        """The keys that are not as they were, as far as was known."""
        differing = []
        for event in events:
            key = event.kv.key
            value, revision = self._written.get(key, (None, 0))
            if event.kv.mod_revision < revision:
                continue
            if not revision:
                value = self._of(event.previous)
            self._written.pop(key, None)
            if self._value(key) != value:
                differing.append(key)
        return differing

    def _value(self, key: str) -> bytes | None:
        value, revision = self._written.get(key, (None, 0))
        if revision > self.mirror.revision:
            return value
        self._written.pop(key, None)
        return self._of(self.mirror.items.get(key))

    def _of(self, kv: op.Kv | None) -> bytes | None:
        """On another lease it is not ours: where it is wanted it is written over, else it goes with that lease."""
        return kv.value if kv is not None and kv.lease == self._lease else None
