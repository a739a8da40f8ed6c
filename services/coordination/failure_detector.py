"""Finds out at once whether a peer is dead, so that nobody has to wait for its lease.

When a process is killed, the kernel closes its connections: its peers see their streams break within a millisecond. A
peer that sees a stream break reports the node to `FailureDetector.suspect`, which connects to the address that the node
has registered. A refused connection means that no process listens there any more: the node is dead, and its lease is
revoked, which deletes its keys (the topics it owned, the demand it had) in one event. A timeout or an accepted
connection proves nothing: a frozen process or an unreachable host may come back, and its lease decides. A wrong verdict
costs the node a new session, never correctness, because epochs fence what it sends
(docs/reference/guarantees.md#failover).

Every peer may probe the same node; revoking a lease twice is harmless.
"""

from __future__ import annotations

import asyncio

from pollcast.services.coordination import metrics
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord
from pollcast.services.errors import EtcdError, LeaseLost
from pollcast.services.process import logs
from pollcast.services.process.settings import Role, split_host_port

log = logs.get_logger("failure_detector")

KNOCKS = (0.0, 0.005, 0.02, 0.05, 0.1, 0.3, 1.0, 2.0)
"""Seconds between looks: the kernel may take a moment to close what a killed process had open."""

KNOCK_SECONDS = 0.5
"""How long one look waits for an answer."""


class FailureDetector:
    """See the module."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self.deaths = 0  # established by this process, ever
        self._etcd = etcd
        self._keys = keys
        self._suspects: asyncio.Queue[str] = asyncio.Queue()  # keys of nodes
        self._open: set[str] = set()  # those that are being looked into

    def suspect(self, role: Role, node: str) -> None:
        """The stream to or from this node has broken. Returns at once."""
        key = self._keys.node(role, node)
        if key not in self._open:
            self._open.add(key)
            self._suspects.put_nowait(key)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(self._inquest(await self._suspects.get()))

    async def _inquest(self, key: str) -> None:
        try:
            entry = await self._etcd.get(key)
            if entry is None:
                return  # it has left, or its lease has ended already
            node = NodeRecord.decode(entry.value)
            if node.grpc is None or not entry.lease:
                return
            for pause in KNOCKS:
                await asyncio.sleep(pause)
                if await refuses(*split_host_port(node.grpc)):
                    log.info("node is dead, revoking its lease", dead=node.node, dead_role=node.role, lease=node.lease)
                    await self._etcd.lease_revoke(entry.lease)
                    self.deaths += 1
                    metrics.DEATHS.labels(node.role).inc()
                    return
        except LeaseLost:
            log.debug("a peer was quicker", key=key)
        except (EtcdError, ValueError) as error:
            log.warning("no inquest, the lease will tell", key=key, detail=str(error))
        finally:
            self._open.discard(key)


async def refuses(host: str, port: int) -> bool:
    """Whether the host answers that nothing listens there. False when something does, and when nothing answers."""
    try:
        async with asyncio.timeout(KNOCK_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    writer.close()
    return False
