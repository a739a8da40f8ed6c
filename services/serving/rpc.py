"""gRPC servers and channels of all services: health, reflection, message limits, and mutual TLS if it is configured.

`serve` is a scope: the server answers inside it; on leaving, it accepts no more calls and gives running calls
DRAIN_SECONDS to end (docs/reference/grpc.md#health-and-reflection).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from pollcast.services.errors import CantListen, PollcastError
from pollcast.services.process import descriptors, logs
from pollcast.services.process.addresses import HostPort, is_loopback, join_host_port, split_host_port
from pollcast.services.process.settings import ServiceSettings

log = logs.get_logger("rpc")

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Maximum size of a message between services, in bytes."""

SIZES: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
]
"""Options of servers and channels that limit the size of a message."""

# In gRPC's core "keepalive_timeout" is the TCP_USER_TIMEOUT of the socket, and nothing else: the kernel gives up a
# connection whose peer has not acknowledged anything, or has had no room for more, for that long. A ping that is not
# answered is "ping_timeout", which a process that stands still, or an answer behind much data, may exceed.
PATIENT: list[tuple[str, int | str]] = [
    *SIZES,
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 180_000),
    ("grpc.http2.ping_timeout_ms", 180_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
]
"""Options of a server: it gives up a client that has taken nothing for 3 minutes, or is gone, and never a slow one.

A peer that does not speak HTTP/2 within 10 s is closed, and so is one that has had no call for 5 minutes: it connects
again for its next one by itself.
"""

# gRPC asks for a name again whenever connecting fails, but by default not within 30 s of the last time; and it waits up
# to 2 minutes for a name server that does not answer.
MOVING_NAMES: list[tuple[str, int | str]] = [
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    ("grpc.dns_ares_query_timeout", 2_000),
]
"""Options of a channel that finds a server which is back under its name with another address: while it cannot connect,
it asks for the name twice a second at most."""

VIGILANT: list[tuple[str, int | str]] = [
    *SIZES,
    *MOVING_NAMES,
    ("grpc.enable_http_proxy", 0),  # services reach each other directly, whatever http_proxy says
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # This one is the timeout of connecting as well: a lost SYN would cost 20 s otherwise.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A new channel to an address is a new connection, even while a former one is being closed.
    ("grpc.use_local_subchannel_pool", 1),
]
"""Options of a channel between services: a ping every 2 s, which the peer's kernel acknowledges, so that a dead link is
given up within 7 s and a slow one never. A peer that stands still is noticed by the silence of its streams."""

GREETING = ("pollcast-feed", "1")
"""Metadata with which a poller answers a gateway's stream at once, so that the gateway knows a poller from any other
server at its address, such as the proxy of a mesh (docs/reference/grpc.md#feed)."""

DRAIN_SECONDS = 1.0
"""Time that running calls have to end when a server stops."""


REFUSING_SECONDS = 3600.0
"""Maximum time for which a server refuses new calls before it stops."""


@dataclass(frozen=True)
class RpcServer:
    """A running gRPC server."""

    host: str
    port: int
    health: health_aio.HealthServicer
    services: tuple[str, ...]
    """Full names of its services."""
    server: grpc.aio.Server

    @contextlib.asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """Refuse new calls inside the scope, and stop the server on leaving; calls that run go on until then.

        Clients learn at once that their connections take no more calls (GOAWAY) and connect anew for the next. Without
        this, a client that calls while the server stops gets CANCELLED, after which nobody tries again.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.server.stop(REFUSING_SECONDS))
            yield
            await self.server.stop(DRAIN_SECONDS)  # the shorter of both times counts

    async def set_serving(self, serving: bool) -> None:
        """Set the answer of grpc.health.v1 for the server as a whole and for each of its services."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self.services):
            await self.health.set(name, status)


@contextlib.asynccontextmanager
async def serve(
    settings: ServiceSettings,
    add: Iterable[Callable[[grpc.aio.Server], None]],
    services: Iterable[str],
    *,
    for_services: bool = True,
    capacity: int | None = None,
) -> AsyncIterator[RpcServer]:
    """Serve gRPC at the settings' address: each of `add` adds a servicer, `services` are the full names for reflection.

    With TLS, peers must have a certificate of the CA; a server that is not `for_services` asks for none, as clients
    authenticate with tokens there. `capacity` is the maximum number of connections, beyond which they are closed at
    once; by default half of those that the limit of open files allows. Raises CantListen when the address cannot be
    bound.
    """
    most = capacity or descriptors.half_within(descriptors.limit())
    server = grpc.aio.server(
        options=[*PATIENT, ("grpc.so_reuseport", 0), ("grpc.max_allowed_incoming_connections", most)]
    )
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    for each in add:
        each(server)
    names = (*services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    host, port = split_host_port(settings.grpc)
    address = join_host_port(host, port)
    try:
        if settings.tls_cert is not None:
            bound = server.add_secure_port(address, _server_credentials(settings, mutual=for_services))
        else:
            if not is_loopback(address):
                log.warning("gRPC is open to any peer: set POLLCAST_TLS_CERT, _KEY and _CA", address=address)
            bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise CantListen(f"can't serve gRPC on {address}: {error}") from None
    await server.start()
    try:
        serving = RpcServer(host, bound, health, names, server)
        await serving.set_serving(True)
        yield serving
    finally:
        await health.enter_graceful_shutdown()
        await server.stop(DRAIN_SECONDS)


def channel(address: HostPort, settings: ServiceSettings) -> grpc.aio.Channel:
    """Return a channel to another service of the cluster. Its calls fail at once (UNAVAILABLE) if it cannot connect."""
    if settings.tls_ca is None:
        return grpc.aio.insecure_channel(address, options=VIGILANT)
    assert settings.tls_cert is not None
    assert settings.tls_key is not None
    credentials = grpc.ssl_channel_credentials(
        settings.tls_ca.read_bytes(), settings.tls_key.read_bytes(), settings.tls_cert.read_bytes()
    )
    return grpc.aio.secure_channel(address, credentials, options=VIGILANT)


def _server_credentials(settings: ServiceSettings, *, mutual: bool) -> grpc.ServerCredentials:
    """Return a server's TLS credentials. `mutual` requires a certificate of the CA from peers."""
    assert settings.tls_cert is not None
    assert settings.tls_key is not None
    assert settings.tls_ca is not None
    pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
    ca = settings.tls_ca.read_bytes() if mutual else None
    return grpc.ssl_server_credentials([pair], ca, require_client_auth=mutual)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: PollcastError) -> NoReturn:
    """End the call with the status, reason and detail of the error (docs/reference/grpc.md#status-codes)."""
    await context.abort(grpc.StatusCode[error.grpc], f"{error.reason}: {error.detail}")
