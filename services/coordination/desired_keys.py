"""Keys that etcd should hold on this process's lease: the gateway's demand keys and presence keys.

`put` and `drop` only note the desired state; `run(session, mirror)` writes it, in batches, so a key that is put and
dropped in between costs nothing. Pass the mirror's events of our keys to `changed`: a key that is deleted or
overwritten by another process is put back at once. While etcd cannot be reached, writes are retried; under a new
session every key is written anew.
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

BATCH = 100
"""Maximum number of operations in a request: etcd's default --max-txn-ops is 128."""


class DesiredKeys:
    """The desired keys of one kind. `wanted` maps each key to its value; `requests` counts the transactions so far."""

    def __init__(self, etcd: Etcd, what: str, gather_seconds: float = 0.0) -> None:
        """`what` names the kind of key in the log. A batch that is not full waits `gather_seconds` for more keys."""
        self.wanted: dict[str, bytes] = {}
        self.requests = 0
        self._etcd = etcd
        self._what = what
        self._gather_seconds = gather_seconds
        self._unsettled: dict[str, None] = {}  # keys to check and perhaps write, the oldest first
        self._wake = asyncio.Event()
        self._full = asyncio.Event()
        self._shown: ShownKeys | None = None

    def put(self, key: str, value: bytes) -> None:
        """Note that the key should have this value."""
        self.wanted[key] = value
        self._check(key)

    def drop(self, key: str) -> None:
        """Note that the key should not exist."""
        if self.wanted.pop(key, None) is not None:
            self._check(key)

    def changed(self, events: Iterable[KeyEvent]) -> None:
        """Take in the mirror's events of our keys."""
        if self._shown is not None:
            for key in self._shown.changed(events):
                self._check(key)

    def listed(self) -> None:
        """Note that the mirror has listed: a key that we wrote may have been deleted without an event
        (docs/design/model.md)."""
        if self._shown is not None:
            self._check_overtaken(self._shown)

    @property
    def settled(self) -> bool:
        """Whether etcd is known to hold the desired keys and no others."""
        return self._shown is not None and not self._unsettled and self._shown.mirror.synced.is_set()

    @property
    def healthy(self) -> bool:
        """Whether the mirror follows etcd now, under a session."""
        return self._shown is not None and self._shown.mirror.healthy

    async def run(self, session: Session, mirror: Mirror) -> NoReturn:
        """Keep etcd as desired. Raises LeaseLost when etcd reports that the session's lease is gone."""
        shown = ShownKeys(self._etcd, mirror, session.lease)
        self._shown = shown
        self._unsettled = dict.fromkeys(self.wanted)
        try:
            await self._write(shown)
        finally:
            self._shown = None

    def _check(self, key: str) -> None:
        self._unsettled[key] = None
        self._wake.set()
        if len(self._unsettled) >= BATCH:
            self._full.set()

    async def _write(self, shown: ShownKeys) -> NoReturn:
        failures = 0
        while True:
            if not self._unsettled:
                self._wake.clear()
                await self._wake.wait()
            await self._gather()
            batch = list(islice(self._unsettled, BATCH))
            # `wanted` may change during the request: the key is then unsettled again.
            change = {key: self.wanted.get(key) for key in batch}
            for key in batch:
                del self._unsettled[key]
            due = {key: value for key, value in change.items() if not shown.agrees(key, value)}
            if not due:
                continue
            try:
                self.requests += 1
                await shown.write(due)
                self._check_overtaken(shown)
                failures = 0
            except LeaseLost:
                raise
            except (EtcdRefused, EtcdUnknown) as error:
                if not failures:
                    log.warning("keys not written, retrying", what=self._what, keys=len(due), detail=error.detail)
                shown.doubt(due)
                self._unsettled = dict.fromkeys(due) | self._unsettled
                await asyncio.sleep(backoff(failures))
                failures += 1

    def _check_overtaken(self, shown: ShownKeys) -> None:
        for key in shown.overtaken():
            self._check(key)

    async def _gather(self) -> None:
        if not self._gather_seconds or len(self._unsettled) >= BATCH:
            return
        self._full.clear()
        try:
            async with asyncio.timeout(self._gather_seconds):
                await self._full.wait()
        except TimeoutError:
            return


class ShownKeys:
    """The keys that etcd holds under one lease, known from its mirror and from the responses to our writes."""

    def __init__(self, etcd: Etcd, mirror: Mirror, lease: int) -> None:
        self.mirror = mirror
        self._etcd = etcd
        self._lease = lease
        self._doubted: set[str] = set()
        self._written: dict[str, tuple[bytes | None, int]] = {}  # value and revision, until the mirror has it

    def agrees(self, key: str, value: bytes | None) -> bool:
        """Return whether etcd is known to hold this value (None: no key)."""
        return key not in self._doubted and self._value(key) == value

    def doubt(self, keys: Iterable[str]) -> None:
        """Note that these keys may or may not have been written."""
        self._doubted.update(keys)

    async def write(self, change: Mapping[str, bytes | None]) -> None:
        """Put each value on the lease; delete each key whose value is None."""
        operations = [
            op.delete(key) if value is None else op.put(key, value, self._lease) for key, value in change.items()
        ]
        revision = (await self._etcd.txn([], operations)).revision
        for key, value in change.items():
            self._doubted.discard(key)
            self._written[key] = (value, revision)

    def overtaken(self) -> list[str]:
        """Return the keys whose last write is older than the mirror's revision and yet was not in its events."""
        return [key for key, (_, revision) in self._written.items() if revision <= self.mirror.revision]

    def changed(self, events: Iterable[KeyEvent]) -> list[str]:
        """Take in events. Return the keys whose value is not the one that was known before."""
        differing = []
        for event in events:
            key = event.kv.key
            value, revision = self._written.get(key, (None, 0))
            if event.kv.mod_revision < revision:
                continue
            if not revision:
                value = self._ours(event.previous)
            self._written.pop(key, None)
            if self._value(key) != value:
                differing.append(key)
        return differing

    def _value(self, key: str) -> bytes | None:
        value, revision = self._written.get(key, (None, 0))
        if revision > self.mirror.revision:
            return value
        self._written.pop(key, None)
        return self._ours(self.mirror.items.get(key))

    def _ours(self, kv: op.Kv | None) -> bytes | None:
        """Return the value of a key on our lease, else None: a key on another lease is overwritten when it is wanted,
        and otherwise goes with that lease."""
        return kv.value if kv is not None and kv.lease == self._lease else None
