"""Presence keys in a real etcd: the values written, the number of requests, and what other gateways see."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable

import pytest

from pollcast.gateway.cohorts import Traffic
from pollcast.gateway.presence import Presences
from pollcast.gateway.presence_keys import Change, PresenceKeys
from pollcast.gateway.presence_list import PresenceList
from pollcast.gateway.presence_request import PresenceRequest
from pollcast.gateway.topic import LiveTopic
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.desired_keys import BATCH
from pollcast.services.coordination.keys import Keys, PresenceRecord
from pollcast.services.coordination.session import Session, keep_session
from pollcast.services.errors import LeaseLost
from tests.support.breakable_etcd import BreakableEtcd
from tests.support.presence_world import TOPIC, Client
from tests.support.waiting import eventually

RECORD = PresenceRecord("ann", {"name": 1}, "2026-01-01T00:00:00Z")


class Side:
    """The presence keys of one gateway, running. `on_changes` gets the other gateways' changes."""

    def __init__(self, etcd: Etcd, keys: Keys, name: str) -> None:
        self.etcd = etcd
        self.changes: list[Change] = []
        self.members = PresenceKeys(etcd, keys, name)
        self.on_changes: Callable[[list[Change]], None] = self.changes.extend
        self.session: Session | None = None

    @contextlib.asynccontextmanager
    async def running(self, ttl: float = 5) -> AsyncIterator[Side]:
        async def term(session: Session) -> None:
            self.session = session
            await self.members.run(session)

        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self.members.follow(lambda changes: self.on_changes(changes))),
                tasks.create_task(keep_session(self.etcd, ttl, term)),
            ]
            try:
                yield self
            finally:
                for task in running:
                    task.cancel()

    def sees(self, topic: str = "room") -> set[str]:
        """Return the refs of the other gateways' members."""
        return {member_id.ref for member_id in self.members.others(topic)}


@pytest.fixture
async def sides(etcd: Etcd, keys: Keys) -> AsyncIterator[tuple[Side, Side]]:
    async with Side(etcd, keys, "one").running() as one, Side(etcd, keys, "two").running() as two:
        yield one, two


async def test_a_member_is_one_key_on_its_gateway_s_lease(etcd: Etcd, keys: Keys, sides: tuple[Side, Side]) -> None:
    one, two = sides
    one.members.show("room", "r1", RECORD)
    await eventually(lambda: two.sees() == {"r1"})
    kv = await etcd.get(keys.presence("room", "one", "r1"))
    assert kv is not None
    assert kv.value == b'{"key":"ann","meta":{"name":1},"online_at":"2026-01-01T00:00:00Z"}'
    assert one.session is not None
    assert kv.lease == one.session.lease
    one.members.hide("room", "r1")
    await eventually(lambda: two.sees() == set())
    assert [change.deleted for change in two.changes] == [False, True]
    assert one.changes == []


async def test_five_thousand_joins_in_a_second_take_tens_of_requests(sides: tuple[Side, Side]) -> None:
    one, two = sides
    await eventually(lambda: one.members.settled)
    started = time.monotonic()
    for tick in range(100):
        for number in range(50):
            one.members.show("room", f"r{tick}.{number}", RECORD)
        await asyncio.sleep(max(0.0, started + (tick + 1) / 100 - time.monotonic()))
    await eventually(lambda: len(two.sees()) == 5000)
    # Full batches, and at most fifty others a second.
    assert one.members.requests < 5000 / BATCH + 50 * (time.monotonic() - started)
    before = one.members.requests
    for tick in range(100):
        for number in range(50):
            one.members.hide("room", f"r{tick}.{number}")
    await eventually(lambda: not two.sees())
    assert one.members.requests - before <= 51


async def test_a_member_that_comes_and_goes_before_it_is_written_costs_no_request(etcd: Etcd, keys: Keys) -> None:
    one = Side(etcd, keys, "one")
    one.members.show("room", "r1", RECORD)
    one.members.hide("room", "r1")
    async with one.running():
        await eventually(lambda: one.members.settled)
        assert one.members.requests == 0


async def test_a_member_s_key_that_is_deleted_or_overwritten_is_written_again(
    etcd: Etcd, keys: Keys, sides: tuple[Side, Side]
) -> None:
    one, two = sides
    key = keys.presence("room", "one", "r1")
    one.members.show("room", "r1", RECORD)
    await eventually(lambda: two.sees() == {"r1"})

    async def is_back() -> bool:
        kv = await etcd.get(key)
        return (
            kv is not None and kv.value == RECORD.encode() and one.session is not None and kv.lease == one.session.lease
        )

    await etcd.delete(key)
    await eventually(is_back)
    await etcd.put(key, b"nonsense")
    await eventually(is_back)


