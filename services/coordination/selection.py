"""A local copy of selected keys under a prefix, for a process that needs few of many.

`run` watches the whole prefix, from a revision on, and keeps what is selected; other events cost a look at their key.
So memory is proportional to the selected keys, and nothing is done while nothing changes. A watch per key would save
the look, at a price: each of them costs half a millisecond to begin, and etcd sends each its events in messages of
their own, at 0.2 ms a message, whereas a poller's death is a handful of messages on a watch of the prefix
(docs/design/scale.md#what-each-service-watches).

A selected key is read once, in batches with others (`read`). Events and reads overtake each other: an event up to the
revision of the read is contained in it, and a read is ignored when an event after its revision has come first. A watch
that breaks resumes from where it was. When etcd has compacted that revision, or has lost its data, the watch begins
anew, and every selected key is read again; after a loss each of those that exist is passed on, also when it is equal to
before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NoReturn

from pollcast.services.coordination.backoff import backoff
from pollcast.services.coordination.client import Etcd, Watches
from pollcast.services.coordination.mirror import SLICE, OnChange
from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.services.errors import Compacted, EtcdError, NewIncarnation, unwrapped
from pollcast.services.process import logs
from pollcast.services.process.cancellation import heeding_cancellation

log = logs.get_logger("selection")

BATCH = 100
"""Maximum number of keys that are read in one request; etcd's default --max-txn-ops is 128."""


class SelectedKeys:
    """The selected keys as they are known from events and reads that overtake each other. Pure."""

    def __init__(self) -> None:
        self.items: dict[str, Kv] = {}
        self._known: dict[str, int] = {}  # keys that are being read, or were read ahead of the events: known up to here
        self._anew: set[str] = set()  # keys to pass on even when they are equal to before

    def begin_read(self, key: str, *, anew: bool = False) -> None:
        """Note that the key is about to be read."""
        self._known.setdefault(key, 0)
        if anew:
            self._known[key] = 0
            self._anew.add(key)

    def take_event(self, event: KeyEvent) -> KeyEvent | None:
        """Take in an event; return it, with the value before, when it is a change."""
        key, revision = event.kv.key, event.kv.mod_revision
        if key in self._known:
            if revision <= self._known[key]:
                return None
            self._known[key] = revision
        return self._apply(event)

    def take_read(self, key: str, kv: Kv | None, revision: int) -> KeyEvent | None:
        """Take in what was read of the key at a revision; return the change, if it is one."""
        if self._known.get(key, revision + 1) > revision:
            return None  # it was discarded, or has changed since
        self._known[key] = revision
        return self._apply(KeyEvent(Kv(key, b"", 0, revision, 0), deleted=True) if kv is None else KeyEvent(kv))

    def passed(self, revision: int) -> None:
        """Note that all events up to this revision have come, and that no read is under way."""
        self._known = {key: known for key, known in self._known.items() if known > revision}

    def discard(self, key: str) -> None:
        """Forget the key."""
        self.items.pop(key, None)
        self._known.pop(key, None)
        self._anew.discard(key)

    @property
    def ahead(self) -> int:
        """The number of keys that are being read, or were read ahead of the events."""
        return len(self._known)

    def _apply(self, event: KeyEvent) -> KeyEvent | None:
        key = event.kv.key
        previous = self.items.get(key)
        anew = key in self._anew
        self._anew.discard(key)
        if event.deleted:
            if previous is None:
                return None
            del self.items[key]
        elif previous == event.kv and not anew:
            return None
        else:
            self.items[key] = event.kv
        return KeyEvent(event.kv, event.deleted, previous)


