"""Sessions: a lease as a scope."""

from __future__ import annotations

import asyncio

import pytest

from pollcast.services.coordination import client
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.session import Session, backoff, keep_session
from pollcast.services.errors import LeaseLost
from tests.support.breakable_etcd import BreakableEtcd
from tests.support.waiting import eventually


async def test_keys_live_as_long_as_the_body(etcd: Etcd, namespace: str) -> None:
    async with Session.open(etcd, 10) as session:
        await etcd.put(f"{namespace}/k", b"", session.lease)
    assert await etcd.get(f"{namespace}/k") is None
    assert await etcd.lease_ttl(session.lease) == 0


async def test_the_lease_is_renewed_while_the_body_lives(etcd: Etcd) -> None:
    async with Session.open(etcd, 2) as session:
        first = session.valid_until
        assert session.margin() <= 2
        await eventually(lambda: session.valid_until >= first + 2)
        assert await etcd.lease_ttl(session.lease) > 0


async def test_a_lost_lease_cancels_the_body(etcd: Etcd) -> None:
    cancelled = False

    async def body() -> None:
        nonlocal cancelled
        async with Session.open(etcd, 10) as session:
            await etcd.lease_revoke(session.lease)
            session.verify()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled = True

    with pytest.raises(LeaseLost):
        await body()
    assert cancelled


async def test_an_error_of_the_body_is_raised_unchanged(etcd: Etcd) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with Session.open(etcd, 10) as session:
            raise KeyError("mine")
    assert await etcd.lease_ttl(session.lease) == 0


async def test_cancelling_the_body_revokes_the_lease(etcd: Etcd) -> None:
    opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def body() -> None:
        async with Session.open(etcd, 10) as session:
            opened.set_result(session.lease)
            await asyncio.Event().wait()

    task = asyncio.ensure_future(body())
    lease = await opened
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await etcd.lease_ttl(lease) == 0


async def test_a_body_whose_lease_is_lost_starts_over_under_a_new_one(etcd: Etcd) -> None:
    leases: list[int] = []

    async def body(session: Session) -> str:
        leases.append(session.lease)
        if len(leases) < 3:
            await etcd.lease_revoke(session.lease)
            session.verify()
            await asyncio.Event().wait()
        return "done"

    assert await keep_session(etcd, 10, body) == "done"
    assert len(set(leases)) == 3


async def test_an_etcd_outage_keeps_the_session_and_a_lost_lease_ends_it(
    own_etcd: BreakableEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CALL_SECONDS", 0.5)
    sessions: list[Session] = []

    async def body(session: Session) -> None:
        sessions.append(session)
        await asyncio.Event().wait()

    async with Etcd.open(own_etcd.settings) as etcd:
        task = asyncio.ensure_future(keep_session(etcd, 2, body))
        await eventually(lambda: sessions)
        own_etcd.server.kill()
        await eventually(lambda: sessions[0].margin() < 0)
        assert not sessions[0].reachable
        own_etcd.server.restart()  # etcd knows the lease, and extends it to its full time
        await eventually(lambda: sessions[0].reachable)
        assert len(sessions) == 1
        own_etcd.lose_everything(same_cluster_id=True)
        await eventually(lambda: len(sessions) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_stop_ends_the_retries_for_a_first_session(
    own_etcd: BreakableEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CALL_SECONDS", 0.3)
    own_etcd.server.kill()
    stop = asyncio.Event()

    async def body(_: Session) -> str:
        raise AssertionError("there is no session")

    async with Etcd.open(own_etcd.settings) as etcd:
        waiting = asyncio.ensure_future(keep_session(etcd, 2, body, stop))
        asyncio.get_running_loop().call_later(0.5, stop.set)
        assert await waiting is None


def test_pauses_grow_to_a_limit_and_differ() -> None:
    pauses = [backoff(attempt) for attempt in range(2000)]
    assert all(0.05 <= pause <= 2.0 for pause in pauses)
    assert pauses[0] <= 0.1
    assert min(pauses[10:]) >= 1.0
    assert len(set(pauses)) == len(pauses)


async def test_a_cancellation_during_the_loss_of_the_lease_is_not_swallowed(etcd: Etcd) -> None:
    opened: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
    losing = asyncio.Event()

    async def body(session: Session) -> None:
        opened.set_result(session)
        try:
            await asyncio.Event().wait()
        finally:
            losing.set()
            await asyncio.Event().wait()

    keeping = asyncio.ensure_future(keep_session(etcd, 10, body))
    session = await opened
    await etcd.lease_revoke(session.lease)
    session.verify()
    await losing.wait()
    keeping.cancel()
    await asyncio.wait({keeping}, timeout=20)
    assert keeping.cancelled()


async def test_a_session_ends_with_the_history_of_etcd_even_when_its_lease_survives(
    own_etcd: BreakableEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CALL_SECONDS", 0.5)
    sessions: list[Session] = []

    async def body(session: Session) -> None:
        await etcd.put(f"/k{len(sessions)}", b"", session.lease)
        sessions.append(session)
        await asyncio.Event().wait()

    async with Etcd.open(own_etcd.settings) as etcd:
        task = asyncio.ensure_future(keep_session(etcd, 30, body))
        await eventually(lambda: sessions)
        own_etcd.save()
        await etcd.put("/lost", b"")
        own_etcd.restore()
        with etcd.watches() as watches:  # a service has watches, so it notices at once
            watches.add_prefix("/", 1)
            await eventually(lambda: len(sessions) == 2)
        assert await etcd.get("/k0") is None
        assert await etcd.get("/k1") is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
