"""The members of an etcd cluster as a client sees them: one channel each, failover, login, and the meaning of errors.

Requests go to the endpoint that answered last; one that is gone, frozen or without a leader is left for the next.
A request can fail in two ways (cf. jepsen-io/etcd): definitely (etcd refused it, or it was never sent) or indefinitely
(no response: it may have been carried out). `is_definite` distinguishes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from etcd3 import etcdrpc

from pollcast.services.errors import (
    Compacted,
    EtcdError,
    EtcdFull,
    EtcdRefused,
    EtcdRejected,
    EtcdUnreachable,
    LeaseLost,
)
from pollcast.services.process.settings import EtcdSettings, HostPort

RETRY_SECONDS = 0.05
"""Pause after every endpoint was tried once, in seconds."""

LOGIN_SECONDS = 2.0
"""Deadline of an Authenticate call, in seconds."""

MAX_LOGIN_RETRIES = 2
"""Maximum number of times that one call is repeated with a new token."""

# A frozen member is detected by the deadlines of calls and watches. Keep-alive pings only close its connections: etcd
# itself closes connections that ping more often than every 5 s (--grpc-keepalive-min-time).
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

TOKEN_REFUSED = ("invalid auth token", "revision of auth store is old", "user name is empty")
"""Texts of errors that a new login may repair."""


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
    """One etcd member: its address, its channel and the stubs on the channel."""

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


class Endpoints:
    """The endpoints of one etcd cluster, the one in use, and the login token that is valid on all of them."""

    def __init__(self, members: Sequence[Endpoint], user: str | None = None, password: str | None = None) -> None:
        self._members = members
        self._current = 0
        self._login = (user, password) if user is not None and password is not None else None
        self._token: str | None = None

    @staticmethod
    def from_settings(settings: EtcdSettings) -> Endpoints:
        """Create the channels; they connect on first use. Raises OSError when a TLS file cannot be read."""
        credentials = None
        if settings.etcd_ca is not None:
            credentials = grpc.ssl_channel_credentials(
                settings.etcd_ca.read_bytes(),
                settings.etcd_key.read_bytes() if settings.etcd_key else None,
                settings.etcd_cert.read_bytes() if settings.etcd_cert else None,
            )
        password = settings.etcd_password.get_secret_value() if settings.etcd_password else None
        members = [Endpoint(address, credentials) for address in settings.etcd]
        return Endpoints(members, settings.etcd_user, password)

    @property
    def current(self) -> Endpoint:
        """The endpoint for the next request."""
        return self._members[self._current]

    async def close(self) -> None:
        """Close every channel."""
        for endpoint in self._members:
            await endpoint.channel.close()

    def leave(self, endpoint: Endpoint) -> None:
        """Make the next endpoint the current one, unless another task has done so already."""
        if self.current is endpoint:
            self._current = (self._current + 1) % len(self._members)

    def attempt_deadline(self, deadline: float, timeout: float) -> float:
        """Return the loop time at which to give up on a silent endpoint, so that each has a turn before `deadline`."""
        return min(deadline, asyncio.get_running_loop().time() + timeout / len(self._members))

    async def prepare_retry(self, error: Exception, attempt: int, deadline: float, endpoint: Endpoint) -> None:
        """Return when a retry makes sense, perhaps on another endpoint. Raises the error's EtcdError when it does not:
        etcd refused the request, or no time is left before `deadline` (loop time)."""
        now = asyncio.get_running_loop().time()
        if isinstance(error, grpc.aio.AioRpcError) and error.code() in DEFINITE:
            if not self.forget_token(error.details() or "") or attempt > MAX_LOGIN_RETRIES:
                raise to_etcd_error(error, endpoint) from None
            return
        self.leave(endpoint)
        if now + RETRY_SECONDS >= deadline:
            raise to_etcd_error(error, endpoint) from None
        if attempt % len(self._members) == 0:
            await asyncio.sleep(RETRY_SECONDS)

    async def metadata(self, *extra: tuple[str, str]) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a request; log in first when a user is set up and no token is known."""
        if self._login is None:
            return extra
        if self._token is None:
            user, password = self._login
            request = etcdrpc.AuthenticateRequest(name=user, password=password)
            response = await self.current.auth.Authenticate(request, timeout=LOGIN_SECONDS)
            self._token = str(response.token)
        return (*extra, ("token", self._token))

    def forget_token(self, details: str) -> bool:
        """Forget the token when the error `details` blame it. Return whether a new login may help."""
        if self._login is not None and any(text in details for text in TOKEN_REFUSED):
            self._token = None
            return True
        return False


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
