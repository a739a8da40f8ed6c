"""Moving a topic, and requesting a node to drain, on real etcd."""

from __future__ import annotations

import asyncio

import pytest

from pollcast.coordinator.move_topic import move_topic
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.drain import DrainRequests, request_drain
from pollcast.services.coordination.keys import (
    DemandRecord,
    Keys,
    NodeRecord,
    NodeState,
    OwnerRecord,
    PinRecord,
    lease_hex,
)
from pollcast.services.coordination.session import Session
from pollcast.services.errors import UnknownNode, UnknownTopic
from pollcast.services.process.settings import Role
from tests.support.waiting import eventually

SINCE = "2026-01-01T00:00:00.000000Z"


async def register(
    etcd: Etcd, keys: Keys, node: str, session: Session, role: Role = "poller", state: NodeState = "ready"
) -> None:
    record = NodeRecord(node, role, None, "127.0.0.1:1", 1, "0", SINCE, lease_hex(session.lease), state)
    await etcd.put(keys.node(role, node), record.encode(), session.lease)


async def test_a_moved_topic_has_a_new_epoch_and_a_pin_on_the_lease_of_its_owner(etcd: Etcd, keys: Keys) -> None:
    async with Session.open(etcd, 5) as before, Session.open(etcd, 5) as target:
        await register(etcd, keys, "p1", before)
        await register(etcd, keys, "p2", target)
        old = await etcd.put(keys.owner("a"), OwnerRecord("p1", "127.0.0.1:1", SINCE).encode(), before.lease)
        epoch = await move_topic(etcd, keys, "a", "p2")
        assert epoch > old
        owner, pin = await etcd.read_all([keys.owner("a"), keys.pin("a")])
        assert owner is not None
        assert pin is not None
        assert (OwnerRecord.decode(owner.value).node, owner.lease, owner.mod_revision) == ("p2", target.lease, epoch)
        assert (PinRecord.decode(pin.value), pin.lease) == (PinRecord("p2"), target.lease)
        assert await move_topic(etcd, keys, "a", "p2") == epoch


async def test_a_topic_with_demand_and_no_owner_can_be_moved(etcd: Etcd, keys: Keys) -> None:
    async with Session.open(etcd, 5) as target:
        await register(etcd, keys, "p2", target)
        with pytest.raises(UnknownTopic):
            await move_topic(etcd, keys, "a", "p2")
        await etcd.put(keys.demand("a", "gw"), DemandRecord("gw", SINCE).encode(), target.lease)
        epoch = await move_topic(etcd, keys, "a", "p2")
        owner = await etcd.get(keys.owner("a"))
        assert owner is not None
        assert owner.mod_revision == epoch


@pytest.mark.parametrize("state", ["starting", "draining"])
async def test_a_topic_moves_only_to_a_ready_poller(etcd: Etcd, keys: Keys, state: NodeState) -> None:
    async with Session.open(etcd, 5) as target:
        await register(etcd, keys, "p2", target, state=state)
        await etcd.put(keys.demand("a", "gw"), b"{}", target.lease)
        for poller in ("p2", "unknown"):
            with pytest.raises(UnknownNode):
                await move_topic(etcd, keys, "a", poller)
        assert await etcd.get(keys.owner("a")) is None
        await etcd.put(keys.node("poller", "p2"), b"garbage", target.lease)
        with pytest.raises(UnknownNode):
            await move_topic(etcd, keys, "a", "p2")


async def test_a_drain_request_reaches_the_node_and_no_later_node_of_its_name(etcd: Etcd, keys: Keys) -> None:
    async with Session.open(etcd, 5) as other:
        async with Session.open(etcd, 5) as session, asyncio.TaskGroup() as tasks:
            await register(etcd, keys, "n", session)
            await register(etcd, keys, "n", other, role="gateway")
            stop, later = asyncio.Event(), asyncio.Event()
            requested = tasks.create_task(DrainRequests(etcd, keys, "poller", "n", stop).run(session))
            await etcd.put(keys.drain("poller", "n"), b"")  # without a lease it does not count
            assert sorted(await request_drain(etcd, keys, "n")) == ["gateway", "poller"]
            await eventually(stop.is_set)
            unrequested = tasks.create_task(DrainRequests(etcd, keys, "poller", "n", later).run(other))
            await etcd.put(keys.drain("poller", "other"), b"", other.lease)
            assert not later.is_set()
            for task in (requested, unrequested):
                task.cancel()
        assert await etcd.get(keys.drain("poller", "n")) is None


async def test_an_unknown_node_cannot_be_requested_to_drain(etcd: Etcd, keys: Keys) -> None:
    await etcd.txn([], [op.put(keys.node("poller", "n"), b"without a lease")])
    with pytest.raises(UnknownNode):
        await request_drain(etcd, keys, "n")
