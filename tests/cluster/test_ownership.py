"""Ownership of topics shared by several pollers, on a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pollcast.coordinator.move_topic import move_topic
from pollcast.poller.ownership import Ownership
from pollcast.poller.ranking import rank
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import DemandRecord, Keys, NodeRecord, OwnerRecord, lease_hex
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.coordination.session import Session, keep_session
from tests.support.breakable_etcd import BreakableEtcd
from tests.support.waiting import eventually

DEMAND = DemandRecord("gw", "2026-01-01T00:00:00.000000Z").encode()


class Poller:
    """An OwnershipListener that records its topics, registered under a session of its own."""

    def __init__(self, etcd: Etcd, keys: Keys, name: str, linger: float) -> None:
        self.name = name
        self.topics: dict[str, int] = {}
        self.log: list[str] = []
        self.session: Session | None = None
        self.knows_all = False
        self.ownership = Ownership(etcd, keys, name, "127.0.0.1:1", self)
        self._etcd, self._keys, self._linger = etcd, keys, linger

    def gained(self, topic: str, epoch: int) -> None:
        assert topic not in self.topics
        self.topics[topic] = epoch
        self.log.append(f"+{topic}")

    def lost(self, topic: str) -> None:
        del self.topics[topic]
        self.log.append(f"-{topic}")

    def linger(self, topic: str) -> float | None:
        return None if topic.startswith("unknown") and not self.knows_all else self._linger

    async def term(self, session: Session) -> None:
        self.session = session
        record = NodeRecord(self.name, "poller", None, "127.0.0.1:1", 1, "0", "t", lease_hex(session.lease), "ready")
        await self._etcd.put(self._keys.node("poller", self.name), record.encode(), session.lease)
        await self.ownership.run(session)


@contextlib.asynccontextmanager
async def polling(etcd: Etcd, keys: Keys, *names: str, linger: float = 0.0) -> AsyncIterator[list[Poller]]:
    pollers = [Poller(etcd, keys, name, linger) for name in names]
    tasks = [asyncio.ensure_future(keep_session(etcd, 2, poller.term)) for poller in pollers]
    try:
        await eventually(lambda: all(poller.ownership.synced for poller in pollers))
        yield pollers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert all(poller.topics == {} for poller in pollers)


async def want(etcd: Etcd, keys: Keys, *topics: str, gateway: str = "gw") -> int:
    """Write demand for the topics on a new lease, as a gateway does, and return the lease."""
    lease, _ = await etcd.lease_grant(60)
    for start in range(0, len(topics), 100):
        batch = topics[start : start + 100]
        await etcd.txn([], [op.put(keys.demand(topic, gateway), DEMAND, lease) for topic in batch])
    return lease


async def test_each_topic_is_claimed_by_the_first_poller_in_rank(etcd: Etcd, keys: Keys) -> None:
    names = ["p1", "p2", "p3"]

    def out_of_rank(pollers: list[Poller], topics: list[str]) -> list[str]:
        owned = {topic: poller.name for poller in pollers for topic in poller.topics}
        return [topic for topic in topics if owned[topic] != rank(topic, names)[0]]

    async with polling(etcd, keys, *names) as pollers:
        # At first a poller may not have seen all others yet, and it claims for one that takes too long.
        for attempt in range(5):
            topics = [f"q{attempt}?n={i}" for i in range(60)]
            await want(etcd, keys, *topics)
            await eventually(lambda: sum(len(poller.topics) for poller in pollers) == 60 * (attempt + 1))  # noqa: B023
            strays = out_of_rank(pollers, topics)
            if not strays:
                break
        assert not strays
        kv = await etcd.get(keys.owner(topics[0]))
        assert kv is not None
        owner = OwnerRecord.decode(kv.value)
        assert {p.name: p for p in pollers}[owner.node].topics[topics[0]] == kv.mod_revision


async def test_a_topic_without_demand_is_released_after_linger(etcd: Etcd, keys: Keys) -> None:
    linger = 1.0
    async with polling(etcd, keys, "p1", linger=linger) as (poller,):
        lease = await want(etcd, keys, "a", "b")
        await eventually(lambda: poller.topics.keys() == {"a", "b"})
        epoch = poller.topics["a"]
        gone_at = asyncio.get_running_loop().time()
        await etcd.delete(keys.demand("b", "gw"))
        await etcd.delete(keys.demand("a", "gw"))
        await etcd.put(keys.demand("a", "gw"), DEMAND, lease)  # the demand returns within the linger
        await eventually(lambda: "b" not in poller.topics)
        assert asyncio.get_running_loop().time() - gone_at > linger
        assert poller.topics == {"a": epoch}
        assert await etcd.get(keys.owner("b")) is None


async def test_a_topic_whose_owner_key_is_deleted_is_claimed_again_and_the_old_owner_stops(
    etcd: Etcd, keys: Keys
) -> None:
    async with polling(etcd, keys, "p1", "p2") as pollers:
        await want(etcd, keys, "a")
        await eventually(lambda: any(poller.topics for poller in pollers))
        first = next(poller for poller in pollers if poller.topics)
        epoch = first.topics["a"]
        await etcd.delete(keys.owner("a"))
        await eventually(lambda: any(poller.topics.get("a", 0) > epoch for poller in pollers), 1.0)
        await eventually(lambda: first.log[:2] == ["+a", "-a"])


async def test_an_owner_key_with_an_invalid_value_is_claimed_again(etcd: Etcd, keys: Keys) -> None:
    async with polling(etcd, keys, "p1") as (poller,):
        await want(etcd, keys, "a")
        await eventually(lambda: poller.topics)
        await etcd.put(keys.owner("a"), b"garbage")
        await eventually(lambda: poller.log == ["+a", "-a", "+a"], 1.0)


async def test_foreign_keys_are_ignored(etcd: Etcd, keys: Keys) -> None:
    for key in (keys.owners + "NO", keys.owners + "a/b", keys.demands() + "x", keys.demand("garbled", "gw")):
        await etcd.put(key, b"\xff")
    await etcd.put(keys.node("poller", "ghost"), b"\xff")
    await etcd.put(keys.nodes("poller") + "a/b", b"{}")
    async with polling(etcd, keys, "p1") as (poller,):
        await want(etcd, keys, "a", "unknown")
        await eventually(lambda: set(poller.topics) == {"a"})


async def test_the_topics_of_a_dead_poller_are_taken_over(etcd: Etcd, keys: Keys) -> None:
    topics = [f"q?n={i}" for i in range(300)]
    async with polling(etcd, keys, "p2") as (survivor,):
        async with polling(etcd, keys, "p1") as (dying,):
            await want(etcd, keys, *topics)
            await eventually(lambda: len(survivor.topics) + len(dying.topics) == 300)
            assert len(dying.topics) > 100
        await eventually(lambda: len(survivor.topics) == 300, 1.0)


async def test_a_lost_session_loses_all_topics_and_the_next_claims_them_again(etcd: Etcd, keys: Keys) -> None:
    async with polling(etcd, keys, "p1") as (poller,):
        await want(etcd, keys, "a")
        await eventually(lambda: poller.topics)
        first = poller.session
        assert first is not None
        await etcd.lease_revoke(first.lease)
        await eventually(lambda: poller.session is not first and poller.topics)
        assert poller.log == ["+a", "-a", "+a"]


async def test_a_drained_poller_hands_topics_over_without_a_gap(etcd: Etcd, keys: Keys) -> None:
    topics = [f"q?n={i}" for i in range(120)]
    async with polling(etcd, keys, "p1", "p2") as (leaving, staying):
        await want(etcd, keys, *topics)
        await eventually(lambda: len(leaving.topics) + len(staying.topics) == 120)
        moving = len(leaving.topics)
        revision = (await etcd.range(keys.owners)).revision
        await leaving.ownership.drain()
        assert leaving.topics == {}
        await eventually(lambda: len(staying.topics) == 120)
        events: list[KeyEvent] = []
        async with contextlib.aclosing(etcd.watch(keys.owners, revision + 1)) as batches:
            while len(events) < moving:
                events += (await anext(batches)).events
        assert not any(event.deleted for event in events)


async def test_a_joining_poller_gets_its_share_by_hand_over(etcd: Etcd, keys: Keys) -> None:
    topics = [f"orders?region=r{i}" for i in range(200)]
    async with polling(etcd, keys, "poller-1", "poller-2") as old:
        await want(etcd, keys, *topics)
        await eventually(lambda: sum(len(poller.topics) for poller in old) == 200)
        revision = (await etcd.range(keys.owners)).revision
        async with polling(etcd, keys, "poller-3") as new:
            pollers = [*old, *new]
            await eventually(lambda: max(len(poller.topics) for poller in pollers) <= 1.25 * 200 / 3, 8.0)
            await eventually(lambda: sum(len(poller.topics) for poller in pollers) == 200)
            events: list[KeyEvent] = []
            async with contextlib.aclosing(etcd.watch(keys.owners, revision + 1)) as batches:
                while len(events) < len(new[0].topics):
                    events += (await anext(batches)).events
            assert not any(event.deleted for event in events)
            assert new[0].log == [f"+{topic}" for topic in new[0].topics]  # no topic was gained and lost again
            for poller in old:
                await poller.ownership.drain()  # so that no topic is lost when they leave


async def test_a_topic_ends_with_a_poller_whose_catalogue_has_its_query(etcd: Etcd, keys: Keys) -> None:
    topics = [f"unknown?n={i}" for i in range(40)]
    async with polling(etcd, keys, "knows") as (knows,):
        knows.knows_all = True
        await want(etcd, keys, *topics)
        await eventually(lambda: len(knows.topics) == 40)
        async with polling(etcd, keys, "new") as (new,):
            await eventually(lambda: new.log.count("+" + topics[0]) or len(new.log) >= 20, 5.0)
            await eventually(lambda: len(knows.topics) == 40 and not new.topics, 3.0)
            tried = len(new.log)
            await want(etcd, keys, "known")
            await eventually(lambda: "known" in knows.topics or "known" in new.topics)
            assert len(new.log) <= tried + 1


async def test_a_pinned_topic_is_handed_to_its_poller_which_claims_it_again(etcd: Etcd, keys: Keys) -> None:
    async with polling(etcd, keys, "p1", "p2") as pollers:
        await want(etcd, keys, "a")
        await eventually(lambda: any(poller.topics for poller in pollers))
        before = next(poller for poller in pollers if poller.topics)
        target = next(poller for poller in pollers if not poller.topics)
        epoch = await move_topic(etcd, keys, "a", target.name)
        await eventually(lambda: target.topics == {"a": epoch} and not before.topics)
        await etcd.delete(keys.owner("a"))
        await eventually(lambda: target.topics.get("a", 0) > epoch and not before.topics, 1.0)
        assert target.session is not None
        await etcd.lease_revoke(target.session.lease)  # the poller dies, and the pin is deleted with its lease
        await eventually(lambda: before.topics or target.topics)
        assert await etcd.get(keys.pin("a")) is None


async def test_invalid_keys_below_demand_keep_no_topic(etcd: Etcd, keys: Keys) -> None:
    async with polling(etcd, keys, "p1") as (poller,):
        await want(etcd, keys, "a")
        await eventually(lambda: poller.topics)
        await etcd.put(keys.demand("a", "nobody"), b"garbled")
        await etcd.put(keys.demand("a", "x/y"), b"")
        await etcd.delete(keys.demand("a", "gw"))
        await eventually(lambda: not poller.topics, 1.0)
        assert (await etcd.range(keys.demands("a"))).kvs == ()


async def test_thousands_of_topics_are_claimed_at_once(etcd: Etcd, keys: Keys) -> None:
    topics = [f"q?n={i}" for i in range(3000)]
    async with polling(etcd, keys, "p1", "p2") as pollers:
        await want(etcd, keys, *topics)
        await eventually(lambda: sum(len(poller.topics) for poller in pollers) == 3000, 5.0)


async def test_an_owner_keeps_its_topics_while_etcd_is_unreachable(own_etcd: BreakableEtcd) -> None:
    keys = Keys("/t")
    async with Etcd.open(own_etcd.settings) as etcd, polling(etcd, keys, "p1") as (poller,):
        await want(etcd, keys, "a")
        await eventually(lambda: poller.topics)
        own_etcd.server.kill()
        await eventually(lambda: not poller.ownership.healthy)
        assert poller.session is not None
        session = poller.session
        await eventually(lambda: session.margin() < 0)
        assert poller.log == ["+a"]
        own_etcd.server.restart()
        await eventually(lambda: poller.ownership.healthy)
        assert poller.log == ["+a"]
