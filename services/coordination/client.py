"""The only client of etcd in Pollcast: asyncio on the stubs of the `etcd3` module (`etcd3.etcdrpc`) over `grpc.aio`.

Open it once per process (`async with Etcd.open(settings) as etcd`). Every call has a deadline. A call fails with
`EtcdRefused` when it was definitely not carried out, and with `EtcdUnknown` when it is a write without a response: it
was carried out, was not, or will be. Reads are retried until their deadline and then raise EtcdRefused.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
from etcd3 import etcdrpc

from pollcast.services.coordination import metrics
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.endpoints import HAS_LEADER, Endpoints, is_definite, to_etcd_error
from pollcast.services.coordination.keepalive import KeepAliveStream
from pollcast.services.coordination.operations import Compare, Kv, Listing, Operation, TxnResult, WatchBatch
from pollcast.services.errors import Compacted, EtcdRefused, EtcdUnknown
from pollcast.services.process import logs
from pollcast.services.process.settings import EtcdSettings

log = logs.get_logger("etcd")

CALL_SECONDS = 2.0
"""Deadline of every call, in seconds."""

PAGE_KEYS = 5000
"""Maximum number of keys in one response to a listing."""

QUIET_SECONDS = 1.0
"""Time without a message on a watch after which its progress is requested, in seconds."""

STALL_SECONDS = 2.0
"""Time without a response to that request after which the watch counts as stalled, in seconds."""


class Etcd:
    """A client of one etcd cluster, safe for any number of tasks of one event loop. Create it with `open`.

    `incarnation` counts the times that etcd was found to have lost its data: revisions read under another incarnation
    mean nothing. `cluster_id` is 0 until etcd has responded once."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.cluster_id = 0
        self.incarnation = 0
        self._endpoints = endpoints
        self._revision = 0  # the highest revision of any response
        self._keepalive = KeepAliveStream(endpoints, self._check_cluster)

    @staticmethod
    @contextlib.asynccontextmanager
    async def open(settings: EtcdSettings) -> AsyncIterator[Etcd]:
        """Yield a client that connects on first use, so that a service can start while etcd is away. Raises OSError
        when a TLS file cannot be read."""
        endpoints = Endpoints.from_settings(settings)
        etcd = Etcd(endpoints)
        try:
            yield etcd
        finally:
            etcd._keepalive.close()
            await endpoints.close()

    # --- keys ---------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Kv | None:
        """Return the key as it is stored now, or None."""
        response = await self._call("kv", "Range", op.range_request(key))
        return op.parse_first(response.kvs)

    async def range(self, prefix: str, revision: int | None = None) -> Listing:
        """List all keys with the prefix as of `revision` (default: now), page by page. Raises Compacted when the
        revision is compacted, be it between two pages."""
        kvs: list[Kv] = []
        start = op.to_bytes(prefix)
        while True:
            response = await self._call("kv", "Range", op.page_request(prefix, start, PAGE_KEYS, revision or 0))
            kvs.extend(map(op.parse_kv, response.kvs))
            revision = revision or response.header.revision
            if not response.more:
                return Listing(tuple(kvs), revision)
            start = response.kvs[-1].key + b"\0"

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Store the value and return the key's new mod_revision. Raises LeaseLost when the lease is gone."""
        request = etcdrpc.PutRequest(key=op.to_bytes(key), value=value, lease=lease)
        response = await self._call("kv", "Put", request, write=True)
        return int(response.header.revision)

    async def delete(self, key: str) -> bool:
        """Delete the key and return whether it existed."""
        request = etcdrpc.DeleteRangeRequest(key=op.to_bytes(key))
        response = await self._call("kv", "DeleteRange", request, write=True)
        return bool(response.deleted)

    async def txn(
        self, compare: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """Carry out all of `success` when every comparison holds, else all of `failure`. By etcd's default each list
        holds at most 128 operations, those inside a `nested` included. Raises LeaseLost when an operation puts a key
        on a lease that is gone."""
        request = etcdrpc.TxnRequest(compare=compare, success=success, failure=failure)
        return op.parse_txn(await self._call("kv", "Txn", request, write=True))

    async def read_all(self, keys: Sequence[str]) -> list[Kv | None]:
        """Read at most 128 keys as of one moment. It is a read: it is retried and never raises EtcdUnknown."""
        request = etcdrpc.TxnRequest(success=[op.read(key) for key in keys])
        response = await self._call("kv", "Txn", request)
        return [op.parse_first(part.response_range.kvs) for part in response.responses]

    # --- leases -------------------------------------------------------------------------------------------------

    async def lease_grant(self, ttl: float) -> tuple[int, float]:
        """Return a new lease's number and its time to live in seconds, which etcd may make longer than `ttl`."""
        response = await self._call("lease", "LeaseGrant", etcdrpc.LeaseGrantRequest(TTL=round(ttl)), write=True)
        return int(response.ID), float(response.TTL)

    async def lease_revoke(self, lease: int) -> None:
        """End the lease and delete every key on it. Raises LeaseLost when it is gone already."""
        await self._call("lease", "LeaseRevoke", etcdrpc.LeaseRevokeRequest(ID=lease), write=True)

    async def lease_ttl(self, lease: int) -> float:
        """Return the seconds that the lease has left, 0 when it is gone."""
        response = await self._call("lease", "LeaseTimeToLive", etcdrpc.LeaseTimeToLiveRequest(ID=lease))
        return max(0.0, float(response.TTL))

    async def lease_keepalive(self, lease: int, timeout: float = CALL_SECONDS) -> float:
        """Renew the lease and return its time to live in seconds, 0 when etcd reports that it is gone. Raises
        EtcdRefused when no endpoint responds within `timeout` seconds."""
        with metrics.measure_call("LeaseKeepAlive"):
            return await self._keepalive.renew(lease, timeout)

    # --- watches ------------------------------------------------------------------------------------------------

    async def watch(self, prefix: str, start_revision: int) -> AsyncGenerator[WatchBatch, None]:
        """Yield every event under the prefix from a revision on, in order. Use it with contextlib.aclosing.

        It ends only by raising: Compacted when the revision is compacted, else EtcdRefused (the watch broke or stalled,
        its member has no leader, or etcd lost its data). Do not conclude anything from the revision of a batch without
        events: etcd before 3.5.8 lets progress overtake events (etcd-io/etcd#15220)."""
        endpoint = self._endpoints.current
        incarnation = self.incarnation
        call: Any = None
        reading: asyncio.Future[Any] | None = None
        try:
            call = endpoint.watch.Watch(metadata=await self._endpoints.metadata(HAS_LEADER))
            async with asyncio.timeout(CALL_SECONDS):
                await call.write(op.watch_request(prefix, start_revision))
            while True:
                reading = asyncio.ensure_future(call.read())
                if not await self._responds(call, reading):
                    raise EtcdRefused(f"the watch of {prefix} stalled at {endpoint.address}")
                response = reading.result()
                if response is grpc.aio.EOF:
                    raise EtcdRefused(f"{endpoint.address} ended the watch of {prefix}: {await call.details()}")
                self._check_cluster(response.header)
                if self.incarnation != incarnation:
                    raise EtcdRefused(f"etcd lost its data during the watch of {prefix}")
                if response.compact_revision:
                    raise Compacted(f"revisions below {response.compact_revision} are compacted")
                if response.canceled:
                    self._endpoints.forget_token(response.cancel_reason)
                    raise EtcdRefused(f"etcd cancelled the watch of {prefix}: {response.cancel_reason}")
                yield WatchBatch(op.parse_events(response.events), response.header.revision)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
            self._endpoints.leave(endpoint)
            raise to_etcd_error(error, endpoint) from None
        except EtcdRefused:
            self._endpoints.leave(endpoint)
            raise
        finally:
            if call is not None:
                call.cancel()
            if reading is not None:
                reading.cancel()
                await asyncio.wait({reading})

    async def _responds(self, call: Any, reading: asyncio.Future[Any]) -> bool:
        """Return whether a message arrives, requesting the watch's progress if need be. The read is never cancelled:
        that would end the stream."""
        await asyncio.wait({reading}, timeout=QUIET_SECONDS)
        if not reading.done():
            async with asyncio.timeout(STALL_SECONDS):
                await call.write(etcdrpc.WatchRequest(progress_request=etcdrpc.WatchProgressRequest()))
            await asyncio.wait({reading}, timeout=STALL_SECONDS)
        return reading.done()

    # --- calls --------------------------------------------------------------------------------------------------

    async def _call(self, stub: str, method: str, request: Any, *, write: bool = False) -> Any:
        """Send the request and return its response. A read is retried on every endpoint until the deadline; a write is
        repeated only when the attempt was definitely not carried out."""
        with metrics.measure_call(method):
            return await self._call_until_deadline(stub, method, request, write=write)

    async def _call_until_deadline(self, stub: str, method: str, request: Any, *, write: bool) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CALL_SECONDS
        attempt = 0
        while True:
            endpoint = self._endpoints.current
            ends = deadline if write else self._endpoints.attempt_deadline(deadline, CALL_SECONDS)
            sent, floor, incarnation = False, self._revision, self.incarnation
            try:
                metadata = await self._endpoints.metadata()
                call = getattr(getattr(endpoint, stub), method)
                sent = True
                response = await call(request, timeout=max(0.001, ends - loop.time()), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                attempt += 1
                if write and sent and not is_definite(error):
                    self._endpoints.leave(endpoint)
                    raise EtcdUnknown(f"{endpoint.address}: {error.code().name}: {error.details()}") from None
                await self._endpoints.prepare_retry(error, attempt, deadline, endpoint)
            else:
                self._check_cluster(response.header)
                if stub == "kv" and incarnation == self.incarnation:
                    self._check_revision(response.header.revision, floor)
                return response

    # --- noticing that etcd lost its data -----------------------------------------------------------------------

    def _check_cluster(self, header: Any) -> None:
        """Begin a new incarnation when a response comes from another cluster than the ones before."""
        if header.cluster_id == self.cluster_id or not header.cluster_id:
            return
        before, self.cluster_id = self.cluster_id, header.cluster_id
        if before:
            self._begin_incarnation(f"cluster {header.cluster_id:x} answers, before it was {before:x}")

    def _check_revision(self, revision: int, floor: int) -> None:
        """Begin a new incarnation when a response's revision is below `floor`, the highest that was known when the
        request was sent. etcd is linearizable, so it only goes back when it lost its data; when it is emptied in place
        it even keeps its cluster's id."""
        if revision < floor:
            self._begin_incarnation(f"revision {revision} is answered, before it was {floor}")
        self._revision = max(self._revision, revision)

    def _begin_incarnation(self, detail: str) -> None:
        log.warning("etcd lost its data", detail=detail)
        self._revision = 0
        self.incarnation += 1
