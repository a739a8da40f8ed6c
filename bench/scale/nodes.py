"""The common parts of simulated pollers and gateways: many nodes of a cluster in one process.

A simulated node is registered with a lease of its own by the product's code (`Node`), follows drain requests and
reports to coordinators. Orders for it are JSON objects, one a line on the standard input, each answered by a line.

`KeyWatch` follows the keys below a prefix for all nodes of the process, with a fraction of the work of a mirror; it
does not go on after a fault of etcd, as there is none in these measurements.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio
import orjson
from etcd3 import etcdrpc

from bench.scale.listeners import watch_request
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys
from pollcast.services.coordination.node import LeasedPart, Node, Readiness
from pollcast.services.coordination.registry import node_record
from pollcast.services.coordination.report_cursor import Reportable
from pollcast.services.coordination.reporting import Reporting
from pollcast.services.process.settings import Role, ServiceSettings
from pollcast.services.serving import rpc

OPTIONS = [("grpc.max_receive_message_length", 256 * 1024 * 1024)]


@dataclass(frozen=True)
class Place:
    """The surroundings of simulated nodes: the addresses of etcd, the namespace, and their leases' time to live."""

    etcd: tuple[str, ...]
    namespace: str
    ttl: int
    catalog: str

    @property
    def keys(self) -> Keys:
        """The keys of the namespace."""
        return Keys(self.namespace)

    def settings(self, node: str) -> ServiceSettings:
        """Return the settings of a node."""
        return ServiceSettings(etcd=self.etcd, namespace=self.namespace, node=node, lease_ttl=self.ttl)


class KeyWatch:
    """A watch of all keys below a prefix, from etcd's first revision on."""

    def __init__(
        self,
        address: str,
        prefix: str,
        on_put: Callable[[str, bytes, int, int], None],
        on_delete: Callable[[str], None],
    ) -> None:
        self.following = asyncio.Event()
        self._address = address
        self._prefix = prefix
        self._on_put = on_put
        self._on_delete = on_delete

    async def run(self) -> None:
        """Follow the keys until cancelled."""
        async with grpc.aio.insecure_channel(self._address, options=OPTIONS) as channel:
            call: Any = etcdrpc.WatchStub(channel).Watch()
            await call.write(watch_request(self._prefix, 1))
            async for response in call:
                assert not response.canceled, response.cancel_reason
                self.following.set()
                for event in response.events:
                    kv = event.kv
                    if event.type == 1:
                        self._on_delete(kv.key.decode())
                    else:
                        self._on_put(kv.key.decode(), kv.value, kv.lease, kv.mod_revision)


class SimulatedNode:
    """One node of a role, with its parts that run under a session."""

    def __init__(
        self,
        place: Place,
        etcd: Etcd,
        server: rpc.RpcServer,
        role: Role,
        name: str,
        parts: Sequence[LeasedPart],
        report: Reportable,
    ) -> None:
        self.sessions = 0
        self._stop = asyncio.Event()
        self._ttl = place.ttl
        readiness = Readiness(role, self._stop, dict)
        address = f"{server.host}:{server.port}"
        record = node_record(role, name, None, address)
        self._node = Node(etcd, place.keys, record, server, readiness, parts=[self._count, *parts])
        self.reporting = Reporting(etcd, place.keys, place.settings(name), report)

    async def run(self) -> None:
        """Be a node of the cluster until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.reporting.run())
            tasks.create_task(self._node.run(self._ttl, self._stop))

    async def _count(self, _: object) -> None:
        self.sessions += 1


@contextlib.asynccontextmanager
async def served(
    place: Place, name: str, add: Callable[[grpc.aio.Server], None] | None, service: str
) -> AsyncIterator[rpc.RpcServer]:
    """Serve gRPC for one simulated node."""
    async with rpc.serve(place.settings(name), [add] if add else [], [service] if service else []) as server:
        await server.set_serving(True)
        yield server


Execute = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""A function that carries out an order and returns the answer."""


async def obey(execute: Execute) -> None:
    """Carry out orders until the standard input ends, and answer each."""
    orders = asyncio.StreamReader(limit=16 * 1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    async for line in orders:
        answer = await execute(orjson.loads(line))
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()
