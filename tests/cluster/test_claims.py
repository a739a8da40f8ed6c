"""The three transactions on real etcd."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from pollcast.services.coordination import claims as c
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.claims import Claim, claim, hand_over, let_go, release, remove
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord, OwnerRecord, lease_hex
from pollcast.services.coordination.session import Session
from pollcast.services.errors import EtcdUnknown, LeaseLost
from tests.support.waiting import stood_still

ME = OwnerRecord("me", "127.0.0.1:1", "2026-01-01T00:00:00.000000Z")


async def demand(etcd: Etcd, keys: Keys, *topics: str) -> None:
    for start in range(0, len(topics), 100):
        await etcd.txn([], [op.put(keys.demand(topic, "gw"), b"{}") for topic in topics[start : start + 100]])


async def test_a_claim_requires_demand_and_no_owner(etcd: Etcd, keys: Keys) -> None:
    await demand(etcd, keys, "a", "b", "ab")
    async with Session.open(etcd, 5) as mine, Session.open(etcd, 5) as other:
        assert (await claim(etcd, keys, other, ME, ["b"]))["b"] is not None
        claims = await claim(etcd, keys, mine, ME, ["a", "b", "unwatched"])
        assert claims["b"] is None
        assert claims["unwatched"] is None
        held = claims["a"]
        kv = await etcd.get(keys.owner("a"))
        assert kv is not None
        assert held == Claim("a", kv.mod_revision, mine.lease)
        assert (kv.lease, kv.value) == (mine.lease, ME.encode())


async def test_claiming_a_topic_again_returns_the_same_claim(etcd: Etcd, keys: Keys) -> None:
    await demand(etcd, keys, "a")
    async with Session.open(etcd, 5) as session:
        first = await claim(etcd, keys, session, ME, ["a"])
        assert await claim(etcd, keys, session, ME, ["a"]) == first


async def test_one_of_many_claimants_wins_each_topic(etcd: Etcd, keys: Keys) -> None:
    topics = [f"q?n={i}" for i in range(250)]
    await demand(etcd, keys, *topics)
    async with Session.open(etcd, 5) as a, Session.open(etcd, 5) as b, Session.open(etcd, 5) as d:
        won = await asyncio.gather(*(claim(etcd, keys, session, ME, topics) for session in (a, b, d)))
    for topic in topics:
        assert sum(claims[topic] is not None for claims in won) == 1


async def test_topics_of_any_length_are_claimed_handed_over_and_released(etcd: Etcd, keys: Keys) -> None:
    topics = [f"q?n={i:03}" + "x" * (8 * 1024 - 7) for i in range(100)]  # the longest topics that exist
    await demand(etcd, keys, *topics)
    async with Session.open(etcd, 5) as mine, Session.open(etcd, 5) as other:
        held = [each for each in (await claim(etcd, keys, mine, ME, topics)).values() if each is not None]
        assert [each.topic for each in held] == topics
        target = NodeRecord("p2", "poller", None, "127.0.0.1:2", 1, "0", "t", lease_hex(other.lease), "ready")
        await etcd.put(keys.node("poller", "p2"), target.encode(), other.lease)
        epochs = await hand_over(etcd, keys, held, target)
        moved = [Claim(topic, epochs[topic], other.lease) for topic in topics]
        assert await release(etcd, keys, moved) == dict.fromkeys(topics, False)
        assert await let_go(etcd, keys, moved) == dict.fromkeys(topics, True)


async def test_a_topic_with_a_garbled_owner_can_be_claimed(etcd: Etcd, keys: Keys) -> None:
    await demand(etcd, keys, "a")
    revision = await etcd.put(keys.owner("a"), b"garbage")
    async with Session.open(etcd, 5) as session:
        assert (await claim(etcd, keys, session, ME, ["a"]))["a"] is None
        assert (await claim(etcd, keys, session, ME, ["a"], {"a": revision - 1}))["a"] is None
        assert (await claim(etcd, keys, session, ME, ["a"], {"a": revision}))["a"] is not None


async def test_a_claim_under_a_lost_lease_raises_lease_lost(etcd: Etcd, keys: Keys) -> None:
    await demand(etcd, keys, "a")
    async with Session.open(etcd, 5) as session:
        await etcd.lease_revoke(session.lease)
        with pytest.raises(LeaseLost):
            await claim(etcd, keys, session, ME, ["a"])


async def test_a_release_requires_no_demand_and_our_epoch(etcd: Etcd, keys: Keys) -> None:
    await demand(etcd, keys, "a", "b", "c")
    async with Session.open(etcd, 5) as session:
        held = await claim(etcd, keys, session, ME, ["a", "b", "c"])
        claims = [each for each in held.values() if each is not None]
        await etcd.delete(keys.demand("a", "gw"))
        await etcd.put(keys.owner("c"), b"another", session.lease)
        assert await release(etcd, keys, claims) == {"a": True, "b": False, "c": True}
        owners = await etcd.range(keys.owners)
        assert [(kv.key, kv.value) for kv in owners.kvs] == [
            (keys.owner("b"), ME.encode()),
            (keys.owner("c"), b"another"),
        ]


async def test_a_hand_over_rebinds_to_the_lease_of_a_target_that_is_registered(etcd: Etcd, keys: Keys) -> None:
    await demand(etcd, keys, "a", "b")
    async with Session.open(etcd, 5) as mine, Session.open(etcd, 5) as other:
        lease = lease_hex(other.lease)
        target = NodeRecord("p2", "poller", None, "127.0.0.1:2", 1, "0", "t", lease, "ready")
        held = await claim(etcd, keys, mine, ME, ["a", "b"])
        claims = [each for each in held.values() if each is not None]
        assert await hand_over(etcd, keys, claims, target) == {each.topic: each.epoch for each in claims}
        await etcd.put(keys.node("poller", "p2"), target.encode(), other.lease)
        epochs = await hand_over(etcd, keys, claims, target)
        kv = await etcd.get(keys.owner("a"))
        assert kv is not None
        assert epochs == {"a": kv.mod_revision, "b": kv.mod_revision}
        assert await hand_over(etcd, keys, claims, target) == epochs  # not ours any more
        assert kv.lease == other.lease
        assert kv.mod_revision > claims[0].epoch
        record = OwnerRecord.decode(kv.value)
        assert (record.node, record.grpc) == ("p2", "127.0.0.1:2")


async def test_a_release_deletes_the_pin_and_letting_go_ignores_demand(etcd: Etcd, keys: Keys) -> None:
    await demand(etcd, keys, "a", "b")
    async with Session.open(etcd, 5) as session:
        held = await claim(etcd, keys, session, ME, ["a", "b"])
        claims = [each for each in held.values() if each is not None]
        for topic in held:
            await etcd.put(keys.pin(topic), b"{}", session.lease)
        await etcd.delete(keys.demand("a", "gw"))
        assert await release(etcd, keys, claims) == {"a": True, "b": False}
        assert await let_go(etcd, keys, claims) == {"a": True, "b": True}
        assert (await etcd.range(keys.owners)).kvs == ()
        assert (await etcd.range(keys.pins)).kvs == ()


async def test_garbage_is_removed_only_at_the_revision_that_was_seen(etcd: Etcd, keys: Keys) -> None:
    seen = await etcd.put(keys.demand("a", "x"), b"garbage")
    await etcd.put(keys.demand("a", "gw"), b"garbage")
    await demand(etcd, keys, "a")  # written since
    await remove(etcd, {keys.demand("a", "x"): seen, keys.demand("a", "gw"): seen + 1})
    assert [kv.key for kv in (await etcd.range(keys.demands("a"))).kvs] == [keys.demand("a", "gw")]


class UnansweringEtcd(Etcd):
    """A client whose writing transactions get no response, whether they are carried out or not."""

    def __init__(self, etcd: Etcd, *, carried_out: bool) -> None:
        super().__init__(etcd._endpoints, etcd._namespace)
        self.carried_out = carried_out

    async def txn(
        self, compare: Sequence[op.Compare], success: Sequence[op.Operation], failure: Sequence[op.Operation] = ()
    ) -> op.TxnResult:
        if self.carried_out:
            await super().txn(compare, success, failure)
        raise EtcdUnknown


@pytest.mark.parametrize("carried_out", [True, False])
async def test_the_result_of_a_transaction_without_a_response_is_read_back(
    etcd: Etcd, keys: Keys, carried_out: bool
) -> None:
    await demand(etcd, keys, "a", "b")
    silent = UnansweringEtcd(etcd, carried_out=carried_out)
    async with Session.open(etcd, 5) as session:
        claims = await claim(silent, keys, session, ME, ["a"])
        assert (claims["a"] is not None) == carried_out
        held = (await claim(etcd, keys, session, ME, ["b"]))["b"]
        assert held is not None
        await etcd.delete(keys.demand("b", "gw"))
        assert await release(silent, keys, [held]) == {"b": carried_out}


async def test_all_topics_of_a_request_without_a_response_are_read_back(etcd: Etcd, keys: Keys) -> None:
    topics = [f"q?n={i}" for i in range(c.BATCH)]
    await demand(etcd, keys, *topics)
    async with Session.open(etcd, 5) as session:
        claims = await claim(UnansweringEtcd(etcd, carried_out=True), keys, session, ME, topics)
        assert [held.topic for held in claims.values() if held] == topics


async def test_thousands_are_claimed_in_batches_and_fast(etcd: Etcd, keys: Keys) -> None:
    topics = [f"q?n={i}" for i in range(3000)]
    await demand(etcd, keys, *topics)
    async with Session.open(etcd, 5) as session:
        started = time.monotonic()
        claims = await claim(etcd, keys, session, ME, topics)
        assert time.monotonic() - started < 3 + stood_still(started)
        assert all(claims.values())
        assert len({held.epoch for held in claims.values() if held}) == len(topics) / c.BATCH
