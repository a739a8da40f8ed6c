"""HTTP servers of all services. The caller owns the socket and decides when the server stops.

`serve_app` is a scope: the app answers inside it, at an address that is bound first of all; on leaving, the server
accepts no more connections, closes the open ones (WebSockets with 1012) and returns. uvicorn handles no signals:
services/process/lifecycle.py does. serving.http_guard refuses slow and oversized requests, and serving.lobby bounds the
number of connections. `service_app` is the app of services without a user interface: health checks and metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import prometheus_client
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pollcast.services.errors import CantListen, unwrapped
from pollcast.services.process import descriptors
from pollcast.services.process.addresses import HostPort, is_unspecified, split_host_port
from pollcast.services.serving.http_guard import GuardedHttp
from pollcast.services.serving.lobby import Lobby

BACKLOG = 2048
"""Maximum number of connections that wait to be accepted."""

RECEIVE_BYTES = 16 * 1024
"""Size of the kernel's buffer for what a peer sends; Linux doubles it.

One read takes up to a whole buffer, which is 256 KB for a peer that floods by default. What is read of a peer that does
not take its answers has to be held until it does.
"""

# Otherwise every counter would have a second series with the time of its creation.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

ReadinessCheck = Callable[[], tuple[bool, dict[str, object]]]
"""A health check: it returns whether the process is healthy (200, else 503) and the JSON body of the answer."""


class Server(uvicorn.Server):
    """uvicorn's server without signal handling, and with an event that is set once it serves.

    Even when it is cancelled, it stops listening before the caller closes the socket: an event loop keeps watching a
    closed socket, and then misses the events of the next socket with the same number.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = asyncio.Event()
        self.servers = []

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `should_exit` is set."""
        try:
            await super().serve(sockets)
        finally:
            for each in self.servers:
                each.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve and set `serving`."""
        await super().startup(sockets)
        self.serving.set()


def resolve(address: HostPort) -> tuple[socket.AddressFamily, tuple[Any, ...], bool]:
    """Return the family and the socket address to listen on, and whether that is every address, IPv4 and IPv6.

    A name is served on its IPv4 address if it has one of this machine, else on its IPv6 address. Raises OSError when it
    has neither.
    """
    host, port = split_host_port(address)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    found.sort(key=lambda each: each[0] != socket.AF_INET)
    family, _, _, _, where = next((each for each in found if _is_own(each[0], each[4])), found[0])
    both = family == socket.AF_INET6 and is_unspecified(str(where[0])) and socket.has_dualstack_ipv6()
    return family, where, both


def _is_own(family: socket.AddressFamily, where: tuple[Any, ...]) -> bool:
    """Return whether an address is one of this machine, whose `localhost` may lead to a 127.0.0.1 that it lacks."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((where[0], 0, *where[2:]))
    except OSError:
        return False
    return True


def cant_serve(address: HostPort, error: OSError) -> CantListen:
    """Return the error of an address for HTTP that cannot be bound, with what to set where it is not this machine's."""
    if error.errno == errno.EADDRNOTAVAIL:
        _, port = split_host_port(address)
        reason = f"this machine has no such address. Set POLLCAST_HTTP to one of its own, or to [::]:{port} for all"
    else:
        known = error.errno in errno.errorcode and not isinstance(error, socket.gaierror)
        reason = os.strerror(error.errno or 0) if known else error.strerror or str(error)
    return CantListen(f"can't serve HTTP on {address}: {reason}")


def bind(address: HostPort, *, shared: bool = False) -> socket.socket:
    """Return a listening TCP socket; port 0 lets the system choose.

    A `shared` address may have other shared listeners, and each connection goes to one of them. `[::]` takes IPv4 as
    well. Raises CantListen when the address is in use or not one of this machine.
    """
    try:
        family, where, both = resolve(address)
        listener = socket.create_server(
            where,
            family=family,
            backlog=BACKLOG,
            reuse_port=shared,
            dualstack_ipv6=both and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise cant_serve(address, error) from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    return listener


def address_of(listener: socket.socket) -> tuple[str, int]:
    """Return the host and the port that a socket is bound to."""
    host, port, *_ = listener.getsockname()
    return host, port


@contextlib.asynccontextmanager
async def serve_app(
    app: ASGIApp,
    address: HostPort | socket.socket,
    protocol: Callable[..., asyncio.Protocol] = GuardedHttp,
    capacity: int | None = None,
) -> AsyncIterator[tuple[str, int]]:
    """Serve the app at `host:port`, or on a socket from `bind`, and yield the host and the port that are bound.

    `protocol` makes the protocol of each connection from uvicorn's arguments and `lobby`. `capacity` is the maximum
    number of connections; by default half of those that the limit of open files allows. Raises CantListen when the
    address cannot be bound. An error of the body is raised as it is, not inside a group.
    """
    lobby = Lobby(capacity or descriptors.half_within(descriptors.limit()), time.monotonic)
    given: dict[str, Any] = {"lifespan": "off", "log_config": None, "access_log": False, "backlog": BACKLOG}
    given |= {"http": functools.partial(protocol, lobby=lobby), "ws": "none"}  # handshakes are the protocol's own
    given |= {"timeout_graceful_shutdown": 2, "server_header": False}
    with bind(address) if isinstance(address, str) else contextlib.nullcontext(address) as listener:
        server = Server(uvicorn.Config(app, **given))
        try:
            async with asyncio.TaskGroup() as tasks:
                deadlines = tasks.create_task(lobby.run(), name="lobby")
                serving = tasks.create_task(server.serve(sockets=[listener]), name="uvicorn")
                serving.add_done_callback(lambda _: deadlines.cancel())
                try:
                    await server.serving.wait()
                    yield address_of(listener)
                finally:
                    server.should_exit = True
        except BaseExceptionGroup as group:
            raise unwrapped(group) from None


def service_app(healthz: ReadinessCheck, readyz: ReadinessCheck) -> Starlette:
    """Return an app with `/healthz`, `/readyz` and `/metrics` (docs/reference/http.md#health)."""
    return Starlette(routes=[*health_routes(healthz, readyz), Route("/metrics", metrics)])


def health_routes(
    healthz: ReadinessCheck, readyz: ReadinessCheck, asked: Callable[[str], None] = lambda _: None
) -> list[Route]:
    """Return the routes `/healthz` and `/readyz`. `asked` is called with each host that asks for the latter."""
    return [Route("/healthz", _endpoint(healthz, lambda _: None)), Route("/readyz", _endpoint(readyz, asked))]


def _endpoint(check: ReadinessCheck, asked: Callable[[str], None]) -> Callable[[Request], Any]:
    """Return an endpoint that answers with the result of the check."""

    async def answer(request: Request) -> Response:
        asked("" if request.client is None else request.client.host)
        healthy, body = check()
        return JSONResponse(body, status_code=200 if healthy else 503)

    return answer


async def metrics(_: Request) -> Response:
    """Answer with the process's metrics in Prometheus' text format (docs/reference/http.md#metrics)."""
    return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)
