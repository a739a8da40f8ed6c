"""The failure detector: checks at once whether a peer is dead, so that its topics need not wait for its lease to end.

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
import errno
import socket

from pollcast.services.coordination import metrics
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord
from pollcast.services.errors import EtcdError, LeaseLost
from pollcast.services.process import logs
from pollcast.services.process.addresses import split_host_port
from pollcast.services.process.settings import Role

log = logs.get_logger("failure_detector")

PAUSES = (0.0, 0.005, 0.02, 0.05, 0.1, 0.3, 1.0, 2.0)
"""Pauses before each attempt to connect, in seconds: the kernel may take a moment to close a killed process's
sockets."""

NO_WAY = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors of connecting to an address of a kind (IPv4 or IPv6) that this host does not have."""

CONNECT_SECONDS = 0.5
"""Maximum time that one attempt to connect waits for an answer, in seconds."""


class FailureDetector:
    """The failure detector of one process. `deaths` counts the nodes that it found dead."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self.deaths = 0
        self._etcd = etcd
        self._keys = keys
        self._suspects: asyncio.Queue[str] = asyncio.Queue()  # nodes' keys
        self._open: set[str] = set()  # keys of the suspects that are being checked

    def suspect(self, role: Role, node: str) -> None:
        """Check this node, because a stream to or from it broke. Returns at once."""
        key = self._keys.node(role, node)
        if key not in self._open:
            self._open.add(key)
            self._suspects.put_nowait(key)

    async def run(self) -> None:
        """Check suspects until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(self._check(await self._suspects.get()))

    async def _check(self, key: str) -> None:
        try:
            entry = await self._etcd.get(key)
            if entry is None:
                return  # it left, or its lease has ended already
            node = NodeRecord.decode(entry.value)
            if node.grpc is None or not entry.lease:
                return
            for pause in PAUSES:
                await asyncio.sleep(pause)
                if await refuses(*split_host_port(node.grpc)):
                    log.info("node is dead, revoking its lease", dead=node.node, dead_role=node.role, lease=node.lease)
                    await self._etcd.lease_revoke(entry.lease)
                    self.deaths += 1
                    metrics.DEATHS.labels(node.role).inc()
                    return
        except LeaseLost:
            log.debug("another node revoked the lease first", key=key)
        except (EtcdError, ValueError) as error:
            log.warning("suspect not checked, its lease decides", key=key, detail=str(error))
        finally:
            self._open.discard(key)


async def refuses(host: str, port: int) -> bool:
    """Return True when the host refuses the connection. Return False when it accepts, and when there is no answer.

    A name may have several addresses, as `localhost` has: all must refuse but those that cannot be reached from here.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            refusals = [await _refuses(str(each[4][0]), port) for each in found]
    except (OSError, TimeoutError):
        return False
    return True in refusals and False not in refusals


async def _refuses(address: str, port: int) -> bool | None:
    """Return whether an address refuses the connection; None when there is no way to it from here."""
    try:
        _, writer = await asyncio.open_connection(address, port)
    except ConnectionRefusedError:
        return True
    except OSError as error:
        return None if error.errno in NO_WAY else False
    writer.close()
    return False
