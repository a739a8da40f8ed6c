"""Demand in a real etcd: the keys of a gateway are those of the topics that have clients on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from pollcast.gateway.demand import Demand
from pollcast.services.coordination import client
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.desired_keys import DesiredKeys
from pollcast.services.coordination.keys import DemandRecord, Keys
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.session import Session, keep_session
from tests.support.breakable_etcd import BreakableEtcd
from tests.support.waiting import eventually


class DemandOnEtcd:
    """The demand of one gateway, under one session after the other."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self.demand = Demand(etcd, keys, "gw")
        self.sessions: list[Session] = []
        self._etcd, self._keys = etcd, keys

    async def term(self, session: Session) -> None:
        self.sessions.append(session)
        await self.demand.run(session)

    async def shown(self) -> dict[str, int]:
        """Return the leases of this namespace's demand keys by topic."""
        kvs = (await self._etcd.range(self._keys.demands())).kvs
        return {parsed[0]: kv.lease for kv in kvs if (parsed := self._keys.parse_demand(kv.key))}

    async def shows(self, *topics: str) -> bool:
        """Return whether etcd holds exactly these topics, on the present session's lease."""
        return await self.shown() == dict.fromkeys(topics, self.sessions[-1].lease)


@contextlib.asynccontextmanager
async def serving(etcd: Etcd, keys: Keys) -> AsyncIterator[DemandOnEtcd]:
    gateway = DemandOnEtcd(etcd, keys)
    task = asyncio.ensure_future(keep_session(etcd, 2, gateway.term))
    try:
        await eventually(lambda: gateway.sessions)
        yield gateway
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_topic_s_demand_is_written_once_and_deleted_with_its_last_client(etcd: Etcd, keys: Keys) -> None:
    async with serving(etcd, keys) as gateway:
        gateway.demand.want("a")
        gateway.demand.want("a")
        gateway.demand.want("b")
        await eventually(lambda: gateway.shows("a", "b"))
        kv = await etcd.get(keys.demand("a", "gw"))
        assert kv is not None
        assert DemandRecord.decode(kv.value).gateway == "gw"
        gateway.demand.unwant("a")
        await eventually(lambda: gateway.shows("b"))
        await eventually(lambda: gateway.demand.settled)
        assert gateway.demand.wanted == {"b"}
    assert await gateway.shown() == {}


async def test_a_key_deleted_between_its_write_and_the_next_listing_is_written_again(etcd: Etcd, keys: Keys) -> None:
    desired = DesiredKeys(etcd, "demand")
    mirror = Mirror(etcd, keys.demands(), desired.changed)
    async with Session.open(etcd, 2) as session, asyncio.TaskGroup() as tasks:
        await mirror._list(False)  # by hand, because a watch would report both the put and the delete
        running = tasks.create_task(desired.run(session, mirror))
        desired.put(keys.demand("a", "gw"), b"{}")
        await eventually(lambda: desired.requests == 1 and desired.settled)
        assert await etcd.delete(keys.demand("a", "gw"))
        await mirror._list(False)
        await eventually(lambda: desired.requests == 2 and desired.settled)
        assert await etcd.get(keys.demand("a", "gw")) is not None
        running.cancel()


async def test_demand_that_ends_before_it_is_written_is_never_written(etcd: Etcd, keys: Keys) -> None:
    async with serving(etcd, keys) as gateway:
        await eventually(lambda: gateway.demand.settled)
        before = (await etcd.range(keys.demands())).revision
        gateway.demand.want("a")
        gateway.demand.unwant("a")
        await eventually(lambda: gateway.demand.settled)
        mark = await etcd.put(keys.demand("mark", "gw2"), b"{}")  # the first event must be this one
        async with contextlib.aclosing(etcd.watch(keys.demands(), before + 1)) as batches:
            async for batch in batches:
                if batch.events:
                    assert batch.events[0].kv.mod_revision == mark
                    break


async def test_demand_that_changes_often_ends_in_its_last_state(etcd: Etcd, keys: Keys) -> None:
    async with serving(etcd, keys) as gateway:
        for round_number in range(30):
            for topic in ("a", "b", "c"):
                (gateway.demand.want if (round_number + ord(topic)) % 2 else gateway.demand.unwant)(topic)
            await asyncio.sleep(0)
            if round_number % 7 == 0:
                await etcd.get("/")
        await eventually(lambda: gateway.demand.settled)
        await eventually(lambda: gateway.shows(*gateway.demand.wanted))


@pytest.mark.parametrize("how", ["deleted", "garbled"])
async def test_a_demand_key_that_an_operator_deletes_or_overwrites_is_written_again(
    etcd: Etcd, keys: Keys, how: str
) -> None:
    async with serving(etcd, keys) as gateway:
        gateway.demand.want("a")
        await eventually(lambda: gateway.shows("a"))
        await eventually(lambda: gateway.demand.settled)
        if how == "deleted":
            await etcd.delete(keys.demand("a", "gw"))
        else:
            await etcd.put(keys.demand("a", "gw"), b"\xff")
        await eventually(lambda: gateway.shows("a"), 1.0)


async def test_all_demand_is_written_again_under_a_new_session(etcd: Etcd, keys: Keys) -> None:
    async with serving(etcd, keys) as gateway:
        gateway.demand.want("a")
        await eventually(lambda: gateway.shows("a"))
        await etcd.lease_revoke(gateway.sessions[0].lease)
        gateway.sessions[0].verify()
        await eventually(lambda: len(gateway.sessions) == 2)
        await eventually(lambda: gateway.shows("a"))


async def test_another_gateway_s_demand_is_left_alone(etcd: Etcd, keys: Keys) -> None:
    await etcd.put(keys.demand("a", "gw2"), b"{}")
    async with serving(etcd, keys) as gateway:
        gateway.demand.want("b")
        gateway.demand.unwant("a")
        await eventually(lambda: gateway.demand.settled)
        assert set(await gateway.shown()) == {"a", "b"}


async def test_thousands_of_topics_are_written_and_deleted_within_seconds(etcd: Etcd, keys: Keys) -> None:
    topics = [f"q?n={i}" for i in range(3000)]
    async with serving(etcd, keys) as gateway:
        for topic in topics:
            gateway.demand.want(topic)
        await eventually(lambda: gateway.shows(*topics), 5.0)
        for topic in topics:
            gateway.demand.unwant(topic)
        await eventually(lambda: gateway.shows(), 5.0)


async def test_changes_while_etcd_is_frozen_are_written_afterwards(
    own_etcd: BreakableEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CALL_SECONDS", 0.5)
    async with Etcd.open(own_etcd.settings) as etcd, serving(etcd, Keys("/t")) as gateway:
        gateway.demand.want("a")
        gateway.demand.want("b")
        await eventually(lambda: gateway.shows("a", "b"))
        own_etcd.server.freeze()
        gateway.demand.unwant("a")
        gateway.demand.want("c")
        await eventually(lambda: not gateway.demand.healthy)
        own_etcd.server.thaw()
        await eventually(lambda: gateway.demand.settled)
        await eventually(lambda: gateway.shows("b", "c"))
