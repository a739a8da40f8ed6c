"""The members of an etcd cluster as a client sees them: one channel each, failover, and the meaning of errors.

All calls of a process go to one member at a time. Each process has a **home** among the members, so that the processes
of a cluster are spread over them; the others stand in an order of its own, so that the clients of a member that dies
are spread over the rest. A member that is gone, frozen or without a leader is left for the next. While it has left
home, or home is slow, the process probes the members now and then, and moves to one that is much better, or back home
once home is about as good (`choose`).

A request can fail in two ways (cf. jepsen-io/etcd): definitely (etcd refused it, or it was never sent) or indefinitely
(no response: it may have been carried out). `is_definite` distinguishes them.
"""

from __future__ import annotations

import asyncio
import random
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio
from etcd3 import etcdrpc

from pollcast.services.coordination.login import Login
from pollcast.services.errors import (
    Compacted,
    EtcdError,
    EtcdFull,
    EtcdRefused,
    EtcdRejected,
    EtcdUnreachable,
    LeaseLost,
)
from pollcast.services.process.addresses import HostPort
from pollcast.services.process.settings import EtcdSettings, ServiceSettings
from pollcast.services.serving import rpc

RETRY_SECONDS = 0.05
"""Pause after every endpoint was tried once, in seconds."""

MAX_LOGIN_RETRIES = 2
"""Maximum number of times that one call is repeated with a new token."""

REVIEW_SECONDS = 15.0
"""Mean time between two probes of the members, while there is a reason for them, in seconds."""

PROBE_SECONDS = 1.0
"""Deadline of a probe, in seconds."""

SLOW_SECONDS = 0.2
"""Typical time of an answer above which a member counts as slow, in seconds."""

MUCH_BETTER = 3.0
"""Factor by which another member must answer faster to be worth a move."""

ABOUT_AS_GOOD_SECONDS = 0.05
"""Time by which home may answer later than the present member and still be returned to, in seconds."""

# A frozen member is detected by the deadlines of calls and watches. Keep-alive pings only close its connections: etcd
# itself closes connections that ping more often than every 5 s (--grpc-keepalive-min-time), or without a call. So a
# connection to a member that is not in use is closed, lest a firewall or NAT forget it before it is needed.
CHANNEL_OPTIONS: list[tuple[str, int | str]] = [
    *rpc.MOVING_NAMES,
    ("grpc.client_idle_timeout_ms", 20_000),
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]

HAS_LEADER = ("hasleader", "true")
"""Metadata that makes etcd end a stream when its member has no leader."""

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
"""Status codes of requests that etcd answered and did not carry out. With any other code it may have been."""

NEVER_SENT = ("failed to connect", "connections to all backends failing", "dns resolution failed")
"""Texts of UNAVAILABLE errors of requests that did not leave this process."""


FULL = "database space exceeded"
"""Text of the errors with which an etcd at its quota refuses puts and transactions."""

REJECTED = (
    "request is too large",
    "larger than max",
    "too many operations",
    "duplicate key given",
    "etcdserver: permission denied",
)
"""Texts of errors that are about what the request contains."""


class Endpoint:
    """One etcd member: its address, its channel and the stubs on the channel. `heard_at` is the loop time of its last
    answer of any kind; `typical` the typical time of an answer, in seconds; `doubted` is set when it should be checked
    at once. `answers_progress` is true once it has answered a request for progress, which a proxy does not."""

    def __init__(self, address: HostPort, credentials: grpc.ChannelCredentials | None) -> None:
        self.address = address
        self.heard_at = 0.0
        self.typical = 0.0
        self.doubted = asyncio.Event()
        self.answers_progress = False
        self.channel = (
            grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        )
        self.kv: Any = etcdrpc.KVStub(self.channel)
        self.lease: Any = etcdrpc.LeaseStub(self.channel)
        self.watch: Any = etcdrpc.WatchStub(self.channel)
        self.auth: Any = etcdrpc.AuthStub(self.channel)

    def answered(self, sent: float | None = None) -> None:
        """Note an answer, now; `sent` is the loop time at which its request was sent."""
        self.heard_at = asyncio.get_running_loop().time()
        if sent is not None:
            self.typical += (self.heard_at - sent - self.typical) / 8

    def is_silent(self, since: float) -> bool:
        """Return whether it has not answered anything since this loop time."""
        return self.heard_at < since


