"""Refusals of a real etcd: each holds back what it is about and nothing else, and everything heals by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pollcast.services.cli.doctor.look_at_etcd import look_at_etcd, look_at_write
from pollcast.services.coordination import claims
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.desired_keys import DesiredKeys
from pollcast.services.coordination.keys import DemandRecord, Keys, OwnerRecord
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.coordination.registry import Registration, node_record
from pollcast.services.coordination.selection import Selection
from pollcast.services.coordination.session import Session
from pollcast.services.errors import EtcdFull
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.process.settings import EtcdSettings
from tests.support.waiting import eventually

KEYS = Keys("/t")
QUOTA = 1024 * 1024


class SmallEtcd:
    """An etcd with a small space quota."""

    def __init__(self, server: EtcdServer, etcd: Etcd) -> None:
        self.server = server
        self.etcd = etcd

    async def fill(self) -> None:
        """Write until the quota is used up."""
        with contextlib.suppress(EtcdFull):
            while True:
                await self.etcd.put("/filling", b"x" * 50_000)

    async def make_room(self) -> None:
        """Do what an operator does: compact, defragment, disarm."""
        revision = (await self.etcd.range("/t/")).revision
        for command in (["compact", str(revision)], ["defrag"], ["alarm", "disarm"]):
            await asyncio.to_thread(self.server.etcdctl, *command)

    async def keys(self) -> set[str]:
        """Return the keys of the namespace."""
        return {kv.key for kv in (await self.etcd.range("/t/")).kvs}


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[SmallEtcd]:
    with EtcdServer.start(tmp_path, fsync=False, flags=[f"--quota-backend-bytes={QUOTA}"]) as server:
        async with Etcd.open(EtcdSettings(etcd=server.endpoints)) as etcd:
            yield SmallEtcd(server, etcd)


@contextlib.asynccontextmanager
async def desired_keys(etcd: Etcd, session: Session, prefix: str = "/t/") -> AsyncIterator[DesiredKeys]:
    desired = DesiredKeys(etcd, "demand")
    mirror = Mirror(etcd, prefix, desired.changed)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(mirror.run()), tasks.create_task(desired.run(session, mirror))]
        await mirror.synced.wait()
        yield desired
        for task in running:
            task.cancel()


async def test_a_full_etcd_still_takes_deletes_and_everything_heals_when_it_has_room(small: SmallEtcd) -> None:
    old, new = [[f"/t/{age}/{number}" for number in range(150)] for age in ("old", "new")]
    async with Session.open(small.etcd, 20) as session, desired_keys(small.etcd, session) as desired:
        for key in (*old, "/t/kept"):
            desired.put(key, b"1")
        await eventually(lambda: desired.settled)
        await small.fill()
        seen = await look_at_etcd(EtcdSettings(etcd=small.server.endpoints))
        assert [alarm for alarm in seen.endpoints[0].alarms if "NOSPACE" in alarm]
        assert (seen.endpoints[0].quota_bytes, seen.endpoints[0].read_problem) == (QUOTA, None)
        assert "database space exceeded" in ((await look_at_write(small.etcd)).problem or "")
        for key in new:
            desired.put(key, b"1")
        await asyncio.sleep(0)
        for key in old:
            desired.drop(key)

        async def only_kept() -> bool:
            return await small.keys() == {"/t/kept"}

        await eventually(only_kept, 5.0)
        desired.drop("/t/kept")  # in a lane of its own, while puts wait

        async def none() -> bool:
            return not await small.keys()

        await eventually(none, 2.0)
        assert not desired.settled
        await small.make_room()
        await eventually(lambda: desired.settled)
        assert await small.keys() == set(new)


async def test_a_key_that_etcd_rejects_is_set_aside_alone(etcd: Etcd, namespace: str) -> None:
    async def keys() -> set[str]:
        return {kv.key for kv in (await etcd.range(prefix)).kvs}

    prefix = f"{namespace}/"
    async with Session.open(etcd, 20) as session, desired_keys(etcd, session, prefix) as desired:
        too_large = prefix + "x" * 1_700_000
        names = [f"{prefix}{number}" for number in range(99)]
        for key in (*names[:50], too_large, *names[50:]):
            desired.put(key, b"1")

        async def all_but_one() -> bool:
            return await keys() == set(names)

        await eventually(all_but_one, 5.0)
        assert not desired.settled
        before = desired.requests
        assert before <= 2 * 8  # halving
        desired.drop(f"{prefix}0")
        desired.put(f"{prefix}99", b"1")

        async def goes_on() -> bool:
            return await keys() == {*names, f"{prefix}99"} - {f"{prefix}0"}

        await eventually(goes_on, 2.0)
        assert desired.requests <= before + 2
        desired.drop(too_large)
        await eventually(lambda: desired.settled)


async def test_a_topic_is_released_by_plain_deletes_while_etcd_is_full(small: SmallEtcd) -> None:
    etcd = small.etcd
    async with Session.open(etcd, 20) as session:
        demands = {topic: KEYS.demand(topic, "gw") for topic in ("a", "b", "c")}
        for key in demands.values():
            await etcd.put(key, DemandRecord("gw", "then").encode(), session.lease)
        owner = OwnerRecord("p1", "h:1", "then")
        held = await claims.claim(etcd, KEYS, session, owner, demands)
        mine = [claim for claim in held.values() if claim is not None]
        assert len(mine) == 3
        await etcd.put(KEYS.pin("a"), b"{}", session.lease)
        taken = await etcd.put(KEYS.owner("c"), OwnerRecord("p2", "h:2", "now").encode(), session.lease)
        await small.fill()
        for topic in ("a", "c"):
            await etcd.delete(demands[topic])
        assert await claims.release(etcd, KEYS, mine) == {"a": True, "b": False, "c": True}
        assert await etcd.get(KEYS.owner("a")) is None
        assert await etcd.get(KEYS.pin("a")) is None
        kept = await etcd.get(KEYS.owner("c"))  # another one's now
        assert kept is not None
        assert kept.mod_revision == taken
        assert await claims.let_go(etcd, KEYS, mine[1:2]) == {"b": True}
        assert await claims.claim(etcd, KEYS, session, owner, ["b"]) == {}
        await small.make_room()
        assert (await claims.claim(etcd, KEYS, session, owner, ["b"]))["b"] is not None


async def test_one_topic_that_is_too_large_does_not_keep_the_others_from_being_claimed(etcd: Etcd, keys: Keys) -> None:
    async with Session.open(etcd, 20) as session:
        large = "q?x=" + "y" * 400_000
        for topic in ("a", "b"):
            await etcd.put(keys.demand(topic, "gw"), b"{}", session.lease)
        found = await claims.claim(etcd, keys, session, OwnerRecord("p1", "h:1", "then"), [large, "a", "b"])
        assert set(found) == {"a", "b"}
        assert None not in found.values()


async def test_selected_keys_are_read_while_etcd_is_full(small: SmallEtcd) -> None:
    await small.etcd.put(KEYS.owner("a"), b"1")
    await small.fill()
    selected = {KEYS.owner(topic): None for topic in "ab"}
    changes: list[KeyEvent] = []
    selection = Selection(small.etcd, KEYS.owners, selected.__contains__, lambda: selected, changes.extend)
    running = asyncio.ensure_future(selection.run())
    try:
        await eventually(lambda: selection.healthy)
        assert [event.kv.key for event in changes] == [KEYS.owner("a")]
        await small.make_room()
        await small.etcd.put(KEYS.owner("b"), b"1")
        await eventually(lambda: len(changes) == 2)
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_node_that_starts_while_etcd_is_full_registers_when_it_has_room(small: SmallEtcd) -> None:
    async with Session.open(small.etcd, 20) as session:
        await small.fill()
        registration = Registration(small.etcd, KEYS, node_record("gateway", "g1", None, None))
        running = asyncio.ensure_future(registration.run(session))
        try:
            assert not await registration.announce("ready")
            await small.make_room()
            await eventually(registration.registered.is_set)
        finally:
            running.cancel()
            await asyncio.wait({running})
