"""An interest follows single keys of a changing set, through every outage."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from pollcast.services.coordination import client
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.interest import Interest
from pollcast.services.coordination.operations import KeyEvent
from tests.support.breakable_etcd import BreakableEtcd
from tests.support.waiting import eventually


@contextlib.asynccontextmanager
async def running(interest: Interest) -> AsyncIterator[Interest]:
    task = asyncio.ensure_future(interest.run())
    try:
        yield interest
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_added_keys_are_known_and_followed_and_discarded_ones_are_not(etcd: Etcd, namespace: str) -> None:
    changes: list[KeyEvent] = []
    a, b, c = (f"{namespace}/{name}" for name in "abc")
    await etcd.put(a, b"1")
    interest = Interest(etcd, "letters", changes.extend)
    interest.add(a)
    async with running(interest):
        interest.add(b)
        await eventually(lambda: interest.healthy)
        assert {key: kv.value for key, kv in interest.items.items()} == {a: b"1"}
        await etcd.put(b, b"2")
        await etcd.put(c, b"3")
        await etcd.delete(a)
        await eventually(lambda: len(changes) == 3)
        assert [(event.kv.key, event.deleted) for event in changes] == [(a, False), (b, False), (a, True)]
        assert changes[-1].previous.value == b"1"
        interest.discard(b)
        assert interest.items == {}
        interest.add(c)
        await etcd.put(b, b"4")
        await eventually(lambda: interest.healthy)
        assert [event.kv.key for event in changes[3:]] == [c]


async def test_many_keys_are_read_in_batches_and_changed_meanwhile(own_etcd: BreakableEtcd) -> None:
    changes: list[KeyEvent] = []
    keys = [f"/i/{n}" for n in range(1000)]

    async def write(value: bytes) -> None:
        for at in range(0, len(keys), 100):
            await etcd.txn([], [op.put(key, value) for key in keys[at : at + 100]])

    async with Etcd.open(own_etcd.settings) as etcd:
        await write(b"0")
        interest = Interest(etcd, "numbers", changes.extend)
        async with running(interest):
            before = own_etcd.metric('grpc_server_started_total{grpc_method="Txn"')
            for key in keys:
                interest.add(key)
            for n in range(1, 6):
                await write(b"%d" % n)
            await eventually(lambda: interest.healthy and all(kv.value == b"5" for kv in interest.items.values()))
            assert len(interest.items) == 1000
            assert own_etcd.metric('grpc_server_started_total{grpc_method="Txn"') - before - 50 < 100
            revisions: dict[str, int] = {}
            for event in changes:  # never backwards, and nothing twice
                assert event.kv.mod_revision > revisions.get(event.kv.key, 0)
                revisions[event.kv.key] = event.kv.mod_revision
            own_etcd.server.kill()
            await eventually(lambda: not interest.healthy)
            interest.discard(keys[0])
            changes.clear()
            own_etcd.server.restart()
            await eventually(lambda: interest.healthy)
            assert changes == []
            own_etcd.server.etcdctl("compact", str((await etcd.get(keys[1])).mod_revision))  # type: ignore[union-attr]
            await etcd.delete(keys[0])
            await etcd.delete(keys[1])
            await eventually(lambda: changes)
            assert [(event.kv.key, event.deleted) for event in changes] == [(keys[1], True)]


@pytest.mark.parametrize("kept", [True, False])
async def test_after_a_loss_of_data_every_key_is_passed_on_again(
    own_etcd: BreakableEtcd, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    told: list[str] = []
    monkeypatch.setattr(client, "CALL_SECONDS", 0.5)
    async with Etcd.open(own_etcd.settings) as etcd:
        await etcd.put("/k", b"1")
        interest = Interest(
            etcd,
            "keys",
            lambda events: told.extend("deleted" if event.deleted else "put" for event in events),
            lambda: told.append("new"),
        )
        interest.add("/k")
        async with running(interest):
            await eventually(lambda: told == ["put"])
            if kept:
                own_etcd.save()
                await etcd.put("/other", b"2")
                own_etcd.restore()
            else:
                own_etcd.lose_everything(same_cluster_id=True)
            await eventually(lambda: len(told) == 3)
    assert told == ["put", "new", "put" if kept else "deleted"]