def spread(node: str) -> int:
    """Return the number, modulo the number of members, of the member that is this node's home. Nodes whose names differ
    in their last number have neighbouring homes; the salt spreads the nodes of the names that `pollcast up` gives."""
    match = re.fullmatch(r"(.*?)(\d*)", node)
    assert match is not None
    stem, number = match.groups()
    return zlib.crc32(b"a" + stem.encode()) % 1000 + int(number[-9:] or 0)


def in_order(addresses: Sequence[HostPort], node: str | None) -> list[HostPort]:
    """Return the members in the order in which this node uses them, its home first. Without a name it is random."""
    rest = sorted(set(addresses))
    home = rest.pop((random.randrange(10**6) if node is None else spread(node)) % len(rest))
    random.shuffle(rest)
    return [home, *rest]


def choose(present: int, answers: Mapping[int, float]) -> int:
    """Return the number of the member to use. `answers` has the time in which each member that answers did so, in
    seconds; home is number 0."""
    if not answers:
        return present
    best = min(answers, key=lambda member: (answers[member], member))
    if present not in answers or answers[present] > max(SLOW_SECONDS, MUCH_BETTER * answers[best]):
        present = best
    if 0 in answers and answers[0] <= answers[present] + ABOUT_AS_GOOD_SECONDS:
        return 0
    return present


