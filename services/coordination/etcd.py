"""The one door to etcd: an asyncio client on the stubs of the `etcd3` module (`etcd3.etcdrpc`) over `grpc.aio`.

Lives as long as its process (`async with Etcd.open(settings) as etcd`). Knows several endpoints, one channel each; a
call goes to the one that answered last, and a member that is gone, frozen or without a leader is left for the next.
Every call has a deadline. How a call can fail (cf. jepsen-io/etcd): `EtcdRefused` is definite (etcd said no, or the
request never left), `EtcdUnknown` is a write without an answer: it was carried out, was not, or will be. Reads are
retried until their deadline and then are EtcdRefused. The rest of Pollcast sees the small dataclasses and constructors
below, never protobuf.

Reference: https://etcd.io/docs/v3.5/learning/api/.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from etcd3 import etcdrpc

from pollcast.services.coordination import metrics
from pollcast.services.errors import Compacted, EtcdError, EtcdRefused, EtcdUnknown, EtcdUnreachable, LeaseLost
from pollcast.services.process import logs
from pollcast.services.process.settings import EtcdSettings, HostPort
from pollcast.services.serving import rpc

log = logs.get_logger("etcd")

CALL_SECONDS = 2.0
PAGE_KEYS = 5000
QUIET_SECONDS = 1.0  # without a word on a watch for so long, ask for its progress
STALL_SECONDS = 2.0  # no answer to that for so long: the watch is stalled
RETRY_SECONDS = 0.05  # between rounds through all endpoints

# A frozen member is noticed by what is asked of it (progress requests, deadlines). Pings only clean up behind: etcd
# closes connections that ping more often than every 5 s (--grpc-keepalive-min-time).
CHANNEL_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
HAS_LEADER = ("hasleader", "true")

# The status codes that say: answered, and not carried out. Whatever is not listed may have been carried out.
DEFINITE = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
NEVER_SENT = ("failed to connect", "connections to all backends failing", "dns resolution failed")
TOKEN_REFUSED = ("invalid auth token", "revision of auth store is old", "user name is empty")


# --- what is stored, and what happens to it -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kv:
    """A key as it is stored. Bytes of a key that are no UTF-8 are kept by surrogateescape. `lease` is 0 for none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """A put or a delete. Of a delete `kv` holds the key and the delete's revision. Mirror fills in `previous`."""

    kv: Kv
    deleted: bool = False
    previous: Kv | None = None


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """What a watch tells at once; without events it is a sign of life."""

    events: tuple[KeyEvent, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """The keys under a prefix, all as of one revision, in order."""

    kvs: tuple[Kv, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class TxnResult:
    """What a transaction did. `revision` is the mod_revision of everything it wrote. `results` has one entry for each
    operation: the keys of a `read`, the TxnResult of a `nested`, None for the others."""

    succeeded: bool
    revision: int
    results: tuple[tuple[Kv, ...] | TxnResult | None, ...] = ()


# --- what a transaction is built from -----------------------------------------------------------------------------

Compare = Any  # etcdrpc.Compare
Operation = Any  # etcdrpc.RequestOp


def to_bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def range_end(prefix: str) -> bytes:
    """The end of the range that holds every key with this prefix (which must not end in 0xff)."""
    start = to_bytes(prefix)
    return start[:-1] + bytes([start[-1] + 1])


def absent(key: str) -> Compare:
    return etcdrpc.Compare(
        key=to_bytes(key), target=etcdrpc.Compare.CREATE, result=etcdrpc.Compare.EQUAL, create_revision=0
    )


def unchanged(key: str, mod_revision: int) -> Compare:
    """The key exists as it was last written at this revision."""
    return etcdrpc.Compare(
        key=to_bytes(key), target=etcdrpc.Compare.MOD, result=etcdrpc.Compare.EQUAL, mod_revision=mod_revision
    )


def on_lease(key: str, lease: int) -> Compare:
    """The key exists and hangs on this lease."""
    return etcdrpc.Compare(key=to_bytes(key), target=etcdrpc.Compare.LEASE, result=etcdrpc.Compare.EQUAL, lease=lease)


def none_under(prefix: str) -> Compare:
    """No key has the prefix. Of an empty range etcd compares a create_revision of 0."""
    return etcdrpc.Compare(
        key=to_bytes(prefix),
        range_end=range_end(prefix),
        target=etcdrpc.Compare.CREATE,
        result=etcdrpc.Compare.EQUAL,
        create_revision=0,
    )


def some_under(prefix: str) -> Compare:
    """At least one key has the prefix: > 0 is true of all existing keys, and false of an empty range's 0."""
    return etcdrpc.Compare(
        key=to_bytes(prefix),
        range_end=range_end(prefix),
        target=etcdrpc.Compare.CREATE,
        result=etcdrpc.Compare.GREATER,
        create_revision=0,
    )


def put(key: str, value: bytes, lease: int = 0) -> Operation:
    return etcdrpc.RequestOp(request_put=etcdrpc.PutRequest(key=to_bytes(key), value=value, lease=lease))


def delete(key: str) -> Operation:
    return etcdrpc.RequestOp(request_delete_range=etcdrpc.DeleteRangeRequest(key=to_bytes(key)))


def read(key: str) -> Operation:
    return etcdrpc.RequestOp(request_range=etcdrpc.RangeRequest(key=to_bytes(key)))


def nested(compare: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()) -> Operation:
    """A transaction as an operation of another: many small ones travel and commit in one request."""
    return etcdrpc.RequestOp(request_txn=etcdrpc.TxnRequest(compare=compare, success=success, failure=failure))


# --- the client ---------------------------------------------------------------------------------------------------


class Endpoint:
    """One member's address, its channel and the stubs on it."""

    def __init__(self, address: HostPort, credentials: grpc.ChannelCredentials | None) -> None:
        self.address = address
        self.channel = (
            grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        )
        self.kv: Any = etcdrpc.KVStub(self.channel)
        self.lease: Any = etcdrpc.LeaseStub(self.channel)
        self.watch: Any = etcdrpc.WatchStub(self.channel)
        self.auth: Any = etcdrpc.AuthStub(self.channel)


class Etcd:
    """The client. Safe for any number of tasks of one event loop. Made by `open`."""

    def __init__(self, endpoints: Sequence[Endpoint], user: str | None = None, password: str | None = None) -> None:
        self.cluster_id = 0  # 0 until etcd has answered once
        self.incarnation = 0  # counts the times that all revisions known before came to mean nothing
        self.on_new_cluster: list[Callable[[], None]] = []  # called when that happens
        self._endpoints = endpoints
        self._current = 0
        self._revision = 0  # the highest that etcd answered with
        self._credentials = (user, password) if user is not None and password is not None else None
        self._token: str | None = None
        self._keepalive: tuple[Endpoint, Any] | None = None  # the open stream
        self._keepalive_turn = asyncio.Lock()

    @staticmethod
    @contextlib.asynccontextmanager
    async def open(settings: EtcdSettings) -> AsyncIterator[Etcd]:
        """Connects on first use, so that a service starts while etcd is away. OSError when a TLS file can't be read."""
        credentials = None
        if settings.etcd_ca is not None:
            credentials = grpc.ssl_channel_credentials(
                settings.etcd_ca.read_bytes(),
                settings.etcd_key.read_bytes() if settings.etcd_key else None,
                settings.etcd_cert.read_bytes() if settings.etcd_cert else None,
            )
        password = settings.etcd_password.get_secret_value() if settings.etcd_password else None
        endpoints = [Endpoint(address, credentials) for address in settings.etcd]
        etcd = Etcd(endpoints, settings.etcd_user, password)
        try:
            yield etcd
        finally:
            etcd._drop_keepalive()
            for endpoint in endpoints:
                await endpoint.channel.close()

    # --- keys

    async def get(self, key: str) -> Kv | None:
        answer = await self._call("kv", "Range", etcdrpc.RangeRequest(key=to_bytes(key)))
        return _kv(answer.kvs[0]) if answer.kvs else None

    async def range(self, prefix: str, revision: int | None = None) -> Listing:
        """All keys with the prefix as of `revision` (default: now). Pages, so that any number passes. Raises Compacted
        when the revision is gone (or went between two pages)."""
        kvs: list[Kv] = []
        start = to_bytes(prefix)
        while True:
            request = etcdrpc.RangeRequest(
                key=start, range_end=range_end(prefix), limit=PAGE_KEYS, revision=revision or 0
            )
            answer = await self._call("kv", "Range", request)
            kvs.extend(map(_kv, answer.kvs))
            revision = revision or answer.header.revision
            if not answer.more:
                return Listing(tuple(kvs), revision)
            start = answer.kvs[-1].key + b"\0"

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Returns the key's new mod_revision. Raises LeaseLost when the lease is gone."""
        request = etcdrpc.PutRequest(key=to_bytes(key), value=value, lease=lease)
        answer = await self._call("kv", "Put", request, write=True)
        return int(answer.header.revision)

    async def delete(self, key: str) -> bool:
        """Whether the key was there."""
        answer = await self._call("kv", "DeleteRange", etcdrpc.DeleteRangeRequest(key=to_bytes(key)), write=True)
        return bool(answer.deleted)

    async def txn(
        self, compare: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """All of `success` when every comparison holds, else all of `failure`. At most 128 of each by etcd's default,
        where those of a `nested` count as well. Raises LeaseLost when it puts on a lease that is gone."""
        request = etcdrpc.TxnRequest(compare=compare, success=success, failure=failure)
        return _outcome(await self._call("kv", "Txn", request, write=True))

    async def read_all(self, keys: Sequence[str]) -> list[Kv | None]:
        """At most 128 keys, all as of one moment. A read: retried, never EtcdUnknown."""
        request = etcdrpc.TxnRequest(success=[read(key) for key in keys])
        answer = await self._call("kv", "Txn", request)
        return [_kv(r.response_range.kvs[0]) if r.response_range.kvs else None for r in answer.responses]

    # --- leases

    async def lease_grant(self, ttl: float) -> tuple[int, float]:
        """The lease's number and its time in seconds, which etcd may make longer than asked for."""
        answer = await self._call("lease", "LeaseGrant", etcdrpc.LeaseGrantRequest(TTL=round(ttl)), write=True)
        return int(answer.ID), float(answer.TTL)

    async def lease_revoke(self, lease: int) -> None:
        """Ends the lease and deletes all keys on it. Raises LeaseLost when it is gone already."""
        await self._call("lease", "LeaseRevoke", etcdrpc.LeaseRevokeRequest(ID=lease), write=True)

    async def lease_ttl(self, lease: int) -> float:
        """Seconds that the lease has left; 0 when it is gone."""
        answer = await self._call("lease", "LeaseTimeToLive", etcdrpc.LeaseTimeToLiveRequest(ID=lease))
        return max(0.0, float(answer.TTL))

    async def lease_keepalive(self, lease: int, timeout: float = CALL_SECONDS) -> float:
        """Renews the lease and returns its time in seconds; 0 when etcd says that it is gone. EtcdRefused when nobody
        answered in time: renewing twice does no harm, so this is never unknown."""
        async with self._keepalive_turn:
            with metrics.answering("LeaseKeepAlive"):
                return await self._keep_alive(lease, timeout)

    async def _keep_alive(self, lease: int, timeout: float) -> float:
        deadline = asyncio.get_running_loop().time() + timeout
        attempt = 0
        while True:
            endpoint = self._keepalive[0] if self._keepalive else self._endpoints[self._current]
            try:
                async with asyncio.timeout_at(self._attempt_ends(deadline, timeout)):
                    return await self._keepalive_once(endpoint, lease)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
                attempt += 1
                await self._next_attempt(error, attempt, deadline, endpoint)

    async def _keepalive_once(self, endpoint: Endpoint, lease: int) -> float:
        answered = False
        try:
            if self._keepalive is None:
                self._keepalive = endpoint, endpoint.lease.LeaseKeepAlive(metadata=await self._metadata(HAS_LEADER))
            call = self._keepalive[1]
            with rpc.heeding_cancellation():
                await call.write(etcdrpc.LeaseKeepAliveRequest(ID=lease))
                answer = await call.read()
                if answer is grpc.aio.EOF:
                    raise TimeoutError(f"the keep-alive stream ended: {await call.details()}")
            answered = True
        finally:
            if not answered:  # a late answer must not be taken for the next one's
                self._drop_keepalive()
        self._saw(answer.header)
        return max(0.0, float(answer.TTL))

    def _drop_keepalive(self) -> None:
        if self._keepalive is not None:
            self._keepalive[1].cancel()
            self._keepalive = None

    # --- watches

    async def watch(self, prefix: str, start_revision: int) -> AsyncGenerator[WatchBatch, None]:
        """Every event under the prefix from a revision on, in order; use with contextlib.aclosing. It ends by raising
        only: Compacted when the revision is gone, else EtcdRefused (broken, stalled, no leader, another cluster): list
        again. The revision of a batch without events proves nothing: etcd before 3.5.8 lets progress overtake events
        (etcd-io/etcd#15220)."""
        endpoint = self._endpoints[self._current]
        incarnation = self.incarnation
        call: Any = None
        reading: asyncio.Future[Any] | None = None
        try:
            call = endpoint.watch.Watch(metadata=await self._metadata(HAS_LEADER))
            async with asyncio.timeout(CALL_SECONDS):
                await call.write(_watch_request(prefix, start_revision))
            while True:
                reading = asyncio.ensure_future(call.read())
                if not await self._answers(call, reading):
                    raise EtcdRefused(f"the watch of {prefix} stalled at {endpoint.address}")
                answer = reading.result()
                if answer is grpc.aio.EOF:
                    raise EtcdRefused(f"{endpoint.address} ended the watch of {prefix}: {await call.details()}")
                self._saw(answer.header)
                if self.incarnation != incarnation:
                    raise EtcdRefused(f"the watch of {prefix} is of another cluster")
                if answer.compact_revision:
                    raise Compacted(f"revisions below {answer.compact_revision} are compacted")
                if answer.canceled:
                    self._forget_token(answer.cancel_reason)
                    raise EtcdRefused(f"etcd cancelled the watch of {prefix}: {answer.cancel_reason}")
                yield WatchBatch(tuple(map(_event, answer.events)), answer.header.revision)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
            self._leave(endpoint)
            raise _refused(error, endpoint) from None
        except EtcdRefused:
            self._leave(endpoint)
            raise
        finally:
            if call is not None:
                call.cancel()
            if reading is not None:
                reading.cancel()
                await asyncio.wait({reading})

    async def _answers(self, call: Any, reading: asyncio.Future[Any]) -> bool:
        """Whether something came, be it after being asked. (A read is never cancelled: that would end the stream.)"""
        await asyncio.wait({reading}, timeout=QUIET_SECONDS)
        if not reading.done():
            async with asyncio.timeout(STALL_SECONDS):
                await call.write(etcdrpc.WatchRequest(progress_request=etcdrpc.WatchProgressRequest()))
            await asyncio.wait({reading}, timeout=STALL_SECONDS)
        return reading.done()

    # --- calls

    async def _call(self, stub: str, method: str, request: Any, *, write: bool = False) -> Any:
        with metrics.answering(method):
            return await self._ask(stub, method, request, write=write)

    async def _ask(self, stub: str, method: str, request: Any, *, write: bool) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CALL_SECONDS
        attempt = 0
        while True:
            endpoint = self._endpoints[self._current]
            ends = deadline if write else self._attempt_ends(deadline, CALL_SECONDS)
            sent, floor, incarnation = False, self._revision, self.incarnation
            try:
                metadata = await self._metadata()
                call = getattr(getattr(endpoint, stub), method)
                sent = True
                answer = await call(request, timeout=max(0.001, ends - loop.time()), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                attempt += 1
                if write and sent and not _is_definite(error):
                    self._leave(endpoint)
                    raise EtcdUnknown(f"{endpoint.address}: {error.code().name}: {error.details()}") from None
                await self._next_attempt(error, attempt, deadline, endpoint)
            else:
                self._saw(answer.header)
                if stub == "kv" and incarnation == self.incarnation:
                    self._saw_revision(answer.header.revision, floor)
                return answer

    def _attempt_ends(self, deadline: float, timeout: float) -> float:
        """When to leave an endpoint that is silent, so that the others have their turn before the deadline."""
        return min(deadline, asyncio.get_running_loop().time() + timeout / len(self._endpoints))

    async def _next_attempt(
        self, error: grpc.aio.AioRpcError | Exception, attempt: int, deadline: float, endpoint: Endpoint
    ) -> None:
        """Returns when there is a point in trying again (perhaps elsewhere), else raises."""
        now = asyncio.get_running_loop().time()
        if isinstance(error, grpc.aio.AioRpcError) and error.code() in DEFINITE:
            if not self._forget_token(error.details() or "") or attempt > 2:
                raise _refused(error, endpoint) from None
            return
        self._leave(endpoint)
        if now + RETRY_SECONDS >= deadline:
            raise _refused(error, endpoint) from None
        if attempt % len(self._endpoints) == 0:
            await asyncio.sleep(RETRY_SECONDS)

    def _leave(self, endpoint: Endpoint) -> None:
        """The next call goes to the next endpoint, unless another task saw to that."""
        if self._endpoints[self._current] is endpoint:
            self._current = (self._current + 1) % len(self._endpoints)

    async def _metadata(self, *extra: tuple[str, str]) -> tuple[tuple[str, str], ...]:
        if self._credentials is None:
            return extra
        if self._token is None:
            user, password = self._credentials
            endpoint = self._endpoints[self._current]
            request = etcdrpc.AuthenticateRequest(name=user, password=password)
            self._token = str((await endpoint.auth.Authenticate(request, timeout=CALL_SECONDS)).token)
        return (*extra, ("token", self._token))

    def _forget_token(self, details: str) -> bool:
        """Whether the refusal was the token's fault, and another may do better."""
        if self._credentials is not None and any(text in details for text in TOKEN_REFUSED):
            self._token = None
            return True
        return False

    def _saw(self, header: Any) -> None:
        if header.cluster_id == self.cluster_id or not header.cluster_id:
            return
        before, self.cluster_id = self.cluster_id, header.cluster_id
        if before:
            self._begin_anew(f"cluster {header.cluster_id:x} answers, before it was {before:x}")

    def _saw_revision(self, revision: int, floor: int) -> None:
        """`floor` is the highest revision that was known when the request was sent: etcd is linearizable, so it answers
        with less only when it has lost its data (emptied in place it even keeps its cluster's id)."""
        if revision < floor:
            self._begin_anew(f"revision {revision} is answered, before it was {floor}")
        self._revision = max(self._revision, revision)

    def _begin_anew(self, detail: str) -> None:
        log.warning("etcd lost its data", detail=detail)
        self._revision = 0
        self.incarnation += 1
        for callback in self.on_new_cluster:
            callback()


def _kv(kv: Any) -> Kv:
    key = kv.key.decode("utf-8", "surrogateescape")
    return Kv(key, kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def _event(event: Any) -> KeyEvent:
    return KeyEvent(_kv(event.kv), deleted=event.type == event.DELETE)


def _outcome(answer: Any, revision: int = 0) -> TxnResult:
    revision = revision or answer.header.revision  # a nested answer's own header is empty
    results: list[tuple[Kv, ...] | TxnResult | None] = []
    for response in answer.responses:
        match response.WhichOneof("response"):
            case "response_range":
                results.append(tuple(map(_kv, response.response_range.kvs)))
            case "response_txn":
                results.append(_outcome(response.response_txn, revision))
            case _:
                results.append(None)
    return TxnResult(answer.succeeded, revision, tuple(results))


def _watch_request(prefix: str, start_revision: int) -> Any:
    return etcdrpc.WatchRequest(
        create_request=etcdrpc.WatchCreateRequest(
            key=to_bytes(prefix), range_end=range_end(prefix), start_revision=start_revision, progress_notify=True
        )
    )


def _is_definite(error: grpc.aio.AioRpcError) -> bool:
    details = (error.details() or "").lower()
    return error.code() in DEFINITE or (
        error.code() is grpc.StatusCode.UNAVAILABLE and any(text in details for text in NEVER_SENT)
    )


def _refused(error: Exception, endpoint: Endpoint) -> EtcdError:
    where = endpoint.address
    if not isinstance(error, grpc.aio.AioRpcError):
        return EtcdUnreachable(f"{where}: {str(error) or 'no answer in time'}")
    details = error.details() or ""
    if "requested lease not found" in details:
        return LeaseLost()
    if "compacted" in details:
        return Compacted(details)
    kind = EtcdRefused if error.code() in DEFINITE else EtcdUnreachable
    return kind(f"{where}: {error.code().name}: {details}")
