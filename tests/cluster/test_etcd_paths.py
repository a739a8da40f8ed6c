"""The client of etcd on difficult paths: through a proxy, with users, and with several members."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from pollcast.services.coordination import client, metrics, watch_stream
from pollcast.services.coordination import endpoints as members
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.endpoints import choose, in_order, spread
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.errors import EtcdError
from pollcast.services.local.child import Child
from pollcast.services.local.embedded import program
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.local.ports import free_port
from pollcast.services.process.settings import CoordinatorSettings, EtcdSettings
from tests.support.breakable_etcd import BreakableEtcd
from tests.support.waiting import eventually


@contextlib.contextmanager
def proxy_of(etcd: BreakableEtcd, folder: Path) -> Iterator[EtcdSettings]:
    """Run `etcd grpc-proxy` before an etcd."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        program("etcd"),
        "grpc-proxy",
        "start",
        f"--endpoints={etcd.server.endpoint}",
        f"--listen-addr={address}",
    ]
    proxy = Child("proxy", command, folder / "proxy.log")
    proxy.start()
    try:
        yield EtcdSettings(etcd=(address,))
    finally:
        proxy.kill()


@contextlib.asynccontextmanager
async def mirrored(etcd: Etcd, *prefixes: str) -> AsyncIterator[list[Mirror]]:
    """Run mirrors."""
    mirrors = [Mirror(etcd, prefix, lambda _: None) for prefix in prefixes]
    tasks = [asyncio.ensure_future(mirror.run()) for mirror in mirrors]
    try:
        await eventually(lambda: all(mirror.healthy for mirror in mirrors))
        yield mirrors
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def listings() -> float:
    return float(metrics.LISTINGS._value.get())


async def test_behind_a_proxy_that_drops_requests_for_progress_nothing_is_listed_again(
    own_etcd: BreakableEtcd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("QUIET_SECONDS", 0.2), ("PROGRESS_SECONDS", 0.2), ("RENEW_SECONDS", 0.5)):
        monkeypatch.setattr(watch_stream, name, seconds)
    with proxy_of(own_etcd, tmp_path) as settings:
        async with Etcd.open(settings) as etcd, mirrored(etcd, *(f"/{name}/" for name in "abcde")) as mirrors:
            before, renewed = listings(), metrics.RESUMES.labels("broke")._value.get()
            for n in range(20):  # the revision moves on, and most of the watches are silent
                await etcd.put("/elsewhere", b"%d" % n)
                await asyncio.sleep(0.1)
            await eventually(lambda: metrics.RESUMES.labels("broke")._value.get() > renewed)
            await etcd.put("/a/k", b"v")
            await eventually(lambda: "/a/k" in mirrors[0].items)
            assert listings() == before