async def test_the_end_of_a_lease_removes_all_members_in_one_revision_and_the_next_lease_restores_them(
    etcd: Etcd, keys: Keys, sides: tuple[Side, Side]
) -> None:
    one, two = sides
    refs = {f"r{number}" for number in range(300)}
    for ref in refs:
        one.members.show("room", ref, RECORD)
    await eventually(lambda: two.sees() == refs)
    ends: list[int] = []
    two.on_changes = lambda changes: ends.extend(change.kv.mod_revision for change in changes if change.deleted)
    assert one.session is not None
    await etcd.lease_revoke(one.session.lease)
    await eventually(lambda: len(ends) == 300)
    assert len(set(ends)) == 1
    one.session.verify()
    await eventually(lambda: two.sees() == refs)


async def test_a_list_stays_as_it_is_while_etcd_is_frozen(own_etcd: BreakableEtcd, keys: Keys) -> None:
    async with (
        Etcd.open(own_etcd.settings) as etcd,
        Etcd.open(own_etcd.settings) as other,
        Side(etcd, keys, "one").running() as one,
        Side(other, keys, "two").running() as two,
    ):
        one.members.show("room", "r1", RECORD)
        await eventually(lambda: two.sees() == {"r1"})
        own_etcd.server.freeze()
        await eventually(lambda: not two.members.mirror.healthy)
        one.members.show("room", "r2", RECORD)
        assert two.sees() == {"r1"}
        own_etcd.server.thaw()
        await eventually(lambda: two.sees() == {"r1", "r2"})
        assert [change.deleted for change in two.changes if change.member_id.ref == "r1"].count(True) <= 1


async def test_a_value_that_describes_no_member_is_not_listed(etcd: Etcd, keys: Keys, sides: tuple[Side, Side]) -> None:
    _, two = sides
    presences = Presences(two.members, time.monotonic)
    two.on_changes = presences.apply
    with presences.watching(TOPIC):
        presence = presences.of(TOPIC)
        for number, value in enumerate(
            [
                b"",
                b"{}",
                b"[1]",
                b'{"key":"__proto__","meta":{},"online_at":""}',
                b'{"key":"a","meta":[],"online_at":""}',
            ]
        ):
            await etcd.put(keys.presence("room", "etcdctl", f"bad{number}"), value)
        await etcd.put(keys.presence("room", "etcdctl", "good"), RECORD.encode())
        await eventually(lambda: len(two.sees()) == 6)
        assert [member.ref for member in presence.roster.members.values()] == ["good"]
        await etcd.put(keys.presence("room", "etcdctl", "good"), b"not any more")
        await eventually(lambda: not presence.roster.members)


# --- two gateways' lists on one etcd ------------------------------------------------------------------------------


class ListsOnEtcd:
    """A gateway's lists with clients, on a real etcd (`tests.support.presence_world.FakeGateway` has a log instead)."""

    def __init__(self, side: Side) -> None:
        self.presences = Presences(side.members, time.monotonic)
        self.live = LiveTopic(TOPIC, Traffic())
        side.on_changes = self.presences.apply

    @property
    def presence(self) -> PresenceList:
        return self.presences.of(TOPIC, self.live.audience)

    def join(self, number: int, key: str | None) -> Client:
        """Let a client join, listed under a key or (None) not listed."""
        client = Client(self, str(number))
        client.request = PresenceRequest(key, {"name": number}) if key is not None else None
        client.member = self.presence.join(client, client.request)
        self.live.audience.join(client, None)
        return client

    def part(self, client: Client, *, closed: bool) -> None:
        """Let a client close its socket, or leave its channel."""
        (self.presence.depart if closed else self.presence.leave)(client)
        self.live.audience.leave(client)


@pytest.mark.parametrize("seed", range(2))
async def test_lists_on_two_gateways_equal_the_truth_after_random_joins_leaves_and_crashes(
    etcd: Etcd, keys: Keys, seed: int
) -> None:
    chance = random.Random(seed)
    async with Side(etcd, keys, "one").running() as one, Side(etcd, keys, "two").running() as two:
        lists = {one: ListsOnEtcd(one), two: ListsOnEtcd(two)}
        clients: list[tuple[ListsOnEtcd, Client]] = [(here, here.join(0, None)) for here in lists.values()]
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(here.presences.run()) for here in lists.values()]
            for number in range(1, 120):
                action = chance.random()
                if action < 0.55:
                    here = chance.choice(list(lists.values()))
                    clients.append((here, here.join(number, f"user {chance.randrange(8)}")))
                elif action < 0.9 and len(clients) > 2:
                    here, client = clients.pop(chance.randrange(2, len(clients)))
                    here.part(client, closed=chance.random() < 0.5)
                elif action < 0.95:
                    side = chance.choice([one, two])
                    if side.session is not None:  # like a frozen gateway: its lease ends, its clients stay
                        session = side.session
                        with contextlib.suppress(LeaseLost):
                            await etcd.lease_revoke(session.lease)
                        session.verify()
                await asyncio.sleep(chance.random() * 0.03)
            truth = sorted(
                ((c.request.key, (c.request.meta["name"],)) for _, c in clients if c.request is not None), key=repr
            )
            await eventually(lambda: all(client.presence.listed("name") == truth for _, client in clients))
            for task in running:
                task.cancel()
