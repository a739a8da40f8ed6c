"""HTTP on a gateway (CONTRACT.md §5) and the WebSocket handshake (§4): a Starlette application around the hub.

Errors are JSON `{"reason","detail"}`, which a page of an allowed Origin may read. The WebSocket endpoint checks who is
there, accepts, attaches a Socket to the connection and returns; the rest is `pollcast.gateway.channels`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from pollcast.gateway import metrics, phoenix
from pollcast.gateway.admission import Admission
from pollcast.gateway.cluster_view import ClusterView
from pollcast.gateway.follower import DeltaEvent, TopicEvent, first_result, following
from pollcast.gateway.handshake import SCOPE_KEY, Handshake
from pollcast.gateway.history import Result
from pollcast.gateway.identity import Authenticator, Identity
from pollcast.gateway.origin import OriginPolicy
from pollcast.gateway.page import Page
from pollcast.gateway.sockets import Sockets
from pollcast.gateway.version import Version
from pollcast.services.auth import tokens as auth
from pollcast.services.catalogue import topics
from pollcast.services.coordination.node import Readiness
from pollcast.services.errors import Draining, Forbidden, PollcastError

PREFLIGHT = {
    "access-control-allow-methods": "GET",
    "access-control-allow-headers": "authorization, last-event-id",
    "access-control-max-age": "600",
}

COMMENT_SECONDS = 15.0
"""A silent event stream says so as often, so that proxies keep it and a dead peer is noticed."""


class GatewayApp:
    """What the routes need."""

    def __init__(
        self,
        sockets: Sockets,
        authenticator: Authenticator,
        origins: OriginPolicy,
        admission: Admission,
        readiness: Readiness,
        page: Page,
        cluster: ClusterView,
    ) -> None:
        self.sockets = sockets
        self.hub = sockets.context.hub
        self.catalog = sockets.context.catalog
        self.limits = sockets.context.limits
        self.authenticator = authenticator
        self.origins = origins
        self.admission = admission
        self.readiness = readiness
        self.page = page
        self.cluster = cluster
        metrics.SOCKETS.set_function(lambda: len(sockets))
        metrics.SUBSCRIPTIONS.set_function(lambda: sum(live.clients for live in self.hub.topics.values()))

    def app(self) -> Starlette:
        routes: list[BaseRoute] = [
            Route("/live/{query:path}", self.live),
            Route("/live/{query:path}", self.preflight, methods=["OPTIONS"]),
            Route("/api/queries", self.queries),
            Route("/api/queries", self.preflight, methods=["OPTIONS"]),
            Route("/api/cluster", self.show_cluster),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
            WebSocketRoute("/socket/websocket", self.websocket),
            WebSocketRoute("/{path:path}", _no_socket),
            *self.page.routes(),
        ]
        return Starlette(
            routes=routes,
            exception_handlers={PollcastError: self._error_response, HTTPException: _http_error_response},
        )

    # --- live results -----------------------------------------------------------------------------------------

    async def live(self, request: Request) -> Response:
        self._check_origin(request)
        if self.readiness.draining:
            raise Draining()
        raw = request.scope["query_string"].decode("latin-1")
        identity = self.authenticator.identify(auth.from_header(request.headers.get("authorization")) or _token(raw))
        query = self.catalog.query(request.path_params["query"])
        if "token" not in query.params:
            raw = _without_token(raw)
        topic = topics.parse(f"{query.name}?{raw}", self.catalog, identity.values)
        topics.check_roles(query, identity.roles)
        headers = _cors(request) | {"cache-control": "no-store", "vary": "Accept, Origin"}
        if "text/event-stream" not in ",".join(request.headers.getlist("accept")).lower():
            with self.admission.seat():
                result = await first_result(self.hub, topic)
            return Response(result.payload, media_type="application/json", headers=headers)
        since = Version.parse(request.headers.get("last-event-id", ""))
        headers |= {"x-accel-buffering": "no"}
        if request.method == "HEAD":  # there is no body, and thereby no end to wait for
            head = Response(media_type=EventStream.media_type, headers=headers)
            del head.headers["content-length"]
            return head
        lifetime = identity.lifetime(time.time() - self.limits.expiry_grace_seconds)
        return EventStream(self._events(topic, since, lifetime), self.admission, headers=headers)

    async def _events(
        self, topic: topics.Topic, since: Version | None, lifetime: float | None
    ) -> AsyncGenerator[bytes, None]:
        yield b": ok\n\n"
        known = since
        with following(self.hub, topic, since=since, lifetime=lifetime) as follower:
            async with aclosing(follower.events(COMMENT_SECONDS)) as events:
                async for event in events:
                    if event is None:
                        yield b": still here\n\n"
                        continue
                    if isinstance(event, Result):
                        known = event.version
                    elif isinstance(event, DeltaEvent):
                        known = event.entry.version
                    yield server_sent(event, known)

    # --- the rest ---------------------------------------------------------------------------------------------

    async def queries(self, request: Request) -> Response:
        self._identify(request)
        body = {"queries": [query.public() for query in self.catalog.queries.values()]}
        return _json(body, headers=_cors(request))

    async def show_cluster(self, request: Request) -> Response:
        return _json(await self.cluster.show(self._identify(request)))

    async def healthz(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        ready, body = self.readiness.answer()
        return _json(body, status=200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def websocket(self, websocket: WebSocket) -> None:
        try:
            self._check_origin(websocket)
            if websocket.query_params.get("vsn") != phoenix.VSN:
                raise Forbidden(f"this server speaks vsn={phoenix.VSN} only")
            offered = websocket.scope["subprotocols"]
            token = auth.bearer_from_subprotocols(offered) or websocket.query_params.get("token")
            try:
                identity = self.authenticator.identify(token)
            except PollcastError as error:
                raise Forbidden(error.detail) from None
            if self.readiness.draining:
                raise Draining()
            with self.admission.seat():
                await websocket.accept(subprotocol="phoenix" if "phoenix" in offered else None)
                handshake = cast(Handshake, websocket.scope["extensions"][SCOPE_KEY])
                handshake.attach(lambda wire: self.sockets.open(wire, identity))
        except PollcastError as error:
            await websocket.send_denial_response(_error_json(error))

    def _identify(self, request: Request) -> Identity:
        """Who asks. Raises Forbidden for a page of somebody else, Unauthorized."""
        self._check_origin(request)
        token = auth.from_header(request.headers.get("authorization")) or _token(request.url.query or "")
        return self.authenticator.identify(token)

    def _check_origin(self, connection: HTTPConnection) -> None:
        """Raises Forbidden for a page of somebody else."""
        self.origins.check(connection.headers.get("origin"), connection.headers.get("host", ""))

    async def preflight(self, request: Request) -> Response:
        """A browser asks before it sends a token's header to another Origin."""
        self._check_origin(request)
        return Response(status_code=204, headers=_cors(request) | PREFLIGHT)

    async def _error_response(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, PollcastError)
        headers = {} if error.http != 401 else {"www-authenticate": "Bearer"}
        if self.origins.allow_origin(request.headers.get("origin"), request.headers.get("host", "")):
            headers |= _cors(request)
        return _error_json(error, headers)