async def test_flapping_and_slowness_cause_no_listing_and_lose_no_event(
    own_etcd: BreakableEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CALL_SECONDS", 0.5)
    monkeypatch.setattr(watch_stream, "QUIET_SECONDS", 0.2)
    monkeypatch.setattr(watch_stream, "STALL_SECONDS", 0.2)
    async with Etcd.open(own_etcd.settings) as etcd, mirrored(etcd, "/a/", "/b/") as mirrors:
        before = listings()
        for flap in range(6):
            own_etcd.server.freeze()
            await asyncio.sleep(0.7)
            own_etcd.server.thaw()
            if flap == 3:
                own_etcd.server.stop()  # etcd 3.5.1 with one member loses its last writes when killed (etcd#14370)
                own_etcd.server.restart()
            with contextlib.suppress(EtcdError):
                await etcd.put(f"/a/{flap}", b"")
            with contextlib.suppress(EtcdError):
                await etcd.delete(f"/a/{flap}")
                await etcd.put(f"/b/{flap}", b"")
        await eventually(lambda: all(mirror.healthy for mirror in mirrors))
        for mirror in mirrors:
            expected = {kv.key: kv for kv in (await etcd.range(mirror.prefix)).kvs}
            await eventually(lambda mirror=mirror, expected=expected: mirror.items == expected)  # type: ignore[misc]
        assert listings() == before


async def test_calls_of_a_process_wait_for_one_login_and_users_may_be_turned_off(own_etcd: BreakableEtcd) -> None:
    for command in ("user add root:secret", "user grant-role root root", "auth enable"):
        own_etcd.server.etcdctl(*command.split())
    settings = EtcdSettings(etcd=own_etcd.server.endpoints, etcd_user="root", etcd_password=SecretStr("secret"))
    logins = 'grpc_server_started_total{grpc_method="Authenticate"'
    async with Etcd.open(settings) as etcd, mirrored(etcd, "/a/", "/b/", "/c/", "/d/") as mirrors:
        await asyncio.gather(*(etcd.get(f"/{n}") for n in range(50)))
        assert own_etcd.metric(logins) == 1
        before = listings()
        own_etcd.server.etcdctl("--user=root:secret", "auth", "disable")  # this ends all tokens, as time does
        own_etcd.server.etcdctl("auth", "enable")
        before_login = own_etcd.metric(logins)
        await asyncio.gather(*(etcd.put(f"/{n}", b"") for n in range(50)))
        assert own_etcd.metric(logins) == before_login + 1
        own_etcd.server.stop()
        own_etcd.server.restart()
        await asyncio.gather(*(settled(etcd, f"/{n}") for n in range(50)))
        await eventually(lambda: all(mirror.healthy for mirror in mirrors))
        await etcd.put("/a/k", b"")
        await eventually(lambda: "/a/k" in mirrors[0].items)
        assert own_etcd.metric(logins) <= 1
        assert listings() == before
        own_etcd.server.etcdctl("--user=root:secret", "auth", "disable")
        await settled(etcd, "/k")
        own_etcd.server.restart()
        await settled(etcd, "/k")
        await etcd.put("/b/k", b"")
        await eventually(lambda: "/b/k" in mirrors[1].items)
    async with Etcd.open(settings) as etcd:  # a service that starts now
        await etcd.put("/k", b"")
        own_etcd.server.etcdctl("auth", "enable")
        await settled(etcd, "/k")


async def settled(etcd: Etcd, key: str) -> None:
    async def answers() -> bool:
        with contextlib.suppress(EtcdError):
            await etcd.get(key)
            return True
        return False

    await eventually(answers)


async def test_processes_are_spread_over_the_members_and_go_home_after_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "REVIEW_SECONDS", 0.3)
    nodes = ("gateway-1", "gateway-2", "poller-1", "poller-2")
    with EtcdServer.start(tmp_path, nodes=3, fsync=False) as three:
        async with contextlib.AsyncExitStack() as stack:
            clients, mirrors = [], []
            for node in nodes:
                settings = CoordinatorSettings(etcd=three.endpoints, node=node)
                clients.append(await stack.enter_async_context(Etcd.open(settings)))
                mirrors += await stack.enter_async_context(mirrored(clients[-1], "/a/"))
            homes = [etcd._endpoints.current.address for etcd in clients]
            assert set(homes) == set(three.endpoints)
            before = listings()
            lost = next(member for member in three.members if member.client == homes[0])
            lost.kill()
            await eventually(lambda: homes[0] not in {etcd._endpoints.current.address for etcd in clients})
            others = [etcd for etcd, home in zip(clients, homes, strict=True) if home != homes[0]]
            assert [etcd._endpoints.current.address for etcd in others] == [home for home in homes if home != homes[0]]
            lost.restart()
            await eventually(lambda: [etcd._endpoints.current.address for etcd in clients] == homes)
            await clients[1].put("/a/k", b"")
            await eventually(lambda: all("/a/k" in mirror.items for mirror in mirrors))
            assert listings() == before


def test_the_choice_of_a_member_prefers_home_unless_it_is_much_slower() -> None:
    assert choose(0, {}) == 0
    assert choose(2, {0: 0.01, 1: 0.01, 2: 0.01}) == 0
    assert choose(2, {1: 0.01, 2: 0.015}) == 2  # not worth a move
    assert choose(2, {1: 0.01}) == 1
    assert choose(0, {0: 0.9, 1: 0.01, 2: 0.02}) == 1
    assert choose(1, {0: 0.9, 1: 0.01, 2: 0.02}) == 1
    assert choose(0, {0: 0.9, 1: 0.8, 2: 0.9}) == 0


def test_each_node_has_a_home_whatever_the_order_in_its_settings() -> None:
    addresses = ["c:1", "a:1", "b:1"]
    for node in ("gateway-1", "poller-2", "x", "host-3fa2b1", "n0"):
        assert in_order(addresses, node)[0] == in_order(sorted(addresses), node)[0]
        assert sorted(in_order(addresses, node)) == sorted(addresses)
    assert len({spread(f"gateway-{n}") % 3 for n in range(3)}) == 3