class Endpoints:
    """The endpoints of one etcd cluster, the one in use, and the login that is valid on all of them. `moved` is set
    when the process should use another endpoint although the one it uses still answers."""

    def __init__(
        self, members: Sequence[Endpoint], user: str | None = None, password: Callable[[], str] | None = None
    ) -> None:
        self.moved = asyncio.Event()
        self._members = members  # home first
        self._current = 0
        self._user, self._password = user, password
        self._login = Login(self._authenticate) if user is not None and password is not None else None

    @staticmethod
    def from_settings(settings: EtcdSettings) -> Endpoints:
        """Create the channels; they connect on first use. Raises OSError when a TLS file cannot be read."""
        credentials = credentials_of(settings)
        password = settings.secret("etcd_password") if settings.etcd_password else None
        node = settings.node if isinstance(settings, ServiceSettings) else None
        members = [Endpoint(address, credentials) for address in in_order(settings.etcd, node)]
        return Endpoints(members, settings.etcd_user, password)

    @property
    def current(self) -> Endpoint:
        """The endpoint for the next request."""
        return self._members[self._current]

    async def close(self) -> None:
        """End the login and close every channel."""
        if self._login is not None:
            await self._login.close()
        for endpoint in self._members:
            await endpoint.channel.close()

    def leave(self, endpoint: Endpoint) -> None:
        """Make the next endpoint the current one, unless another task has done so already."""
        if self.current is endpoint:
            self._current = (self._current + 1) % len(self._members)

    def attempt_deadline(self, deadline: float, timeout: float) -> float:
        """Return the loop time at which to give up on a silent endpoint: half of the call's time is kept for the next,
        if there is one."""
        share = timeout / 2 if len(self._members) > 1 else timeout
        return min(deadline, asyncio.get_running_loop().time() + share)

    async def prepare_retry(
        self, error: Exception, attempt: int, deadline: float, endpoint: Endpoint, token: str | None
    ) -> None:
        """Return when a retry makes sense, perhaps on another endpoint. Raises the error's EtcdError when it does not:
        etcd refused the request, or no time is left before `deadline` (loop time). `token` is the one that the request
        was sent with."""
        now = asyncio.get_running_loop().time()
        if isinstance(error, grpc.aio.AioRpcError) and error.code() in DEFINITE:
            if not self.refused(token, error.details() or "") or attempt > MAX_LOGIN_RETRIES:
                raise to_etcd_error(error, endpoint) from None
            return
        endpoint.doubted.set()
        self.leave(endpoint)
        if now + RETRY_SECONDS >= deadline:
            raise to_etcd_error(error, endpoint) from None
        if attempt % len(self._members) == 0:
            await asyncio.sleep(RETRY_SECONDS)

    # --- login

    async def token(self) -> str | None:
        """Return the token for the next request, after logging in if need be; None when none is needed."""
        return None if self._login is None else await self._login.token()

    def refused(self, token: str | None, details: str) -> bool:
        """Note that etcd refused a request with this token. Return whether it may accept it with another."""
        return self._login is not None and self._login.refused(token, details)

    async def _authenticate(self, timeout: float) -> str:
        endpoint = self.current
        assert self._password is not None
        request = etcdrpc.AuthenticateRequest(name=self._user, password=self._password())
        try:
            response = await endpoint.auth.Authenticate(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() not in DEFINITE:
                self.leave(endpoint)
            raise
        endpoint.answered()
        return str(response.token)

    # --- the choice of the member

    async def review(self) -> NoReturn:
        """Move to a better member now and then, until cancelled."""
        while True:
            await asyncio.sleep(REVIEW_SECONDS * random.uniform(0.5, 1.5))
            if len(self._members) > 1 and (self._current != 0 or self.current.typical > SLOW_SECONDS):
                await self._move()

    async def _move(self) -> None:
        before = self._current
        times = await asyncio.gather(*map(self._probe, self._members))
        answers = {number: seconds for number, seconds in enumerate(times) if seconds is not None}
        if self._current == before:
            self._current = choose(before, answers)
        if self._current != before:
            self.moved.set()

    async def _probe(self, endpoint: Endpoint) -> float | None:
        """Return the time in which the member answers a read that needs the cluster's leader; None without one."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await endpoint.kv.Range(etcdrpc.RangeRequest(key=b"/", count_only=True), timeout=PROBE_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() not in DEFINITE:  # a refusal for want of a token is an answer, but not of the leader
                return None
        endpoint.answered(began)
        return loop.time() - began


def credentials_of(settings: EtcdSettings) -> grpc.ChannelCredentials | None:
    """Return the TLS credentials for channels to etcd; None without TLS. Raises OSError when a file cannot be read."""
    if settings.etcd_ca is None:
        return None
    return grpc.ssl_channel_credentials(
        settings.etcd_ca.read_bytes(),
        settings.etcd_key.read_bytes() if settings.etcd_key else None,
        settings.etcd_cert.read_bytes() if settings.etcd_cert else None,
    )


def metadata(token: str | None, *extra: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a request with this token."""
    return extra if token is None else (*extra, ("token", token))


def is_definite(error: grpc.aio.AioRpcError) -> bool:
    """Return whether the failed request was certainly not carried out."""
    details = (error.details() or "").lower()
    return error.code() in DEFINITE or (
        error.code() is grpc.StatusCode.UNAVAILABLE and any(text in details for text in NEVER_SENT)
    )


def to_etcd_error(error: Exception, endpoint: Endpoint) -> EtcdError:
    """Convert the error of a request that was not carried out, or did no harm if it was."""
    where = endpoint.address
    if not isinstance(error, grpc.aio.AioRpcError):
        return EtcdUnreachable(f"{where}: {str(error) or 'no answer in time'}")
    details = error.details() or ""
    if "requested lease not found" in details:
        return LeaseLost()
    if "compacted" in details:
        return Compacted(details)
    return _kind_of(error.code(), details)(f"{where}: {error.code().name}: {details}")


def _kind_of(code: grpc.StatusCode, details: str) -> type[EtcdRefused]:
    """Return the kind of a refusal by etcd, or of a request that did not reach it."""
    if code not in DEFINITE:
        return EtcdUnreachable
    if FULL in details:
        return EtcdFull
    return EtcdRejected if any(text in details for text in REJECTED) else EtcdRefused
