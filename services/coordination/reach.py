"""Reaching a cluster by its etcd alone: the nodes that are there, and a coordinator to ask."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc.aio

from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord
from pollcast.services.errors import EtcdUnreachable, PollcastError
from pollcast.services.process.settings import EtcdSettings, HostPort, ServiceSettings
from pollcast.services.serving import rpc
from pollcast.v1 import cluster_pb2, cluster_pb2_grpc

if TYPE_CHECKING:
    from pollcast.v1.cluster_pb2_grpc import ClusterAsyncStub

ANSWER_SECONDS = 5.0


class NoEtcd(EtcdUnreachable):
    """etcd does not answer."""


class NoCoordinator(PollcastError):
    """No coordinator answers. Topics flow without one; `pollcast coordinator` runs one, to see and steer them."""

    reason, grpc = "no_coordinator", "UNAVAILABLE"


class Refused(PollcastError):
    """The other side refused."""

    @staticmethod
    def of(error: grpc.aio.AioRpcError) -> Refused:
        return Refused(error.details() or error.code().name.lower().replace("_", " "))


@contextlib.asynccontextmanager
async def etcd_at(settings: EtcdSettings) -> AsyncIterator[Etcd]:
    """etcd for one look. NoEtcd when none answers, another EtcdError when it refuses."""
    try:
        async with Etcd.open(settings) as etcd:
            yield etcd
    except EtcdUnreachable as error:
        raise NoEtcd(
            f"etcd does not answer at {', '.join(settings.etcd)}. Is it running there? --etcd (or POLLCAST_ETCD) says "
            f"where it is{'' if settings.etcd_ca else ', POLLCAST_ETCD_CA that it speaks TLS'}.\n  {error.detail}"
        ) from None


async def read_nodes(settings: EtcdSettings) -> list[NodeRecord]:
    """Every node that holds a lease, sorted by role and name. NoEtcd when etcd isn't reached."""
    records = []
    async with etcd_at(settings) as etcd:
        for kv in (await etcd.range(Keys(settings.namespace).nodes())).kvs:
            with contextlib.suppress(ValueError):  # somebody else has put it there
                records.append(NodeRecord.decode(kv.value))
    return sorted(records, key=lambda record: (record.role, record.node))


@contextlib.asynccontextmanager
async def some_coordinator(settings: ServiceSettings) -> AsyncIterator[ClusterAsyncStub]:
    """The first that answers of those that etcd has. NoCoordinator when none does, NoEtcd when etcd isn't reached;
    what the body's calls raise comes out as Refused."""
    failed: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        for address in await _coordinators(settings):
            channel = await stack.enter_async_context(rpc.channel(address, settings))
            stub = cluster_pb2_grpc.ClusterStub(channel)
            try:
                await stub.ListNodes(cluster_pb2.ListNodesRequest(), timeout=ANSWER_SECONDS)
            except grpc.aio.AioRpcError as error:
                failed.append(f"{address}: {error.details()}")
                continue
            try:
                yield stub
            except grpc.aio.AioRpcError as error:
                raise Refused.of(error) from None
            return
    raise NoCoordinator("\n".join([NoCoordinator().detail, *failed]))


async def _coordinators(settings: EtcdSettings) -> list[HostPort]:
    records = [record for record in await read_nodes(settings) if record.role == "coordinator"]
    return [record.grpc for record in records if record.grpc is not None and record.state != "draining"]
