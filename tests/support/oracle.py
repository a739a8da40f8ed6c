"""The audit as the tests' oracle: a coordinator's view of a running cluster, and the findings in it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

from pollcast.coordinator.audit import Finding, audit
from pollcast.coordinator.cluster import SERVICES, ClusterService
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys
from pollcast.services.coordination.registry import Registration, node_record
from pollcast.services.coordination.session import Session
from pollcast.services.process.settings import CoordinatorSettings
from pollcast.services.serving import rpc


class Oracle:
    """A view of the cluster as a coordinator has it. It never leads, so it repairs nothing."""

    def __init__(self, cluster: ClusterService) -> None:
        self.view = cluster.view

    def findings(self, *but: str) -> list[Finding]:
        """Return the current findings, except those of the kinds in `but`."""
        now = asyncio.get_running_loop().time()
        return [finding for finding in audit(self.view, now) if finding.kind not in but]


@contextlib.asynccontextmanager
async def oracle(endpoints: list[str], namespace: str) -> AsyncIterator[Oracle]:
    """Register as one more coordinator, so that the nodes report to it, for the time of the body."""
    name = f"oracle-{uuid.uuid4().hex[:6]}"
    settings = CoordinatorSettings(etcd=tuple(endpoints), namespace=namespace, node=name)
    keys = Keys(namespace)
    async with Etcd.open(settings) as etcd:
        cluster = ClusterService(etcd, keys, None, lambda address: rpc.channel(address, settings))
        async with (
            rpc.serve(settings, [cluster.add_to], SERVICES) as server,
            Session.open(etcd, 60) as session,  # a lost lease would end the test
            asyncio.TaskGroup() as tasks,
        ):
            registration = Registration(
                etcd, keys, node_record("coordinator", name, None, settings.advertised(server.host, server.port))
            )
            running = [tasks.create_task(work) for work in (cluster.run(), registration.run(session))]
            await cluster.mirror.synced.wait()
            yield Oracle(cluster)
            cluster.close()
            for task in running:
                task.cancel()
