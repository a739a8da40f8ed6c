"""A gateway that may open few files: it refuses the clients that it cannot hold, and goes on serving the others."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

import psutil

from pollcast.services.local.postgres_server import PostgresServer
from tests.support.breakable_etcd import BreakableEtcd
from tests.support.client import Client
from tests.support.hostile import http
from tests.support.world import own_database, start_world

FILES = 256
CLIENTS = 300
ROOM = 176
"""Number of clients that a process with FILES admits: three quarters, without 16 for waiting ones."""

OPENING = (
    b"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def test_a_gateway_with_few_descriptors_refuses_clients_and_keeps_some_for_etcd_and_pollers(
    tmp_path: Path, own_etcd: BreakableEtcd, postgres_server: PostgresServer
) -> None:
    with own_database(postgres_server) as url:
        async with start_world(tmp_path, own_etcd.server.endpoints, url) as world:
            few = [shutil.which("prlimit") or "prlimit", f"--nofile=64:{FILES}"]
            gateway = await world.start("gateway", "gateway-1", wrap=few)
            await world.start("poller", "poller-1")
            address = await world.http("gateway-1")
            assert psutil.Process(gateway.pid).rlimit(psutil.RLIMIT_NOFILE) == (FILES, FILES)
            async with contextlib.AsyncExitStack() as stack:
                client = await stack.enter_async_context(Client.open(address))
                await client.join("tick?n=1")
                await client.has_results("tick?n=1")

                await hold_open((await world.ready("gateway-1")).grpc, CLIENTS, stack)
                answers = await asyncio.gather(*(asked(address, stack) for _ in range(CLIENTS)))
                assert set(answers) == {b"101", b"503"}
                assert answers.count(b"101") == ROOM - 1
                for path in ("/readyz", "/metrics", "/healthz"):
                    assert (await http(address, path))[0] == 200

                world.services["poller-1"].kill()
                await world.start("poller", "poller-2")
                await client.hears_more("tick?n=1")
                own_etcd.server.members[0].restart()
                await world.ready("gateway-1")
                await client.join("tick?n=2")
                await client.has_results("tick?n=2")
                await client.hears_more("tick?n=1")
                await world.start("poller", "poller-3")
            log = gateway.log.read_text()
            assert log.count("fewer clients than POLLCAST_MAX_CONNECTIONS") == 1
            assert log.count("closing connections to make room") <= 2
            assert "Too many open files" not in log


async def hold_open(address: str | None, number: int, stack: contextlib.AsyncExitStack) -> None:
    """Open gRPC connections without a call to this address; keep them until the stack ends."""
    assert address is not None
    host, _, port = address.rpartition(":")
    for _ in range(number):
        _, writer = await asyncio.open_connection(host, int(port))
        stack.callback(writer.close)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))


async def asked(address: str, stack: contextlib.AsyncExitStack) -> bytes:
    """Send a handshake and return the status of the answer; keep the connection until the stack ends."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    stack.callback(writer.close)
    writer.write(OPENING)
    return (await reader.readline()).split()[1]
