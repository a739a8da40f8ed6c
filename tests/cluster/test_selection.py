"""A selection follows some keys under a prefix, through compaction and the loss of everything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.coordination.selection import Selection
from tests.support.breakable_etcd import BreakableEtcd
from tests.support.waiting import eventually


class Followed:
    """A selection, what is selected, and its changes."""

    def __init__(self, etcd: Etcd, prefix: str) -> None:
        self.keys: set[str] = set()
        self.changes: list[tuple[str, bytes]] = []
        self.losses = 0
        self.selection = Selection(etcd, prefix, self.keys.__contains__, lambda: self.keys, self._changed, self._lost)

    def add(self, *keys: str) -> None:
        for key in keys:
            self.keys.add(key)
            self.selection.read(key)

    def discard(self, key: str) -> None:
        self.keys.discard(key)
        self.selection.discard(key)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.selection.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    def _changed(self, events: list[KeyEvent]) -> None:
        self.changes += [(event.kv.key[-1], event.kv.value) for event in events]

    def _lost(self) -> None:
        self.losses += 1


async def test_selected_keys_are_read_and_followed_and_no_others(etcd: Etcd, namespace: str) -> None:
    prefix = f"{namespace}/"
    followed = Followed(etcd, prefix)
    await etcd.put(f"{prefix}a", b"1")
    await etcd.put(f"{prefix}b", b"1")
    followed.add(f"{prefix}a")
    async with followed.running():
        await eventually(lambda: followed.changes == [("a", b"1")])
        await etcd.put(f"{prefix}b", b"2")
        followed.add(f"{prefix}b", f"{prefix}c")
        await eventually(lambda: followed.changes[1:] == [("b", b"2")])
        await etcd.put(f"{prefix}c", b"3")
        await etcd.delete(f"{prefix}a")
        await eventually(lambda: followed.changes[2:] == [("c", b"3"), ("a", b"")])
        followed.discard(f"{prefix}b")
        await etcd.put(f"{prefix}b", b"4")
        await etcd.put(f"{prefix}c", b"4")
        await eventually(lambda: followed.changes[4:] == [("c", b"4")])
        assert set(followed.selection.items) == {f"{prefix}c"}
        assert followed.selection.healthy


async def test_a_selection_goes_on_after_compaction_and_begins_anew_after_a_loss(own_etcd: BreakableEtcd) -> None:
    async with Etcd.open(own_etcd.settings) as etcd:
        followed = Followed(etcd, "/t/")
        followed.add("/t/a", "/t/b")
        async with followed.running():
            await etcd.put("/t/a", b"1")
            await etcd.put("/t/b", b"1")
            await eventually(lambda: followed.changes == [("a", b"1"), ("b", b"1")])
            own_etcd.server.kill()
            await eventually(lambda: not followed.selection.healthy)
            own_etcd.server.members[0].restart()
            await etcd.delete("/t/b")
            await eventually(lambda: followed.changes[2:] == [("b", b"")])
            assert followed.losses == 0
            own_etcd.lose_everything(same_cluster_id=True)
            async with Etcd.open(own_etcd.settings) as other:
                await other.txn([], [op.put("/t/a", b"1")])
            await eventually(lambda: followed.losses == 1)
            await eventually(lambda: followed.changes[3:] == [("a", b"1")])
