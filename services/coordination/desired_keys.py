"""Keys that etcd should hold on this process's lease: the gateway's demand keys and presence keys.

`put` and `drop` only note the desired state; `run(session, mirror)` writes it, in batches, so a key that is put and
dropped in between costs nothing. The mirror has at least our own keys. Pass its events of our keys to `changed`: a key
that is deleted or overwritten by another process is put back at once. Under a new session every key is written anew.

A write that fails is retried, with a growing pause, and what it says decides what waits (`Backlog`): etcd that is not
reached holds back everything; etcd at its space quota holds back puts, while deletes go on one by one, because it
refuses transactions of deletes alone too; a refusal for what a key is sets aside that key, found by halving the batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import NoReturn

from pollcast.services.coordination import operations as op
from pollcast.services.coordination.backlog import Backlog, LaneName
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.coordination.selection import Selection
from pollcast.services.coordination.session import Session, backoff
from pollcast.services.errors import EtcdError, EtcdFull, EtcdRefused, EtcdRejected, EtcdUnknown
from pollcast.services.process import logs

log = logs.get_logger("desired")

KeyMirror = Mirror | Selection
"""A local copy of our keys as etcd has them."""

BATCH = 100
"""Maximum number of operations in a request: etcd's default --max-txn-ops is 128."""

Change = Mapping[str, bytes | None]
"""Keys to write, each with its value; None deletes it."""


