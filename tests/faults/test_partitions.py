"""Partitions of the network: each takes the course and the time that docs/design/design.md describes.

Each service runs in a network namespace. All of them reach the database by its Unix socket, so it is on every side.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pollcast.services.local.child import Child
from pollcast.services.local.embedded import program
from pollcast.services.local.etcd_server import FLAGS
from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.process.settings import Role
from tests.support.client import Client
from tests.support.netns import Network, network
from tests.support.waiting import eventually
from tests.support.world import LEASE_TTL, World, now, own_database, start_world

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")

TICK = "tick?n=1"
ETCD_PORT = 2379
GRPC_PORT = 5000
HOSTS = ("poller-1", "poller-2", "gateway-1", "gateway-2")

FLOWS_SECONDS = 1.5
"""Maximum time between two polls of a topic without an interruption: 0.1 s, and more on a loaded machine."""

NOTICED_SECONDS = 4.0
"""Maximum time until a silent cut makes a topic stale: a poller sends something every second."""

FOUND_SECONDS = 30.0
"""Maximum time until services are found that are back under their names with other addresses, and until the lease of
the former process has ended, on a busy machine. It takes 3 s."""

CONSUMER = "consumer"
"""The host of a consumer of LiveQuery."""

HEALED_SECONDS = 4.0
"""Maximum time until connections are restored: an attempt takes at most a second, with a second between two."""


PROGRAM = """
import asyncio, datetime, sys
import grpc.aio
from pollcast.v1 import live_pb2, live_pb2_grpc

async def main():
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        async for event in live_pb2_grpc.LiveQueryStub(channel).Watch(live_pb2.WatchRequest(topic=sys.argv[2])):
            at = event.snapshot.polled_at or event.delta.polled_at
            if at:
                print(datetime.datetime.fromisoformat(at).timestamp(), flush=True)

asyncio.run(main())
"""
"""A consumer with gRPC's default options, which prints when each of its results was polled."""


class Divided:
    """A world and the network of its hosts, which can be cut off from each other."""

    def __init__(self, world: World, net: Network, etcds: list[Child]) -> None:
        self.world = world
        self.net = net
        self.etcds = etcds
        """The processes of etcd, of which the last one runs."""

    async def start(self, name: str) -> None:
        """Start a service on the host of the same name."""
        address = self.net.address(name)
        listen = ["--grpc", f"{address}:{GRPC_PORT}", "--http", f"{address}:0"]
        role: Role = "poller" if name.startswith("poller") else "gateway"
        if role == "poller":
            listen += ["--advertise", name]
        await self.world.start(role, name, *listen, wrap=self.net.on(name), wait=False)

    async def other_poller(self, name: str) -> str:
        """Return the poller that is not called `name`."""
        return next(host for host in HOSTS if host.startswith("poller") and host != name)


@pytest.fixture(scope="module")
async def divided(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, socket_url: str
) -> AsyncIterator[Divided]:
    """A world on a network of its own: etcd, two pollers and two gateways, each on its own host."""
    folder = tmp_path_factory.mktemp("divided")
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network())
        for name in ("etcd", CONSUMER, *HOSTS):
            net.host(name)
        etcds: list[Child] = []

        def stop_etcd() -> None:
            for etcd in etcds:
                etcd.kill()

        stack.callback(stop_etcd)
        _start_etcd(folder, net, etcds)
        stack.enter_context(_without_tokens())
        endpoints = [f"{address}:{ETCD_PORT}" for address in (net.address("etcd"), net.other_address("etcd"))]
        async with start_world(folder, endpoints, socket_url) as world:
            world.etcd_endpoints = [f"etcd:{ETCD_PORT}"]  # of the services; the tests know no names
            divided = Divided(world, net, etcds)
            for name in HOSTS:
                await divided.start(name)
            for name in HOSTS:
                await world.ready(name)
            yield divided


@pytest.fixture(scope="module")
def socket_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database, by the server's Unix socket."""
    with own_database(postgres_server) as url:
        with psycopg.connect(url) as connection:
            (folder,) = connection.execute("show unix_socket_directories").fetchone() or ("",)
        yield make_conninfo(url, host=folder)


