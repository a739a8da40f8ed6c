"""The only client of etcd in Pollcast: asyncio on the stubs of the `etcd3` module (`etcd3.etcdrpc`) over `grpc.aio`.

Open it once per process (`async with Etcd.open(settings) as etcd`). Every call has a deadline. A call fails with
`EtcdRefused` when it was definitely not carried out, and with `EtcdUnknown` when it is a write without a response: it
was carried out, was not, or will be. Reads are retried until their deadline and then raise EtcdRefused.

All watches of the process share one stream (watch_stream.py). It resumes by itself whatever breaks, so a watch ends
only when etcd has compacted what it would go on with, or has lost its data. The latter begins a new **incarnation**
(history.py): every watch ends, and everyone who asked for it (`on_new_incarnation`) is called at that moment, before
anything of the new incarnation is delivered to anybody (docs/reference/etcd.md#lost-data).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import grpc
import grpc.aio
from etcd3 import etcdrpc

from pollcast.services.coordination import history, metrics, watch_stream
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.endpoints import DEFINITE, Endpoint, Endpoints, is_definite, metadata, to_etcd_error
from pollcast.services.coordination.history import History
from pollcast.services.coordination.keepalive import KeepAliveStream
from pollcast.services.coordination.operations import Compare, Kv, Listing, Operation, TxnResult, WatchBatch
from pollcast.services.coordination.watch_stream import WatchStream
from pollcast.services.coordination.watches import Ended, Inbox, Message, Received, Watch
from pollcast.services.errors import EtcdFull, EtcdUnknown, NewIncarnation
from pollcast.services.process import logs
from pollcast.services.process.settings import EtcdSettings

log = logs.get_logger("etcd")

CALL_SECONDS = 2.0
"""Deadline of every call, in seconds."""

PAGE_KEYS = 5000
"""Maximum number of keys in one response to a listing."""


class Page(NamedTuple):
    """A part of a listing: its keys (protobuf), the listing's revision, and where the next part starts (None: it is the
    last)."""

    kvs: Sequence[Any]
    revision: int
    next_start: bytes | None


class Etcd:
    """A client of one etcd cluster, safe for any number of tasks of one event loop. Create it with `open`."""

    def __init__(self, endpoints: Endpoints, namespace: str = "/pollcast") -> None:
        """`namespace` is a prefix that etcd lets this process read."""
        self._endpoints = endpoints
        self._namespace = namespace
        self._history = History()
        self._keepalive = KeepAliveStream(endpoints, self._renewed)
        self._stream = WatchStream(endpoints, self._history, self._verify, self._check_header)
        self._on_new_incarnation: dict[object, Callable[[], None]] = {}

    @staticmethod
    @contextlib.asynccontextmanager
    async def open(settings: EtcdSettings) -> AsyncIterator[Etcd]:
        """Yield a client that connects on first use, so that a service can start while etcd is away. Raises OSError
        when a TLS file cannot be read."""
        endpoints = Endpoints.from_settings(settings)
        etcd = Etcd(endpoints, settings.namespace)
        works = {asyncio.create_task(work) for work in (etcd._stream.run(), endpoints.review())}
        for work in works:
            work.add_done_callback(_report)
        try:
            yield etcd
        finally:
            etcd._keepalive.close()
            for work in works:
                work.cancel()
            await asyncio.wait(works)
            await endpoints.close()

    @property
    def cluster_id(self) -> int:
        """The id of the cluster, 0 until etcd has responded once."""
        return self._history.cluster_id

    @property
    def incarnation(self) -> int:
        """The number of times that etcd was found to have lost its data: revisions read under another incarnation mean
        nothing."""
        return self._history.incarnation

    @contextlib.contextmanager
    def on_new_incarnation(self, callback: Callable[[], None]) -> Iterator[None]:
        """Have `callback` called, inside the scope, at each moment in which a new incarnation begins. It must not
        block, and nothing of the new incarnation has been delivered to anybody before."""
        key = object()
        self._on_new_incarnation[key] = callback
        try:
            yield
        finally:
            del self._on_new_incarnation[key]

    # --- keys ---------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Kv | None:
        """Return the key as it is stored now, or None."""
        response = await self._call("kv", "Range", op.range_request(key))
        return op.parse_first(response.kvs)

    async def range(self, prefix: str, revision: int | None = None) -> Listing:
        """List all keys with the prefix as of `revision` (default: now), page by page. Raises Compacted when the
        revision is compacted, be it between two pages."""
        kvs: list[Kv] = []
        start: bytes | None = op.to_bytes(prefix)
        while start is not None:
            page = await self.page(prefix, start, revision)
            kvs.extend(map(op.parse_kv, page.kvs))
            revision, start = page.revision, page.next_start
        assert revision is not None
        return Listing(tuple(kvs), revision)

    async def page(self, prefix: str, start: bytes, revision: int | None, timeout: float | None = None) -> Page:
        """List at most PAGE_KEYS keys with the prefix, from the key `start` on, as of `revision` (None: now), within
        `timeout` seconds (default: CALL_SECONDS). Raises Compacted when the revision is compacted."""
        request = op.page_request(prefix, start, PAGE_KEYS, revision or 0)
        response = await self._call("kv", "Range", request, timeout=timeout)
        next_start = response.kvs[-1].key + b"\0" if response.more else None
        return Page(response.kvs, revision or response.header.revision, next_start)

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
        return (await self.read_at(keys))[1]

    async def read_at(self, keys: Sequence[str]) -> tuple[int, list[Kv | None]]:
        """Read at most 128 keys as of one moment, and return its revision as well. Raises Compacted in a rare case."""
        # etcd before 3.5.5 crashes when a client gives up, or dies, while etcd executes a transaction that only reads
        # (etcd-io/etcd#14110). This one may write, by a branch that is never taken, for there is no comparison to fail.
        request = etcdrpc.TxnRequest(success=[op.read(key) for key in keys], failure=[op.delete(keys[0])])
        try:
            response = await self._call("kv", "Txn", request)
        except EtcdFull:  # an etcd at its space quota refuses transactions that only read, too
            revision, found = 0, []
            for key in keys:
                response = await self._call("kv", "Range", op.range_request(key, revision))
                revision = revision or response.header.revision
                found.append(op.parse_first(response.kvs))
            return revision, found
        return response.header.revision, [op.parse_first(part.response_range.kvs) for part in response.responses]

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

    @contextlib.contextmanager
    def watches(self) -> Iterator[Watches]:
        """Yield a set of watches with one inbox; they end with the scope."""
        watches = Watches(self._stream)
        try:
            yield watches
        finally:
            watches.close()

    async def watch(self, prefix: str, start_revision: int) -> AsyncGenerator[WatchBatch, None]:
        """Yield every event under the prefix from a revision on, in order. Use it with contextlib.aclosing.

        It ends only by raising: Compacted when the revision is compacted, NewIncarnation when etcd has lost its data,
        EtcdRefused when etcd refuses the watch."""
        with self.watches() as watches:
            watches.add_prefix(prefix, start_revision)
            async with contextlib.aclosing(watches.batches()) as batches:
                async for batch in batches:
                    yield batch

    # --- calls --------------------------------------------------------------------------------------------------

    async def _call(
        self, stub: str, method: str, request: Any, *, write: bool = False, timeout: float | None = None
    ) -> Any:
        """Send the request and return its response. A read is retried on every endpoint until the deadline; a write is
        repeated only when the attempt was definitely not carried out."""
        with metrics.measure_call(method):
            return await self._call_until_deadline(stub, method, request, write, timeout or CALL_SECONDS)

    async def _call_until_deadline(self, stub: str, method: str, request: Any, write: bool, timeout: float) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        attempt = 0
        while True:
            endpoint = self._endpoints.current
            ends = deadline if write else self._endpoints.attempt_deadline(deadline, timeout)
            sent, token = False, None
            try:
                async with asyncio.timeout_at(deadline):
                    token = await self._endpoints.token()
                sent = True
                response = await self._attempt(endpoint, stub, method, request, token, ends)
            except TimeoutError:
                raise to_etcd_error(TimeoutError("no login in time"), endpoint) from None
            except grpc.aio.AioRpcError as error:
                attempt += 1
                if write and sent and not is_definite(error):
                    endpoint.doubted.set()
                    self._endpoints.leave(endpoint)
                    raise EtcdUnknown(f"{endpoint.address}: {error.code().name}: {error.details()}") from None
                await self._endpoints.prepare_retry(error, attempt, deadline, endpoint, token)
            else:
                if write:
                    self._history.wrote(request, response, checked=self._stream.healthy)
                return response

    async def _attempt(
        self, endpoint: Endpoint, stub: str, method: str, request: Any, token: str | None, ends: float
    ) -> Any:
        """Send the request once, to this endpoint, and check what its answer shows of etcd's history. Raises
        AioRpcError."""
        loop = asyncio.get_running_loop()
        began, floor, incarnation = loop.time(), self._history.revision, self.incarnation
        call = getattr(getattr(endpoint, stub), method)
        try:
            response = await call(request, timeout=max(0.001, ends - began), metadata=metadata(token))
        except grpc.aio.AioRpcError as error:
            if error.code() in DEFINITE:
                endpoint.answered(began)
            raise
        endpoint.answered(began)
        self._check_header(response.header)
        if stub == "kv" and incarnation == self.incarnation:
            self._lost(self._history.check_revision(response.header.revision, floor))
        return response

    # --- noticing that etcd lost its data -----------------------------------------------------------------------

    def _check_header(self, header: Any) -> bool:
        """Check the header of any answer, linearizable or not. Return whether etcd's history should be checked."""
        self._lost(self._history.check_cluster(header.cluster_id))
        return self._history.hear(header.revision)

    def _renewed(self, header: Any) -> None:
        if self._check_header(header):
            self._endpoints.current.doubted.set()

    async def _verify(self, endpoint: Endpoint) -> None:
        """Check that the endpoint answers, and that etcd's history is still the one that this process knows. Raises
        EtcdError when it does not answer."""
        witness, incarnation = self._history.witness, self.incarnation
        ends = asyncio.get_running_loop().time() + watch_stream.STALL_SECONDS
        token = None
        try:
            async with asyncio.timeout_at(ends):
                token = await self._endpoints.token()
            if witness is None:
                request = op.range_request(f"{self._namespace}/leader")
                await self._attempt(endpoint, "kv", "Range", request, token, ends)
                return
            requests = history.witness_requests(witness)
            responses = [await self._attempt(endpoint, "kv", "Range", each, token, ends) for each in requests]
        except TimeoutError as error:
            raise to_etcd_error(error, endpoint) from None
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            if history.FUTURE in details:
                if incarnation == self.incarnation and witness is self._history.witness:
                    self._lost(f"etcd has not reached revision {witness.revision if witness else 0} yet: {details}")
            elif history.COMPACTED in details:
                if witness is self._history.witness:
                    self._history.witness = None
            else:
                self._endpoints.refused(token, details)
                raise to_etcd_error(error, endpoint) from None
        else:
            if incarnation == self.incarnation and not history.holds(witness, responses):
                self._lost(f"{witness.key!r} was not written at revision {witness.revision}, as it was before")

    def _lost(self, detail: str | None) -> None:
        """Begin a new incarnation for this reason, if there is one."""
        if detail is None:
            return
        log.warning("etcd lost its data", detail=detail)
        metrics.INCARNATIONS.inc()
        self._history.begin_anew()
        self._stream.end_all(NewIncarnation())
        for callback in list(self._on_new_incarnation.values()):
            callback()


