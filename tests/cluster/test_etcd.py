"""The etcd client on real etcd, sound and broken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest
from pydantic import SecretStr

from pollcast.services.coordination import client, watch_stream
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.operations import TxnResult, WatchBatch
from pollcast.services.coordination.watches import Opened, Received
from pollcast.services.errors import Compacted, EtcdRefused, EtcdUnknown, LeaseLost
from pollcast.services.local.ports import free_port
from pollcast.services.process.settings import EtcdSettings
from tests.support.breakable_etcd import BreakableEtcd
from tests.support.waiting import eventually


async def test_a_key_is_read_as_it_was_written(etcd: Etcd, namespace: str) -> None:
    key = f"{namespace}/k"
    assert await etcd.get(key) is None
    revision = await etcd.put(key, b"v")
    assert await etcd.get(key) == op.Kv(key, b"v", revision, revision, 0)
    assert await etcd.delete(key)
    assert not await etcd.delete(key)


async def test_a_listing_of_several_pages_is_of_one_revision(
    etcd: Etcd, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE_KEYS", 7)
    keys = [f"{namespace}/k{i:03}" for i in range(100)]
    put = await etcd.txn([], [op.put(key, b"") for key in keys])
    await etcd.delete(keys[0])
    listing = await etcd.range(f"{namespace}/", put.revision)
    assert [kv.key for kv in listing.kvs] == keys
    assert len((await etcd.range(f"{namespace}/")).kvs) == 99


async def test_a_key_need_not_be_utf8(etcd: Etcd, namespace: str) -> None:
    key = namespace + b"/\xff\xfe".decode("utf-8", "surrogateescape")
    await etcd.put(key, b"v")
    assert [kv.key for kv in (await etcd.range(f"{namespace}/")).kvs] == [key]


async def test_a_range_compare_distinguishes_empty_from_not_empty(etcd: Etcd, namespace: str) -> None:
    prefix = f"{namespace}/"
    assert (await etcd.txn([op.none_under(prefix)], [])).succeeded
    assert not (await etcd.txn([op.some_under(prefix)], [])).succeeded
    await etcd.txn([], [op.put(f"{prefix}{i}", b"") for i in range(3)])
    assert not (await etcd.txn([op.none_under(prefix)], [])).succeeded
    assert (await etcd.txn([op.some_under(prefix)], [])).succeeded


async def test_nested_transactions_succeed_or_fail_independently(etcd: Etcd, namespace: str) -> None:
    a, b = f"{namespace}/a", f"{namespace}/b"
    there = await etcd.put(b, b"old")
    done = await etcd.txn([], [op.nested([op.absent(k)], [op.put(k, b"new")], [op.read(k)]) for k in (a, b)])
    first, second = done.results
    assert isinstance(first, TxnResult)
    assert isinstance(second, TxnResult)
    assert first.succeeded
    assert first.revision == done.revision
    assert not second.succeeded
    assert second.results == ((op.Kv(b, b"old", there, there, 0),),)
    found = await etcd.read_all([a, b, f"{namespace}/c"])
    assert [kv and kv.value for kv in found] == [b"new", b"old", None]


async def test_etcd_survives_clients_that_give_up_reading_many_keys(own_etcd: BreakableEtcd) -> None:
    keys = [f"/pollcast/owners/{n}" for n in range(100)]
    async with Etcd.open(own_etcd.settings) as etcd:
        before = await etcd.txn([], [op.put(key, b"x" * 100) for key in keys])

        async def give_up(seconds: float) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await etcd.read_all(keys)

        for round_ in range(20):
            async with asyncio.TaskGroup() as tasks:
                for number in range(20):
                    tasks.create_task(give_up(0.0005 * (round_ + number)))
        revision, found = await etcd.read_at(keys)
        assert len([kv for kv in found if kv is not None]) == len(keys)
        assert revision == before.revision, "reading wrote something"


async def test_a_lease_that_is_gone_raises_lease_lost(etcd: Etcd, namespace: str) -> None:
    lease, ttl = await etcd.lease_grant(60)
    assert ttl == 60
    assert await etcd.lease_keepalive(lease) == 60
    assert 0 < await etcd.lease_ttl(lease) <= 60
    await etcd.put(f"{namespace}/k", b"", lease)
    await etcd.lease_revoke(lease)
    assert await etcd.get(f"{namespace}/k") is None
    assert await etcd.lease_keepalive(lease) == 0
    assert await etcd.lease_ttl(lease) == 0
    with pytest.raises(LeaseLost):
        await etcd.put(f"{namespace}/k", b"", lease)
    with pytest.raises(LeaseLost):
        await etcd.lease_revoke(lease)


async def test_concurrent_renewals_do_not_mix_up_their_responses(etcd: Etcd) -> None:
    short, _ = await etcd.lease_grant(30)
    long, _ = await etcd.lease_grant(60)
    times = await asyncio.gather(*(etcd.lease_keepalive(lease) for lease in [short, long] * 10))
    assert times == [30.0, 60.0] * 10


async def test_a_watch_yields_every_event_from_its_revision_on(etcd: Etcd, namespace: str) -> None:
    key = f"{namespace}/k"
    first = await etcd.put(key, b"1")
    await etcd.delete(key)
    seen: list[tuple[bytes, bool]] = []
    async with contextlib.aclosing(etcd.watch(f"{namespace}/", first)) as batches:
        async for batch in batches:
            seen += [(event.kv.value, event.deleted) for event in batch.events]
            if len(seen) == 2:
                await etcd.put(key, b"3")
            if len(seen) == 3:
                break
    assert seen == [(b"1", False), (b"", True), (b"3", False)]


async def test_all_watches_of_a_process_share_one_stream_that_is_quiet_at_rest(own_etcd: BreakableEtcd) -> None:
    async with Etcd.open(own_etcd.settings) as etcd, contextlib.AsyncExitStack() as stack:
        for n in range(20):
            watches = stack.enter_context(etcd.watches())
            watches.add_prefix(f"/{n}/", 1)
        await eventually(lambda: watches.healthy)
        assert own_etcd.metric("etcd_debugging_mvcc_watch_stream_total") == 1
        assert own_etcd.metric("etcd_debugging_mvcc_watcher_total") == 20
        before = own_etcd.metric('grpc_server_msg_received_total{grpc_method="Watch"')
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began + 3:
            await etcd.get("/rest")  # any call shows that the member is alive
            await asyncio.sleep(0.1)
        assert own_etcd.metric('grpc_server_msg_received_total{grpc_method="Watch"') == before


async def test_a_silent_stream_is_asked_for_progress(own_etcd: BreakableEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_stream, "PROGRESS_SECONDS", 0.1)
    async with Etcd.open(own_etcd.settings) as etcd:
        with etcd.watches() as watches:
            watches.add_prefix("/", 1)
            await eventually(lambda: own_etcd.metric('grpc_server_msg_received_total{grpc_method="Watch"') >= 5)
            assert watches.healthy


async def test_a_watch_from_a_compacted_revision_raises_compacted(own_etcd: BreakableEtcd) -> None:
    async with Etcd.open(own_etcd.settings) as etcd:
        revisions = [await etcd.put("/k", b"") for _ in range(5)]
        own_etcd.server.etcdctl("compact", str(revisions[-1]))
        async with contextlib.aclosing(etcd.watch("/", revisions[0])) as batches:
            with pytest.raises(Compacted, match=f"{revisions[-1]}"):
                await until_it_ends(batches)
        with pytest.raises(Compacted):
            await etcd.range("/", revisions[0])


async def test_a_frozen_member_makes_a_write_unknown_and_a_read_refused_and_a_watch_outlasts_it(
    own_etcd: BreakableEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Etcd.open(own_etcd.settings) as etcd:
        with etcd.watches() as watches:
            watches.add_prefix("/", 1)
            assert [type(message) for message in await watches.take()] == [Opened]
            own_etcd.server.freeze()
            monkeypatch.setattr(client, "CALL_SECONDS", 0.5)
            monkeypatch.setattr(watch_stream, "QUIET_SECONDS", 0.2)
            monkeypatch.setattr(watch_stream, "STALL_SECONDS", 0.5)
            with pytest.raises(EtcdUnknown):
                await etcd.put("/k", b"v")
            with pytest.raises(EtcdRefused):
                await etcd.get("/k")
            with pytest.raises(EtcdRefused):
                await etcd.lease_keepalive(1, timeout=0.3)
            await eventually(lambda: not watches.healthy)
            own_etcd.server.thaw()
            await until_answers(etcd)
            await etcd.put("/last", b"v")
            seen: list[str] = []
            while seen[-1:] != ["/last"]:
                received = [message for message in await watches.take() if isinstance(message, Received)]
                seen += [event.kv.key for message in received for event in message.batch.events]
            assert seen in (["/last"], ["/k", "/last"])  # nothing twice


async def test_a_write_without_any_member_is_definitely_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CALL_SECONDS", 0.3)
    async with Etcd.open(EtcdSettings(etcd=(f"127.0.0.1:{free_port()}",))) as etcd:
        with pytest.raises(EtcdRefused):
            await etcd.put("/k", b"v")


async def test_a_dead_or_frozen_endpoint_is_left_for_the_next(own_etcd: BreakableEtcd, etcd_endpoint: str) -> None:
    closed = f"127.0.0.1:{free_port()}"
    async with Etcd.open(EtcdSettings(etcd=(closed, own_etcd.server.endpoint))) as etcd:  # no other test writes to it
        revision = await etcd.put("/failover", b"v")  # connecting failed, so it was never sent: safe to send elsewhere
        assert await etcd.put("/failover", b"v") == revision + 1
    own_etcd.server.freeze()
    async with Etcd.open(EtcdSettings(etcd=(own_etcd.server.endpoint, etcd_endpoint))) as etcd:
        assert await etcd.get("/failover") is None
        lease, _ = await etcd.lease_grant(5)
        assert await etcd.lease_keepalive(lease) == 5


@pytest.mark.parametrize("same_cluster_id", [True, False])
async def test_losing_the_data_begins_a_new_incarnation(own_etcd: BreakableEtcd, same_cluster_id: bool) -> None:
    async with Etcd.open(own_etcd.settings) as etcd:
        await etcd.put("/k", b"1")
        await etcd.put("/k", b"2")
        before = etcd.incarnation
        own_etcd.lose_everything(same_cluster_id=same_cluster_id)
        await until_answers(etcd)
        assert etcd.incarnation == before + 1
        await etcd.put("/k", b"1")
        assert etcd.incarnation == before + 1


async def test_a_user_logs_in_again_when_the_token_is_refused(own_etcd: BreakableEtcd) -> None:
    async with Etcd.open(own_etcd.settings) as anonymous:
        await until_answers(anonymous)
        for command in ("user add root:secret", "user grant-role root root", "auth enable"):
            own_etcd.server.etcdctl(*command.split())
        with pytest.raises(EtcdRefused):
            await anonymous.get("/k")
    settings = EtcdSettings(etcd=(own_etcd.server.endpoint,), etcd_user="root", etcd_password=SecretStr("secret"))
    async with Etcd.open(settings) as etcd:
        await etcd.put("/k", b"1")
        own_etcd.server.restart()  # simple tokens are lost with the member
        await until_answers(etcd)
        assert await etcd.put("/k", b"2")
    wrong = EtcdSettings(etcd=(own_etcd.server.endpoint,), etcd_user="root", etcd_password=SecretStr("wrong"))
    async with Etcd.open(wrong) as etcd:
        with pytest.raises(EtcdRefused, match="authentication failed"):
            await etcd.get("/k")


async def until_it_ends(batches: AsyncGenerator[WatchBatch, None]) -> None:
    async for batch in batches:
        assert not batch.events


async def until_answers(etcd: Etcd) -> None:
    async def answers() -> bool:
        with contextlib.suppress(EtcdRefused):
            await etcd.get("/")
            return True
        return False

    await eventually(answers, what="etcd answers")


async def test_cancelling_a_watch_leaves_nothing_behind(etcd: Etcd, namespace: str) -> None:
    started = asyncio.Event()

    async def follow() -> None:
        async with contextlib.aclosing(etcd.watch(f"{namespace}/", 1)) as batches:
            task.get_loop().call_soon(started.set)
            await anext(batches)

    with etcd.watches() as other:
        other.add_prefix(f"{namespace}/", 1)
        await eventually(lambda: other.healthy)
        before = len(asyncio.all_tasks())
        task = asyncio.ensure_future(follow())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