class Selection:
    """The selected keys under one prefix. `revision` is that of the last event, or of the beginning of the watch;
    `synced` is set once the watch has begun."""

    def __init__(
        self,
        etcd: Etcd,
        prefix: str,
        wants: Callable[[str], bool],
        selected: Callable[[], Iterable[str]],
        on_change: OnChange,
        on_new_cluster: Callable[[], None] | None = None,
    ) -> None:
        """`wants` returns whether a key is selected, and must not block; `selected` returns the keys to read when the
        watch begins anew. `on_change` gets the changes of selected keys. `on_new_cluster` is called when etcd has lost
        its data, before any change that follows from that. When all keys were read again, `on_change` gets an empty
        list, as from a mirror (mirror.py)."""
        self.prefix = prefix
        self.revision = 0
        self.synced = asyncio.Event()
        self._etcd = etcd
        self._wants = wants
        self._selected = selected
        self._on_change = on_change
        self._on_new_cluster = on_new_cluster
        self._keys = SelectedKeys()
        self._unread: dict[str, None] = {}
        self._reading = 0
        self._listing = False  # whether an empty batch is due once everything is read
        self._wake = asyncio.Event()
        self._watches: Watches | None = None
        self._anew = False

    @property
    def items(self) -> dict[str, Kv]:
        """The selected keys that exist, as last known."""
        return self._keys.items

    @property
    def healthy(self) -> bool:
        """Whether etcd is followed now, and every selected key is known."""
        return self._watches is not None and self._watches.healthy and not (self._unread or self._reading)

    def read(self, key: str) -> None:
        """Read a key that is selected from now on."""
        self._keys.begin_read(key, anew=self._anew)
        self._unread[key] = None
        self._wake.set()

    def discard(self, key: str) -> None:
        """Forget a key that is not selected any more."""
        self._keys.discard(key)
        self._unread.pop(key, None)

    async def run(self) -> NoReturn:
        """Follow etcd until cancelled, whatever etcd does."""
        failures = 0
        with self._etcd.on_new_incarnation(self._begin_anew):
            while True:
                try:
                    incarnation = self._etcd.incarnation
                    revision, _ = await self._etcd.read_at([self.prefix])
                    if incarnation == self._etcd.incarnation:
                        failures = 0
                        await self._follow(revision)
                except (Compacted, NewIncarnation) as error:
                    log.info("reading again", prefix=self.prefix, detail=error.detail)
                except EtcdError as error:
                    if not failures:
                        log.warning("not following etcd, retrying", prefix=self.prefix, detail=error.detail)
                    await asyncio.sleep(backoff(failures))
                    failures += 1

    # --- inside

    def _begin_anew(self) -> None:
        self._anew = True
        self.revision = 0
        self._unread.clear()
        if self._on_new_cluster is not None:
            self._on_new_cluster()

    async def _follow(self, revision: int) -> NoReturn:
        with self._etcd.watches() as watches:
            watches.add_prefix(self.prefix, revision + 1)
            self.revision = revision
            for key in {**self.items, **dict.fromkeys(self._selected())}:
                self.read(key)
            self._anew, self._listing, self._watches = False, True, watches
            self.synced.set()
            try:
                with heeding_cancellation(BaseExceptionGroup):
                    async with asyncio.TaskGroup() as tasks:
                        reading = tasks.create_task(self._read(), name=f"reading below {self.prefix}")
                        try:
                            await self._receive_all(watches)
                        finally:
                            reading.cancel()
            except BaseExceptionGroup as group:
                raise unwrapped(group) from None
            finally:
                self._watches = None
        raise AssertionError("unreachable")

    async def _receive_all(self, watches: Watches) -> NoReturn:
        incarnation = self._etcd.incarnation
        async with contextlib.aclosing(watches.batches()) as batches:
            async for batch in batches:
                for events in batch.picked(self._wants, SLICE):
                    if incarnation != self._etcd.incarnation:
                        raise NewIncarnation
                    self._pass_on([self._keys.take_event(event) for event in events])
                    await asyncio.sleep(0)
                self.revision = batch.revision
                if not self._unread and not self._reading and self._keys.ahead > SLICE:
                    self._keys.passed(self.revision)
        raise AssertionError("unreachable")

    async def _read(self) -> NoReturn:
        failures = 0
        while True:
            if not self._unread:
                if self._listing:
                    self._listing = False
                    self._on_change([])
                self._wake.clear()
                await self._wake.wait()
            keys = list(islice(self._unread, BATCH))
            for key in keys:
                del self._unread[key]
            self._reading, incarnation = len(keys), self._etcd.incarnation
            try:
                revision, found = await self._etcd.read_at(keys)
            except EtcdError as error:
                if not failures:
                    log.warning("keys not read, retrying", prefix=self.prefix, keys=len(keys), detail=error.detail)
                self._unread |= {key: None for key in keys if self._wants(key)}
                await asyncio.sleep(backoff(failures))
                failures += 1
                continue
            finally:
                self._reading = 0
            failures = 0
            if incarnation == self._etcd.incarnation:
                self._found(keys, found, revision)

    def _found(self, keys: Sequence[str], found: Sequence[Kv | None], revision: int) -> None:
        wanted = [(key, kv) for key, kv in zip(keys, found, strict=True) if self._wants(key)]
        self._pass_on([self._keys.take_read(key, kv, revision) for key, kv in wanted])

    def _pass_on(self, changes: Iterable[KeyEvent | None]) -> None:
        some = [change for change in changes if change is not None]
        if some:
            self._on_change(some)