class DesiredKeys:
    """The desired keys of one kind. `wanted` maps each key to its value; `requests` counts the requests so far."""

    def __init__(self, etcd: Etcd, what: str, gather_seconds: float = 0.0) -> None:
        """`what` names the kind of key in the log. A batch that is not full waits `gather_seconds` for more keys."""
        self.wanted: dict[str, bytes] = {}
        self.requests = 0
        self._etcd = etcd
        self._what = what
        self._gather_seconds = gather_seconds
        self._backlog = Backlog()
        self._wake = asyncio.Event()
        self._full = asyncio.Event()
        self._attempting = False  # keys that are in the backlog no more are being written
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
        """Take in the mirror's events of our keys. Without any, the mirror may have listed: a key that we wrote may
        have been deleted without an event (docs/design/model.md)."""
        if self._shown is None:
            return
        events = list(events)
        for key in self._shown.changed(events):
            self._check(key)
        if not events:
            self._check_overtaken(self._shown)

    @property
    def settled(self) -> bool:
        """Whether etcd is known to hold the desired keys and no others."""
        shown, waiting = self._shown, self._attempting or bool(self._backlog)
        return shown is not None and not waiting and shown.mirror.synced.is_set()

    @property
    def healthy(self) -> bool:
        """Whether the mirror follows etcd now, under a session."""
        return self._shown is not None and self._shown.mirror.healthy

    async def run(self, session: Session, mirror: KeyMirror) -> NoReturn:
        """Keep etcd as desired. Raises LeaseLost when etcd reports that the session's lease is gone."""
        shown = ShownKeys(self._etcd, mirror, session.lease)
        self._shown = shown
        self._backlog = Backlog()
        for key in self.wanted:
            self._backlog.add("put", key)
        try:
            await self._write(shown)
        finally:
            self._shown = None

    def _check(self, key: str) -> None:
        self._backlog.add(self._lane(key), key)
        self._wake.set()
        if len(self._backlog) >= BATCH:
            self._full.set()

    def _lane(self, key: str) -> LaneName:
        return "put" if key in self.wanted else "delete"

    async def _write(self, shown: ShownKeys) -> NoReturn:
        now = asyncio.get_running_loop().time
        while True:
            await self._until_ready()
            await self._gather()
            # `wanted` may change during the request: the key is then in the backlog again.
            change = {key: self.wanted.get(key) for key in self._backlog.take(now(), BATCH)}
            due = {key: value for key, value in change.items() if not shown.agrees(key, value)}
            if due:
                self._attempting = True
                try:
                    await self._attempt(shown, due)
                finally:
                    self._attempting = False
                self._check_overtaken(shown)

    async def _until_ready(self) -> None:
        now = asyncio.get_running_loop().time
        while (at := self._backlog.next_at()) is None or at > now():
            self._wake.clear()
            try:
                async with asyncio.timeout_at(at):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _attempt(self, shown: ShownKeys, change: Change) -> None:
        """Write these keys in one transaction; when it is refused, write those that can be written."""
        puts = [key for key, value in change.items() if value is not None]
        deletes = [key for key, value in change.items() if value is None]
        try:
            self.requests += 1
            await shown.write(change)
        except EtcdFull as error:
            self._hold("put", puts, error)
            await self._delete_one_by_one(shown, deletes)
        except EtcdRejected as error:
            if len(change) == 1:
                self._set_aside(*puts, *deletes, error=error)
                return
            keys = puts + deletes
            for half in keys[: len(keys) // 2], keys[len(keys) // 2 :]:
                await self._attempt(shown, {key: change[key] for key in half})
        except (EtcdRefused, EtcdUnknown) as error:
            shown.doubt(change)
            self._hold("put", puts, error)
            self._hold("delete", deletes, error)
        else:
            self._written("put", puts)
            self._written("delete", deletes)

    async def _delete_one_by_one(self, shown: ShownKeys, keys: list[str]) -> None:
        """Delete each key by a request of its own, which etcd takes even at its space quota."""
        self.requests += len(keys)
        errors = await asyncio.gather(*map(shown.delete, keys))
        self._written("delete", [key for key, error in zip(keys, errors, strict=True) if error is None])
        failed = {key: error for key, error in zip(keys, errors, strict=True) if error is not None}
        for key, error in failed.items():
            if isinstance(error, EtcdRejected):
                self._set_aside(key, error=error)
        again = [key for key, error in failed.items() if not isinstance(error, EtcdRejected)]
        if again:
            self._hold("delete", again, failed[again[0]])

    def _written(self, lane: LaneName, keys: list[str]) -> None:
        if keys:
            if self._backlog.failures(lane):
                log.info("keys written again", what=self._what, kind=lane)
            self._backlog.written(lane, keys)

    def _hold(self, lane: LaneName, keys: list[str], error: EtcdError) -> None:
        if keys:
            failures = self._backlog.failures(lane)
            if not failures:
                log.warning(
                    "keys not written, retrying", what=self._what, kind=lane, keys=len(keys), detail=error.detail
                )
            self._backlog.hold(lane, keys, asyncio.get_running_loop().time() + backoff(failures))

    def _set_aside(self, key: str, *, error: EtcdError) -> None:
        now = asyncio.get_running_loop().time()
        if self._backlog.set_aside(self._lane(key), key, now):
            log.warning("etcd rejects this key, the others go on", what=self._what, key=key, detail=error.detail)

    def _check_overtaken(self, shown: ShownKeys) -> None:
        for key in shown.overtaken():
            self._check(key)

    async def _gather(self) -> None:
        if not self._gather_seconds or len(self._backlog) >= BATCH:
            return
        self._full.clear()
        try:
            async with asyncio.timeout(self._gather_seconds):
                await self._full.wait()
        except TimeoutError:
            return


class ShownKeys:
    """The keys that etcd holds under one lease, known from its mirror and from the responses to our writes."""

    def __init__(self, etcd: Etcd, mirror: KeyMirror, lease: int) -> None:
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

    async def write(self, change: Change) -> None:
        """Put each value on the lease; delete each key whose value is None."""
        operations = [
            op.delete(key) if value is None else op.put(key, value, self._lease) for key, value in change.items()
        ]
        revision = (await self._etcd.txn([], operations)).revision
        for key, value in change.items():
            self._doubted.discard(key)
            self._written[key] = (value, revision)

    async def delete(self, key: str) -> EtcdError | None:
        """Delete the key by a request of its own; return its error, after which the key is doubted."""
        try:
            await self._etcd.delete(key)
        except EtcdError as error:
            self._doubted.add(key)
            return error
        self._doubted.discard(key)
        self._written.pop(key, None)
        return None

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
