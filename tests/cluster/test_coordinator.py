"""Registration, election, and the coordinator as a service."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import os
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pollcast.coordinator.election import Election
from pollcast.coordinator.service import run
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, LeaderRecord, NodeRecord, lease_hex
from pollcast.services.coordination.registry import Registration, node_record
from pollcast.services.coordination.session import Session
from pollcast.services.errors import Compacted, LeaseLost, NodeTaken
from pollcast.services.process.settings import CoordinatorSettings
from tests.support.breakable_etcd import BreakableEtcd
from tests.support.waiting import eventually


@contextlib.asynccontextmanager
async def running(part: Awaitable[object]) -> AsyncIterator[asyncio.Future[object]]:
    task = asyncio.ensure_future(part)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def node(etcd: Etcd, keys: Keys, name: str) -> NodeRecord:
    """Return the node's entry. Raises AssertionError while there is none."""
    kv = await etcd.get(keys.node("coordinator", name))
    assert kv is not None
    assert kv.value.startswith(b"{"), "garbled"
    return NodeRecord.decode(kv.value)


async def leader(etcd: Etcd, keys: Keys) -> str:
    """Return the name of the leader. Raises AssertionError while there is none."""
    kv = await etcd.get(keys.leader)
    assert kv is not None
    assert kv.value.startswith(b"{"), "garbled"
    return LeaderRecord.decode(kv.value).node


# --- registration


async def test_a_node_is_registered_on_its_lease_with_its_state(etcd: Etcd, keys: Keys) -> None:
    async with Session.open(etcd, 5) as session:
        registration = Registration(etcd, keys, node_record("coordinator", "c1", "h:1", "h:2"))
        async with running(registration.run(session)):
            await registration.registered.wait()
            record = await node(etcd, keys, "c1")
            assert record == dataclasses.replace(registration.record, lease=lease_hex(session.lease))
            assert (record.pid, record.state) == (os.getpid(), "starting")
            assert await registration.announce("ready")
            assert (await node(etcd, keys, "c1")).state == "ready"


@pytest.mark.parametrize("how", ["deleted", "garbled"])
async def test_a_broken_entry_is_put_back(etcd: Etcd, keys: Keys, how: str) -> None:
    async with Session.open(etcd, 5) as session:
        registration = Registration(etcd, keys, node_record("coordinator", "c1", None, None))
        async with running(registration.run(session)):
            await registration.registered.wait()
            key = keys.node("coordinator", "c1")
            await (etcd.delete(key) if how == "deleted" else etcd.put(key, b"\xff"))

            async def restored() -> bool:
                return (await node(etcd, keys, "c1")).lease_number == session.lease

            await eventually(restored, 1.0)


async def test_the_name_of_a_live_node_is_refused(etcd: Etcd, keys: Keys) -> None:
    async with Session.open(etcd, 2) as first, Session.open(etcd, 5) as second:
        registration = Registration(etcd, keys, node_record("coordinator", "c1", None, None))
        async with running(registration.run(first)):
            await registration.registered.wait()
            with pytest.raises(ExceptionGroup) as raised:
                await Registration(etcd, keys, node_record("coordinator", "c1", None, None)).run(second)
            assert raised.group_contains(NodeTaken, match="another live node has the name")


async def test_the_name_of_a_dead_node_is_free_when_its_lease_ends(etcd: Etcd, keys: Keys) -> None:
    lease, _ = await etcd.lease_grant(2)
    record = dataclasses.replace(node_record("coordinator", "c1", None, None), lease=lease_hex(lease))
    await etcd.put(keys.node("coordinator", "c1"), record.encode(), lease)
    async with Session.open(etcd, 5) as session:
        registration = Registration(etcd, keys, node_record("coordinator", "c1", None, None))
        async with running(registration.run(session)):
            await asyncio.wait_for(registration.registered.wait(), 20)
            assert (await node(etcd, keys, "c1")).lease_number == session.lease


async def entry_of_another(etcd: Etcd, keys: Keys, ttl: float, grpc: str | None, **other: Any) -> int:
    """Write the entry of another process with the name c1, and return its lease."""
    lease, _ = await etcd.lease_grant(ttl)
    record = dataclasses.replace(node_record("coordinator", "c1", None, grpc), lease=lease_hex(lease), **other)
    await etcd.put(keys.node("coordinator", "c1"), record.encode(), lease)
    return lease


async def test_a_lease_that_etcd_extends_when_it_changes_its_leader_is_waited_for(etcd: Etcd, keys: Keys) -> None:
    lease = await entry_of_another(etcd, keys, 2, None, pid=1)
    async with Session.open(etcd, 5) as session:
        registration = Registration(etcd, keys, node_record("coordinator", "c1", None, None))
        async with running(registration.run(session)):
            for _ in range(2):  # a new leader gives each lease its full time again
                await asyncio.sleep(1.6)
                assert await etcd.lease_keepalive(lease) > 0
            await asyncio.wait_for(registration.registered.wait(), 20)
            assert (await node(etcd, keys, "c1")).lease_number == session.lease


