"""gRPC servers and channels, all alike: health, reflection, message limits, mutual TLS when it is set up.

`serve` is a scope: inside it the server answers; on leaving, it stops taking calls and gives those under way a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from pollcast.services.errors import CantListen, PollcastError
from pollcast.services.process import logs
from pollcast.services.process.settings import HostPort, ServiceSettings, is_loopback, join_host_port, split_host_port

log = logs.get_logger("rpc")

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
]

DRAIN_SECONDS = 1.0


@dataclass(frozen=True)
class RpcServer:
    host: str
    port: int
    health: health_aio.HealthServicer
    services: tuple[str, ...]

    async def set_serving(self, serving: bool) -> None:
        """What grpc.health.v1 answers for the server as a whole, and for each of its services by name."""
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
) -> AsyncIterator[RpcServer]:
    """Serves what each of `add` adds to the server; `services` are the full names for reflection. With TLS set up,
    peers must show a certificate of the CA, unless this is not `for_services`: LiveQuery asks for tokens. CantListen
    when the address is taken."""
    server = grpc.aio.server(options=[*OPTIONS, ("grpc.so_reuseport", 0)])
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
                log.warning("gRPC is open to whoever reaches it: set POLLCAST_TLS_CERT, _KEY and _CA", address=address)
            bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise CantListen(f"can't serve gRPC on {address}: {error}") from None
    await server.start()
    try:
        serving = RpcServer(host, bound, health, names)
        await serving.set_serving(True)
        yield serving
    finally:
        await health.enter_graceful_shutdown()
        await server.stop(DRAIN_SECONDS)


def channel(address: HostPort, settings: ServiceSettings) -> grpc.aio.Channel:
    """A channel to another service of the cluster. One that can't connect fails its calls at once (UNAVAILABLE)."""
    options = [
        *OPTIONS,
        ("grpc.min_reconnect_backoff_ms", 1_000),  # how long one try to connect may take: else a lost SYN costs 20 s
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    if settings.tls_ca is None:
        return grpc.aio.insecure_channel(address, options=options)
    assert settings.tls_cert is not None
    assert settings.tls_key is not None
    credentials = grpc.ssl_channel_credentials(
        settings.tls_ca.read_bytes(), settings.tls_key.read_bytes(), settings.tls_cert.read_bytes()
    )
    return grpc.aio.secure_channel(address, credentials, options=options)


@contextlib.contextmanager
def heeding_cancellation() -> Iterator[None]:
    """Around what a task awaits of a stream. grpc.aio starts a stream in a task of its own; a cancellation of whoever
    awaits that one is taken by it and goes no further. It cancels the call, so that the reader hears of it then, unless
    the call ends by itself at that moment: that end is the cancellation here."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        yield
    except (grpc.aio.AioRpcError, TimeoutError):
        if task.cancelling() > before:
            raise asyncio.CancelledError from None
        raise
    if task.cancelling() > before:
        raise asyncio.CancelledError


def _server_credentials(settings: ServiceSettings, *, mutual: bool) -> grpc.ServerCredentials:
    assert settings.tls_cert is not None
    assert settings.tls_key is not None
    assert settings.tls_ca is not None
    pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
    ca = settings.tls_ca.read_bytes() if mutual else None
    return grpc.ssl_server_credentials([pair], ca, require_client_auth=mutual)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: PollcastError) -> NoReturn:
    """Ends the call with the status, reason and detail of the error (CONTRACT.md §6)."""
    await context.abort(grpc.StatusCode[error.grpc], f"{error.reason}: {error.detail}")
