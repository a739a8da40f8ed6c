"""HTTP on a gateway (docs/reference/http.md), except for WebSockets, which enter through `pollcast.gateway.door`.

It is a Starlette application around the hub. Errors are JSON `{"reason","detail"}`, which a page of an allowed Origin
may read.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from pollcast.gateway import metrics
from pollcast.gateway.admission import Admission
from pollcast.gateway.cluster_overview import ClusterOverview
from pollcast.gateway.conditional import Condition, etag
from pollcast.gateway.csv_text import csv_text
from pollcast.gateway.departure import Departure
from pollcast.gateway.entrance import foreign_page
from pollcast.gateway.event_stream import EventStream, EventStreams, retry_field
from pollcast.gateway.follower import another_result
from pollcast.gateway.identity import Authenticator, Identity
from pollcast.gateway.longpoll import LongPoll
from pollcast.gateway.negotiation import form
from pollcast.gateway.openapi_endpoint import OpenApi
from pollcast.gateway.origin import OriginPolicy
from pollcast.gateway.page import Page
from pollcast.gateway.pokes import Pokes
from pollcast.gateway.prefix import BelowPrefix
from pollcast.gateway.responses import (
    cors_headers,
    error_response,
    http_error_response,
    json_response,
    preflight_headers,
    token_in_query,
    topic_tail,
)
from pollcast.gateway.row_schemas import RowSchemas
from pollcast.gateway.sockets import Sockets
from pollcast.gateway.version import Version
from pollcast.gateway.worker_metrics import WorkerMetrics
from pollcast.services.auth import tokens as auth
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.topics import Topic
from pollcast.services.coordination.node import Readiness, healthz
from pollcast.services.errors import Draining, Forbidden, PollcastError, TopicTooLong
from pollcast.services.serving import web
from pollcast.services.serving.http_guard import TARGET
from pollcast.services.serving.refusals import refused


class GatewayApp:
    """The endpoints of a gateway, and the objects that they need."""

    def __init__(
        self,
        sockets: Sockets,
        streams: EventStreams,
        authenticator: Authenticator,
        origins: OriginPolicy,
        admission: Admission,
        readiness: Readiness,
        departure: Departure,
        page: Page,
        cluster: ClusterOverview,
        pokes: Pokes,
        longpoll: LongPoll,
        metrics_of_workers: WorkerMetrics | None = None,
    ) -> None:
        self.sockets = sockets
        self.streams = streams
        self.hub = sockets.context.hub
        self.catalogue = sockets.context.catalogue
        self.authenticator = authenticator
        self.origins = origins
        self.admission = admission
        self.readiness = readiness
        self.departure = departure
        self.page = page
        self.cluster = cluster
        self.pokes = pokes
        self._rows = RowSchemas(lambda: self.hub.feeds.stubs)
        self.described = OpenApi(None, self._rows, tokens=authenticator.required)
        self.longpoll = longpoll
        self._metrics = web.metrics if metrics_of_workers is None else metrics_of_workers.answer
        metrics.SOCKETS.set_function(lambda: len(sockets))
        metrics.SUBSCRIPTIONS.set_function(lambda: sum(live.clients for live in self.hub.topics.values()))

    @property
    def catalog(self) -> Catalog:
        """The catalogue in force."""
        return self.catalogue.catalog

    def app(self, prefix: str | None = None) -> ASGIApp:
        """Return the ASGI application, which is served below the prefix as well if there is one."""
        self.described = OpenApi(prefix, self._rows, tokens=self.authenticator.required)
        routes: list[BaseRoute] = [
            Route("/live/{query:path}", self.live),
            Route("/live/{query:path}", self.preflight, methods=["OPTIONS"]),
            Route("/poke/{query:path}", self.poke, methods=["POST"]),
            Route("/poke/{query:path}", self.preflight_poke, methods=["OPTIONS"]),
            Route("/api/queries", self.queries),
            Route("/api/queries", self.preflight, methods=["OPTIONS"]),
            Route("/openapi.json", self.openapi),
            Route("/openapi.json", self.preflight, methods=["OPTIONS"]),
            Route("/api/cluster", self.show_cluster),
            *web.health_routes(healthz, self.readiness.answer, self.departure.asked),
            Route("/metrics", self._metrics),
            *self.longpoll.routes(),
            *self.page.routes(),
        ]
        app = Starlette(
            routes=routes,
            exception_handlers={PollcastError: self._error_response, HTTPException: http_error_response},
        )
        app.router.redirect_slashes = False  # to an absolute address, without the prefix and with the wrong scheme
        return app if prefix is None else BelowPrefix(app, prefix)

    # --- endpoints --------------------------------------------------------------------------------------------

    async def live(self, request: Request) -> Response:
        """Answer `GET /live/<query>?…` with one snapshot, in JSON or CSV, or with an event stream."""
        self._check_origin(request)
        wanted = form(request.headers.getlist("accept"))
        as_events = wanted == "events"
        if self.departure.closing:
            if not as_events:
                raise Draining()
            return Response(retry_field(), media_type=EventStream.media_type, headers=_stream_headers(request))
        raw = request.scope["query_string"].decode("latin-1")
        token = auth.from_header(request.headers.get("authorization")) or token_in_query(raw)
        identity = self.authenticator.identify(token)
        topic = self._topic(request, identity)
        if not as_events:
            return await self._snapshot(request, topic, identity, as_csv=wanted == "csv")
        since = Version.parse(request.headers.get("last-event-id", ""))
        headers = _stream_headers(request)
        if request.method == "HEAD":  # without a body there is no stream to wait for
            head = Response(media_type=EventStream.media_type, headers=headers)
            del head.headers["content-length"]
            return head
        lifetime = identity.lifetime(time.time() - self.sockets.context.limits.expiry_grace_seconds)
        again = partial(self._topic, request, identity)
        return EventStream(self.streams, topic, since, lifetime, self.admission, headers, again)

    async def poke(self, request: Request) -> Response:
        """Answer `POST /poke/<query>?…`: have the topic, or all topics of the query, polled at once."""
        identity = self._identify(request)
        self.pokes.check_roles(identity)
        topics = await self.pokes.poke(self._spelling(request), identity)
        return json_response({"topics": topics}, status=202, headers=cors_headers(request))

    async def _snapshot(self, request: Request, topic: Topic, identity: Identity, *, as_csv: bool) -> Response:
        """Answer with the topic's result, or with 304 when the client has it still after the time that it waits for
        another one (docs/reference/http.md#conditional-requests)."""
        suffix = ".csv" if as_csv else ""
        known = Condition.parse(request.headers.getlist("if-none-match"), request.headers.getlist("prefer"), suffix)
        lifetime = identity.lifetime(time.time())
        if lifetime is not None:
            known = known.wait_at_most(lifetime)
        headers = cors_headers(request) | {"cache-control": "no-cache", "vary": "Accept, Authorization, Origin"}
        if known.wait:
            headers["preference-applied"] = f"wait={known.wait}"
        with self.admission.seat():
            result, changed = await another_result(self.hub, topic, known, partial(self._topic, request, identity))
        if self.departure.begun:  # the next request is to find its way to another gateway
            headers["connection"] = "close"
        headers["etag"] = etag(result.version, suffix)
        if not changed:
            return Response(status_code=304, headers=headers)
        if as_csv:
            text = await asyncio.to_thread(lambda: csv_text(row for _, row in result.rows))
            return Response(text, media_type="text/csv", headers=headers)
        body = result.body
        text = await asyncio.to_thread(lambda: body.text) if body.large else body.text
        return Response(text, media_type="application/json", headers=headers)

    async def queries(self, request: Request) -> Response:
        """Answer `GET /api/queries` with the part of the catalogue that clients may know."""
        self._identify(request)
        body = {"queries": [query.public() for query in self.catalog.queries.values()]}
        return json_response(body, headers=cors_headers(request))

    async def openapi(self, request: Request) -> Response:
        """Answer `GET /openapi.json` with a description of this interface."""
        self._identify(request)
        return await self.described.answer(request, self.catalogue)

    async def show_cluster(self, request: Request) -> Response:
        """Answer `GET /api/cluster` with the nodes, topics and takeovers of the cluster."""
        return json_response(await self.cluster.show(self._identify(request)))

    async def preflight(self, request: Request) -> Response:
        """Answer a browser that asks whether a page of another Origin may send a request with certain headers."""
        self._check_origin(request)
        return Response(status_code=204, headers=cors_headers(request) | preflight_headers(request, "GET"))

    async def preflight_poke(self, request: Request) -> Response:
        """Answer a browser that asks whether a page of another Origin may poke."""
        self._check_origin(request)
        return Response(status_code=204, headers=cors_headers(request) | preflight_headers(request, "POST"))

    # --- inside -----------------------------------------------------------------------------------------------

    def _topic(self, request: Request, identity: Identity) -> Topic:
        """Return the topic of a request by the catalogue in force. Raises UnknownQuery, InvalidParams and Forbidden."""
        topic = topics.parse(self._spelling(request), self.catalog, identity.values)
        topics.check_roles(topic.query, identity.roles)
        return topic

    def _spelling(self, request: Request) -> str:
        """Return the topic that the request's URL spells. Raises UnknownQuery."""
        query = self.catalog.query(request.path_params["query"])
        raw = request.scope["query_string"].decode("latin-1")
        target: bytes = request.scope["extensions"][TARGET]
        return query.name + topic_tail(raw, token="token" not in query.params, target=target)

    def _identify(self, request: Request) -> Identity:
        """Return the client's identity. Raises Forbidden for a page of a foreign Origin, Unauthorized for its token."""
        self._check_origin(request)
        token = auth.from_header(request.headers.get("authorization")) or token_in_query(request.url.query or "")
        return self.authenticator.identify(token)

    def _check_origin(self, connection: HTTPConnection) -> None:
        """Raise Forbidden for a page of a foreign Origin."""
        origin, host = connection.headers.get("origin"), connection.headers.get("host", "")
        try:
            self.origins.check(origin, host)
        except Forbidden:
            foreign_page(origin=(origin or "")[:200], host=host[:200])
            raise

    async def _error_response(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, PollcastError)
        if isinstance(error, TopicTooLong):
            refused("topic", detail=error.detail)
        headers = {} if error.http != 401 else {"www-authenticate": "Bearer"}
        if self.departure.begun:
            headers["connection"] = "close"
        if self.origins.allow_origin(request.headers.get("origin"), request.headers.get("host", "")):
            headers |= cors_headers(request)
        return error_response(error, headers)


def _stream_headers(request: Request) -> dict[str, str]:
    """Return the headers of a stream of server-sent events (docs/reference/http.md#server-sent-events)."""
    return cors_headers(request) | {
        "cache-control": "no-store, no-transform",
        "vary": "Accept, Origin",
        "x-accel-buffering": "no",
    }