@pytest.mark.parametrize("how", ["killed", "itself"])
async def test_the_name_of_a_node_that_is_known_to_be_gone_is_taken_at_once(
    etcd: Etcd, keys: Keys, free_port: int, how: str
) -> None:
    record = node_record("coordinator", "c1", None, "127.0.0.1:1")
    if how == "killed":
        lease = await entry_of_another(etcd, keys, 60, f"127.0.0.1:{free_port}", pid=1)
    else:  # an etcd that was restored from a snapshot shows the entry of a former session of this process
        lease = await entry_of_another(etcd, keys, 60, record.grpc, started_at=record.started_at)
    async with Session.open(etcd, 5) as session:
        registration = Registration(etcd, keys, record)
        async with running(registration.run(session)):
            await asyncio.wait_for(registration.registered.wait(), 5)
            assert (await node(etcd, keys, "c1")).lease_number == session.lease
            assert await etcd.lease_ttl(lease) == 0


# --- election


async def test_when_the_leader_leaves_another_leads(etcd: Etcd, keys: Keys) -> None:
    a, b = Election(etcd, keys, "a"), Election(etcd, keys, "b")
    async with Session.open(etcd, 5) as second, running(b.run(second)):
        async with Session.open(etcd, 5) as first:
            await eventually(lambda: b.leading)
            async with running(a.run(first)):
                await etcd.delete(keys.leader)

                async def one_leads() -> bool:
                    name = await leader(etcd, keys)
                    return (a.leading, b.leading) == (name == "a", name == "b")

                await eventually(one_leads)
            assert not a.leading
        await eventually(lambda: b.leading)
        assert await leader(etcd, keys) == "b"


async def test_a_leader_key_without_a_lease_is_taken(etcd: Etcd, keys: Keys) -> None:
    await etcd.put(keys.leader, b"garbage")
    election = Election(etcd, keys, "a")
    async with Session.open(etcd, 5) as session, running(election.run(session)):
        await eventually(lambda: election.leading)
        await etcd.put(keys.leader, b"garbage")

        async def restored() -> bool:
            return await leader(etcd, keys) == "a"

        await eventually(restored, 1.0)
        await eventually(lambda: election.leading)


async def test_a_candidate_without_a_lease_does_not_lead(etcd: Etcd, keys: Keys) -> None:
    async def campaign() -> None:
        async with Session.open(etcd, 5) as session:
            await etcd.lease_revoke(session.lease)
            await Election(etcd, keys, "a").run(session)

    with pytest.raises(LeaseLost):
        await campaign()


async def test_an_election_goes_on_when_its_key_is_gone_before_the_mirror_lists_again(
    etcd: Etcd, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, writes = etcd.txn, 0

    async def write_and_miss_it(*arguments: Any) -> Any:
        nonlocal writes
        writes += 1
        if writes > 1:
            return await write(*arguments)
        etcd._stream.end_all(Compacted())
        done = await write(*arguments)
        await etcd.delete(keys.leader)
        return done

    monkeypatch.setattr(etcd, "txn", write_and_miss_it)
    election = Election(etcd, keys, "a")
    async with Session.open(etcd, 5) as session, running(election.run(session)):
        await eventually(lambda: election.leading)
        assert writes == 2


# --- the service


async def get(address: str, path: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection(address, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def test_a_coordinator_registers_leads_answers_and_leaves_no_key(
    etcd: Etcd, etcd_endpoint: str, keys: Keys
) -> None:
    stop = asyncio.Event()
    settings = CoordinatorSettings(etcd=(etcd_endpoint,), namespace=keys.namespace, node="c1")
    async with running(run(settings, stop)) as service:

        async def ready() -> NodeRecord | None:
            record = await node(etcd, keys, "c1")
            return record if record.state == "ready" else None

        record = await eventually(ready)
        assert record is not None
        assert record.http is not None
        assert record.grpc is not None

        async def leads() -> bool:
            return await leader(etcd, keys) == "c1"

        await eventually(leads)
        assert (await get(record.http, "/healthz"))[0] == 200
        status, body = await get(record.http, "/readyz")
        assert (status, '"etcd":"ok"' in body) == (200, True)
        http = record.http

        async def exports_that_it_leads() -> bool:
            return "pollcast_coordinator_leading 1.0" in (await get(http, "/metrics"))[1]

        await eventually(exports_that_it_leads)  # its own watch shows the key a moment later
        async with grpc.aio.insecure_channel(record.grpc) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stop.set()
        await asyncio.wait_for(service, 20)
    assert (await etcd.range(keys.namespace)).kvs == ()


async def test_a_coordinator_starts_without_etcd_and_stops_without_it(own_etcd: BreakableEtcd) -> None:
    own_etcd.server.kill()
    stop = asyncio.Event()
    settings = CoordinatorSettings(etcd=own_etcd.server.endpoints, node="c1")
    async with running(run(settings, stop)) as service:
        asyncio.get_running_loop().call_later(0.5, stop.set)
        await asyncio.wait_for(service, 20)


async def test_a_node_registers_again_with_an_etcd_that_lost_its_data(own_etcd: BreakableEtcd) -> None:
    stop = asyncio.Event()
    settings = CoordinatorSettings(etcd=own_etcd.server.endpoints, node="c1", lease_ttl=2)
    keys = Keys(settings.namespace)
    async with Etcd.open(settings) as etcd, running(run(settings, stop)) as service:

        async def registered() -> bool:
            return (await node(etcd, keys, "c1")).state == "ready" and await leader(etcd, keys) == "c1"

        await eventually(registered)
        own_etcd.lose_everything(same_cluster_id=False)
        await eventually(registered)
        stop.set()
        await asyncio.wait_for(service, 20)
        assert (await etcd.range("/")).kvs == ()