def _start_etcd(folder: Path, net: Network, etcds: list[Child]) -> None:
    """Start an etcd of one member on the host `etcd`, and add it to these, of which no other one runs."""
    client = f"http://{net.address('etcd')}:{ETCD_PORT}"
    command = [program("etcd"), f"--data-dir={folder / 'etcd'}", *FLAGS, "--unsafe-no-fsync"]
    command += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
    etcds.append(Child("etcd", [*net.on("etcd"), *command], folder / "etcd.log"))
    etcds[-1].start()
    etcds[-1].until(lambda: _listens(net.address("etcd")), 10.0)


def _listens(address: str) -> bool:
    try:
        socket.create_connection((address, ETCD_PORT), 0.2).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _without_tokens() -> Iterator[None]:
    """Let gateways serve without tokens, which they refuse on addresses other than loopback by default."""
    os.environ["POLLCAST_AUTH"] = "none"
    yield
    del os.environ["POLLCAST_AUTH"]


@pytest.fixture
async def clients(divided: Divided) -> AsyncIterator[tuple[Client, Client]]:
    """A client on each gateway that has results of TICK. The network is healed afterwards."""
    world = divided.world
    async with Client.open(await world.http("gateway-1")) as one, Client.open(await world.http("gateway-2")) as two:
        for client in (one, two):
            await client.join(TICK)
            await client.has_results(TICK)
        try:
            yield one, two
        finally:
            divided.net.heal()
            for name in HOSTS:
                await world.ready(name)


async def test_etcd_and_a_poller_that_are_back_with_other_addresses_are_found_within_seconds(
    divided: Divided, clients: tuple[Client, Client]
) -> None:
    world, net = divided.world, divided.net
    name = (await world.owned_by(TICK)).name
    before = await world.ready(name)
    net.cut(["etcd", name], [host for host in (*HOSTS, "etcd") if host != name])  # nobody hears that they end
    divided.etcds[-1].kill()
    world.services[name].kill()
    for host in ("etcd", name):
        net.move(host)
    net.heal()
    _start_etcd(world.catalog.parent, net, divided.etcds)
    await divided.start(name)

    async def is_back() -> bool:
        """A gateway has reached it, otherwise it would not be ready."""
        record = await world.ready(name)
        return record.started_at != before.started_at

    await eventually(is_back, FOUND_SECONDS)
    for client in clients:
        await client.join("tick?n=2")
        await client.has_results("tick?n=2")
        await client.hears_more(TICK)


async def test_a_poller_cut_off_from_etcd_polls_until_it_is_replaced(
    divided: Divided, clients: tuple[Client, Client]
) -> None:
    world = divided.world
    owner = (await world.owned_by(TICK)).name
    cut_at = now()
    divided.net.cut([owner], ["etcd"])
    await eventually(lambda: _polled_by_another(world, cut_at, owner), LEASE_TTL + 1.5)
    replaced_at = now()
    for client in clients:
        await client.hears_more(TICK)
    assert world.gap(TICK, cut_at) < FLOWS_SECONDS  # the owner kept polling until it was replaced
    divided.net.heal()
    await eventually(lambda: not _polled_by(world, now() - 1.0, owner), HEALED_SECONDS + 1.0)
    await world.ready(owner)
    assert world.gap(TICK, replaced_at - 1.0) < FLOWS_SECONDS
    for client in clients:
        await client.hears_more(TICK)
        client.noticed_nothing()


async def test_the_last_poller_cut_off_from_etcd_polls_until_the_network_heals(
    divided: Divided, clients: tuple[Client, Client]
) -> None:
    world = divided.world
    pollers = ["poller-1", "poller-2"]
    owner = (await world.owned_by(TICK)).name
    cut_at = now()
    divided.net.cut(pollers, ["etcd"])

    async def no_owner() -> bool:
        return await world.owner(TICK) is None

    await eventually(no_owner, LEASE_TTL + 1.5)
    await eventually(lambda: now() - cut_at > LEASE_TTL + 3.5)
    for client in clients:
        await client.hears_more(TICK)
        assert client.troubles(TICK) == []
    assert {poll.node for poll in world.polls_of(TICK, cut_at)} == {owner}
    divided.net.heal()
    # The old owner may poll beside its successor until it learns that it has one.
    await asyncio.gather(*(world.ready(name, HEALED_SECONDS) for name in pollers))
    await world.owned_by(TICK)
    healed_at = now()
    await eventually(lambda: len(world.polls_of(TICK, healed_at)) > 20)
    assert world.alternations(TICK, healed_at) <= 1
    for client in clients:
        await client.hears_more(TICK)
        client.noticed_nothing()


