"""Access to a cluster by its etcd alone: its nodes, and a coordinator to call. For the command line."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc.aio

from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord
from pollcast.services.errors import EtcdUnreachable, PollcastError
from pollcast.services.process.addresses import HostPort
from pollcast.services.process.settings import EtcdSettings, ServiceSettings
from pollcast.services.serving import rpc
from pollcast.v1 import cluster_pb2, cluster_pb2_grpc

if TYPE_CHECKING:
    from pollcast.v1.cluster_pb2_grpc import ClusterAsyncStub

ANSWER_SECONDS = 5.0
"""Maximum time that a coordinator may take to answer the first call, in seconds."""


class NoEtcd(EtcdUnreachable):
    """etcd does not answer."""


class NoCoordinator(PollcastError):
    """No coordinator answers. Topics flow without one; `pollcast coordinator` runs one, to see and steer them."""

    reason, grpc = "no_coordinator", "UNAVAILABLE"


class Refused(PollcastError):
    """The coordinator refused the call."""

    @staticmethod
    def of(error: grpc.aio.AioRpcError) -> Refused:
        """Convert the error of a call."""
        return Refused(error.details() or error.code().name.lower().replace("_", " "))


@contextlib.asynccontextmanager
async def etcd_at(settings: EtcdSettings) -> AsyncIterator[Etcd]:
    """Yield a client of etcd. Raises NoEtcd when etcd does not answer, another EtcdError when it refuses."""
    try:
        async with Etcd.open(settings) as etcd:
            yield etcd
    except EtcdUnreachable as error:
        raise NoEtcd(
            f"etcd does not answer at {', '.join(settings.etcd)}. Is it running there? --etcd (or POLLCAST_ETCD) says "
            f"where it is{'' if settings.etcd_ca else ', POLLCAST_ETCD_CA that it speaks TLS'}.\n  {error.detail}"
        ) from None


async def read_nodes(settings: EtcdSettings) -> list[NodeRecord]:
    """Return every node that has an entry, sorted by role and name. Raises NoEtcd when etcd does not answer."""
    records = []
    async with etcd_at(settings) as etcd:
        for kv in (await etcd.range(Keys(settings.namespace).nodes())).kvs:
            with contextlib.suppress(ValueError):  # not an entry of Pollcast
                records.append(NodeRecord.decode(kv.value))
    return sorted(records, key=lambda record: (record.role, record.node))


@contextlib.asynccontextmanager
async def some_coordinator(settings: ServiceSettings) -> AsyncIterator[ClusterAsyncStub]:
    """Yield a stub of the first coordinator that answers. Raises NoCoordinator when none does, NoEtcd when etcd does
    not answer, and Refused when a call in the body fails."""
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
