"""Serving HTTP: the caller owns the socket and the stop.

`serve_app` is a scope: inside it the app answers on an address that is bound before anything else; on leaving it
takes no more connections, closes those there are (WebSockets with 1012) and returns. uvicorn's own signal handling
is off: services/process/lifecycle.py owns signals. Slow and oversized requests are refused (serving.http_guard).
`service_app` is what services without a user interface answer: health checks and metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
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
from pollcast.services.process.settings import HostPort, split_host_port
from pollcast.services.serving.http_guard import GuardedHttp

BACKLOG = 2048

# They would be a second series beside each counter, which says when it began.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

ReadinessCheck = Callable[[], tuple[bool, dict[str, object]]]
"""Whether it is well (200 or 503), and what the body says about it."""


class Server(uvicorn.Server):
    """uvicorn without signals, which says when it has started. Also when it is cancelled, it stops to listen before the
    caller closes the socket: a loop goes on watching a socket that is closed under it, and is blind for the next one of
    that number."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = asyncio.Event()
        self.servers = []

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            for each in self.servers:
                each.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()


def bind(address: HostPort) -> socket.socket:
    """A listening TCP socket; port 0 lets the system choose. CantListen when the address is taken or not ours."""
    host, port = split_host_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise CantListen(f"can't serve HTTP on {address}: {error.strerror or error}") from None


def address_of(listener: socket.socket) -> tuple[str, int]:
    """The host and the port that a socket is bound to."""
    host, port, *_ = listener.getsockname()
    return host, port


@contextlib.asynccontextmanager
async def serve_app(
    app: ASGIApp, address: HostPort | socket.socket, **uvicorn_config: Any
) -> AsyncIterator[tuple[str, int]]:
    """Serves the app on `host:port`, or on a socket from `bind`, and yields the host and the port that are bound.
    `uvicorn_config` goes to uvicorn.Config. CantListen when the address can't be bound."""
    given: dict[str, Any] = {"lifespan": "off", "log_config": None, "access_log": False, "backlog": BACKLOG}
    given |= {"http": GuardedHttp, "timeout_graceful_shutdown": 2, "server_header": False} | uvicorn_config
    with bind(address) if isinstance(address, str) else contextlib.nullcontext(address) as listener:
        server = Server(uvicorn.Config(app, **given))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(server.serve(sockets=[listener]), name="uvicorn")
                try:
                    await server.serving.wait()
                    yield address_of(listener)
                finally:
                    server.should_exit = True
        except BaseExceptionGroup as group:
            raise unwrapped(group) from None


def service_app(healthz: ReadinessCheck, readyz: ReadinessCheck) -> Starlette:
    """`/healthz`, `/readyz` and `/metrics`."""
    return Starlette(routes=[*health_routes(healthz, readyz), Route("/metrics", metrics)])


def health_routes(healthz: ReadinessCheck, readyz: ReadinessCheck) -> list[Route]:
    return [Route("/healthz", _endpoint(healthz)), Route("/readyz", _endpoint(readyz))]


def _endpoint(check: ReadinessCheck) -> Callable[[Request], Any]:
    async def answer(_: Request) -> Response:
        well, body = check()
        return JSONResponse(body, status_code=200 if well else 503)

    return answer


async def metrics(_: Request) -> Response:
    """Prometheus' text format."""
    return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)