async def test_a_gateway_cut_off_from_the_owner_reports_stale_and_other_gateways_stay_live(
    divided: Divided, clients: tuple[Client, Client]
) -> None:
    world, (one, two) = divided.world, clients
    owner = (await world.owned_by(TICK)).name
    cut_at = now()
    divided.net.cut(["gateway-1"], [owner])
    await eventually(lambda: one.seen[TICK].statuses == ["stale"], NOTICED_SECONDS)
    await two.hears_more(TICK)
    assert await world.owner(TICK) == owner
    divided.net.heal()
    await eventually(lambda: one.seen[TICK].statuses == ["stale", "live"], HEALED_SECONDS)
    for client in clients:
        await client.hears_more(TICK)
        assert client.seen[TICK].snapshots == 1
    assert two.troubles(TICK) == []
    assert world.gap(TICK, cut_at) < FLOWS_SECONDS
    assert world.alternations(TICK, cut_at) == 0


async def test_a_poller_and_a_gateway_cut_off_together_keep_serving_each_other(
    divided: Divided, clients: tuple[Client, Client]
) -> None:
    world, (one, two) = divided.world, clients
    owner = (await world.owned_by(TICK)).name
    other = await divided.other_poller(owner)
    cut_at = now()
    divided.net.cut([owner, "gateway-1"], ["etcd", other, "gateway-2"])
    await eventually(lambda: _polled_by_another(world, cut_at, owner), LEASE_TTL + 1.5)
    apart_at = now()
    await eventually(lambda: now() - apart_at > NOTICED_SECONDS)
    for client in clients:
        await client.hears_more(TICK)
    assert one.troubles(TICK) == []
    assert two.troubles(TICK) in ([], ["stale", "live"])
    assert _epoch(one) < _epoch(two)
    divided.net.heal()
    for name in (owner, "gateway-1"):
        await world.ready(name)
    await eventually(lambda: not _polled_by(world, now() - 1.0, owner), HEALED_SECONDS + 1.0)
    healed_at = now()
    await eventually(lambda: len(world.polls_of(TICK, healed_at)) > 10)
    await eventually(lambda: _epoch(one) == _epoch(two), what="both follow the successor")
    for client in clients:
        await client.hears_more(TICK)
        assert client.seen[TICK].snapshots == 1


async def test_a_consumer_without_a_network_for_four_seconds_goes_on(divided: Divided) -> None:
    record = await divided.world.ready("gateway-1")
    assert record.grpc is not None
    program = [sys.executable, "-c", PROGRAM, record.grpc, TICK]
    consumer = await asyncio.create_subprocess_exec(*divided.net.on(CONSUMER), *program, stdout=subprocess.PIPE)
    assert consumer.stdout is not None
    try:
        async with asyncio.timeout(40):
            assert await consumer.stdout.readline()
            cut_at = now()
            divided.net.cut([CONSUMER], ["gateway-1"])
            await asyncio.sleep(4)  # the length of the cut
            divided.net.heal()
            at = 0.0
            while at < cut_at + 4:  # `tick` has the time of its poll
                line = await consumer.stdout.readline()
                assert line, "the stream has ended"
                at = float(line)
    finally:
        consumer.kill()
        await consumer.wait()


def _epoch(client: Client) -> int:
    version = client.seen[TICK].version
    assert version is not None
    return version.epoch


def _polled_by(world: World, since: float, name: str) -> bool:
    return any(poll.node == name for poll in world.polls_of(TICK, since))


def _polled_by_another(world: World, since: float, name: str) -> bool:
    return any(poll.node != name for poll in world.polls_of(TICK, since))