def _report(work: asyncio.Task[NoReturn]) -> None:
    """Log why a task has ended that should not have."""
    if not work.cancelled():
        log.error("a part of the client of etcd has failed", exc_info=work.exception())


TURN_SECONDS = 0.02
"""Time for which the messages of a watch are handled without a turn for other tasks, in seconds."""


class Watches:
    """A follower's watches and the messages about them. Create it with `Etcd.watches`."""

    def __init__(self, stream: WatchStream) -> None:
        self._stream = stream
        self._inbox = Inbox()
        self._watches: set[Watch] = set()

    @property
    def healthy(self) -> bool:
        """Whether every watch is served now."""
        return self._stream.healthy and not self._inbox.unopened

    def add_prefix(self, prefix: str, start_revision: int) -> Watch:
        """Watch all keys with the prefix from a revision on."""
        watch = self._stream.add(op.to_bytes(prefix), op.range_end(prefix), start_revision, self._inbox)
        self._watches.add(watch)
        return watch

    def discard(self, watch: Watch) -> None:
        """End a watch. Messages about it may still come, from before."""
        self._watches.discard(watch)
        self._stream.discard(watch)

    async def take(self) -> list[Message]:
        """Wait for messages and return all of them, in order."""
        return await self._inbox.take()

    async def batches(self) -> AsyncGenerator[WatchBatch, None]:
        """Yield the batches of events, in order, with a turn for other tasks after every TURN_SECONDS.

        It ends only by raising the error with which a watch has ended.
        """
        now = asyncio.get_running_loop().time
        while True:
            began = now()
            for message in await self.take():
                if now() - began > TURN_SECONDS:
                    await asyncio.sleep(0)
                    began = now()
                if isinstance(message, Ended):
                    raise message.error
                if isinstance(message, Received):
                    yield message.batch

    def close(self) -> None:
        """End all watches."""
        for watch in self._watches:
            self._stream.discard(watch)
        self._watches.clear()
        self._inbox.clear()