class EventStream(Response):
    """Streams until the events end or the client goes, whichever is first, and closes the events at once."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], admission: Admission, headers: dict[str, str]) -> None:
        super().__init__(headers=headers)
        self._admission = admission
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._admission.seat():
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._until_over(receive, send)

    async def _until_over(self, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as group:
            streaming = group.create_task(self._stream(send))
            gone = group.create_task(_until_disconnected(receive))
            await asyncio.wait([streaming, gone], return_when=asyncio.FIRST_COMPLETED)
            streaming.cancel()
            gone.cancel()

    async def _stream(self, send: Send) -> None:
        async with aclosing(self._events):
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _no_socket(websocket: WebSocket) -> None:
    body = {"reason": "not_found", "detail": "WebSockets are served on /socket/websocket"}
    await websocket.send_denial_response(_json(body, status=404))


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def server_sent(event: TopicEvent, known: Version | None) -> bytes:
    """One server-sent event; `known` is the version that the client has after it."""
    if isinstance(event, Result):
        name, payload = b"snapshot", event.payload
    elif isinstance(event, DeltaEvent):
        name, payload = b"delta", event.entry.payload(event.base)
    else:
        name, payload = b"status", event.payload()
    identifier = b"id: %b\n" % str(known).encode() if known is not None else b""
    # JSON may hold line breaks as white space (a json column keeps its own): each line is a data line then.
    data = b"".join(b"data: %b\n" % line for line in re.split(rb"\r\n|\r|\n", payload))
    return b"event: %b\n%b%b\n" % (name, identifier, data)


def _token(raw: str) -> str | None:
    for pair in raw.split("&"):
        name, _, value = pair.partition("=")
        if name == "token":
            return value
    return None


def _without_token(raw: str) -> str:
    return "&".join(pair for pair in raw.split("&") if pair.partition("=")[0] != "token")


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json", headers=headers)


def _cors(request: Request) -> dict[str, str]:
    """For a page of an allowed Origin, which the check has let through."""
    origin = request.headers.get("origin")
    return {"access-control-allow-origin": origin, "vary": "Origin"} if origin else {}


def _error_json(error: PollcastError, headers: dict[str, str] | None = None) -> Response:
    return _json({"reason": error.reason, "detail": error.detail}, status=error.http, headers=headers)


async def _http_error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    headers = dict(error.headers or {})  # `Allow`, with 405
    return _json({"reason": reason, "detail": error.detail}, status=error.status_code, headers=headers)
