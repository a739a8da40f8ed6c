"""The LiveQuery service: live results over gRPC, for internal consumers (docs/reference/grpc.md#livequery).

A call follows its topic as a stream of server-sent events does, at the pace of gRPC's flow control. Nothing is buffered
for a slow consumer: it skips intermediate versions. A snapshot goes out in pieces, each encoded when the one before has
been sent; a delta that is larger than a piece goes out as a snapshot.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from pollcast.gateway.admission import Admission
from pollcast.gateway.departure import Departure
from pollcast.gateway.follower import DeltaEvent, ending_after, first_result, following
from pollcast.gateway.history import Result
from pollcast.gateway.hub import Hub
from pollcast.gateway.identity import Authenticator, Identity
from pollcast.gateway.limits import EXPIRY_GRACE_SECONDS
from pollcast.gateway.pokes import Pokes
from pollcast.gateway.presence import Presences
from pollcast.gateway.roster import Diff, Member, Shown, metas_by_key
from pollcast.gateway.status import Status
from pollcast.gateway.version import Version
from pollcast.services.auth import tokens as auth
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.catalogue.query import Param, Query
from pollcast.services.clock import rfc3339
from pollcast.services.errors import Draining, InvalidPayload, PollcastError, TooLarge, TopicTooLong, Unauthorized
from pollcast.services.serving import rpc
from pollcast.services.serving.refusals import refused
from pollcast.services.serving.snapshots import PIECE_BYTES, fits, pieces
from pollcast.v1 import live_pb2, live_pb2_grpc, types_pb2

CLOCK_SECONDS = 0.5
"""Tolerance for a timer that fires before the wall clock reaches a token's expiry, in seconds."""

SERVICE = live_pb2.DESCRIPTOR.services_by_name["LiveQuery"].full_name


class LiveQuery(live_pb2_grpc.LiveQueryServicer):
    """The servicer of LiveQuery. Errors reach the caller as a gRPC status (docs/reference/grpc.md#status-codes)."""

    def __init__(
        self,
        hub: Hub,
        catalogue: CatalogueInForce,
        authenticator: Authenticator,
        departure: Departure,
        presences: Presences,
        admission: Admission,
        pokes: Pokes,
    ) -> None:
        self._pokes = pokes
        self._hub = hub
        self._catalogue = catalogue
        self._authenticator = authenticator
        self._departure = departure
        self._presences = presences
        self._admission = admission

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service with a server."""
        live_pb2_grpc.add_LiveQueryServicer_to_server(self, server)

    async def Watch(
        self, request: live_pb2.WatchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[live_pb2.WatchResponse]:
        """Stream the topic's snapshot, then every change, until the token expires or the gateway drains."""
        try:
            identity = self._identify(context)
            topic = self._topic(request.topic, identity)
            lifetime = identity.lifetime(time.time() - EXPIRY_GRACE_SECONDS)
            snapshots = request.snapshots_only
            with (
                self._admission.seat(),
                following(
                    self._hub,
                    topic,
                    since=Version.parse(request.since),
                    deltas=not snapshots,
                    lifetime=lifetime,
                    largest=PIECE_BYTES,
                    again=lambda: self._topic(request.topic, identity),
                ) as follower,
            ):
                async with aclosing(follower.events()) as events:
                    async for event in events:
                        if isinstance(event, Result):
                            for snapshot in _snapshots(event):
                                yield live_pb2.WatchResponse(snapshot=snapshot)
                        elif event is not None:
                            yield _response(event)
            raise follower.error or _reason_of_end(identity)
        except PollcastError as error:
            await rpc.abort(context, error)

    async def Get(
        self, request: live_pb2.GetRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> types_pb2.Snapshot:
        """Return the topic's present result, waiting for a first one. One of more than a piece is refused."""
        try:
            identity = self._identify(context)
            topic = self._topic(request.topic, identity)
            with self._admission.seat():
                result = await first_result(self._hub, topic, lambda: self._topic(request.topic, identity))
            rows = [row for _, row in result.rows]
            if not fits(rows):
                size = sum(map(len, rows))
                raise TooLarge(f"the result has {size} bytes, more than fit into one message: use Watch")
            return _snapshot(result, rows)
        except PollcastError as error:
            await rpc.abort(context, error)
        raise AssertionError("abort raises")

    async def ListQueries(
        self, request: live_pb2.ListQueriesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> live_pb2.ListQueriesResponse:
        """Return the public part of the catalogue."""
        try:
            self._identify(context)
        except PollcastError as error:
            await rpc.abort(context, error)
        return live_pb2.ListQueriesResponse(queries=[_query_info(q) for q in self._catalogue.catalog.queries.values()])

    async def ListPresence(
        self, request: live_pb2.ListPresenceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> live_pb2.ListPresenceResponse:
        """Return the members on the topic."""
        try:
            roster = self._presences.of(self._topic_with_presence(request.topic, self._identify(context))).roster
        except PollcastError as error:
            await rpc.abort(context, error)
        return live_pb2.ListPresenceResponse(presences=_presences(roster.shown().values()), total=len(roster.members))

    async def WatchPresence(
        self, request: live_pb2.WatchPresenceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[live_pb2.WatchPresenceResponse]:
        """Stream the members on the topic, then every difference, until the token expires or the gateway drains."""
        try:
            identity = self._identify(context)
            topic = self._topic_with_presence(request.topic, identity)
            lifetime = identity.lifetime(time.time() - EXPIRY_GRACE_SECONDS)

            def again() -> topics.Topic:
                return self._topic_with_presence(request.topic, identity)

            with (
                self._admission.seat(),
                self._presences.watching(topic, again) as watcher,
                ending_after(lifetime, watcher.end),
            ):
                async with aclosing(watcher.events()) as events:
                    async for event, total in events:
                        yield _presence_response(event, total)
            raise watcher.error or _reason_of_end(identity)
        except PollcastError as error:
            await rpc.abort(context, error)

    async def Poke(
        self, request: types_pb2.PokeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> types_pb2.PokeResponse:
        """Have the topic, or all topics of the query, polled at once."""
        try:
            return types_pb2.PokeResponse(topics=await self._pokes.poke(request.topic, self._identify(context)))
        except PollcastError as error:
            await rpc.abort(context, error)
        raise AssertionError("abort raises")

    def _identify(self, context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
        """Return the caller's identity. Raises Unauthorized."""
        header = next((value for key, value in context.invocation_metadata() or () if key == "authorization"), None)
        return self._authenticator.identify(auth.from_header(header if isinstance(header, str) else None))

    def _topic(self, spelling: str, identity: Identity) -> topics.Topic:
        """Return the topic of a spelling.

        Raises Draining, UnknownQuery, InvalidParams, or Forbidden when the caller's roles do not suffice.
        """
        if self._departure.closing:
            raise Draining()
        try:
            topic = topics.parse(spelling, self._catalogue.catalog, identity.values)
        except TopicTooLong as error:
            refused("topic", detail=error.detail)
            raise
        topics.check_roles(topic.query, identity.roles)
        return topic

    def _topic_with_presence(self, spelling: str, identity: Identity) -> topics.Topic:
        """Return the topic of a spelling. Raises InvalidPayload when its query has no presence, else as `_topic`."""
        topic = self._topic(spelling, identity)
        if not topic.query.presence:
            raise InvalidPayload(f"query {topic.query.name} has no presence")
        return topic


def _reason_of_end(identity: Identity) -> PollcastError:
    """Return the error with which the gateway ends a stream of this caller."""
    if identity.expired(time.time() - EXPIRY_GRACE_SECONDS + CLOCK_SECONDS):
        return Unauthorized("the token has expired")
    return Draining()


def _presences(members: Iterable[Member]) -> list[live_pb2.Presence]:
    return [live_pb2.Presence(key=key, metas=metas) for key, metas in metas_by_key(members).items()]


def _presence_response(event: Shown | Diff, total: int) -> live_pb2.WatchPresenceResponse:
    if isinstance(event, Diff):
        joins, leaves = _presences(event.joins), _presences(event.leaves)
        return live_pb2.WatchPresenceResponse(diff=live_pb2.PresenceDiff(joins=joins, leaves=leaves, total=total))
    state = live_pb2.PresenceState(presences=_presences(event.values()), total=total)
    return live_pb2.WatchPresenceResponse(state=state)


def _response(event: DeltaEvent | Status) -> live_pb2.WatchResponse:
    if isinstance(event, DeltaEvent):
        return live_pb2.WatchResponse(delta=_delta(event))
    return live_pb2.WatchResponse(
        status=types_pb2.Status(state=event.state, reason=event.reason, since=rfc3339(event.since))
    )


def _snapshots(result: Result) -> Iterator[types_pb2.Snapshot]:
    """Yield the pieces of a result. Raises TooLarge when one of its rows is."""
    for rows, more in pieces([row for _, row in result.rows]):
        yield _snapshot(result, rows, more)


def _snapshot(result: Result, rows: Sequence[bytes], more: bool = False) -> types_pb2.Snapshot:
    return types_pb2.Snapshot(
        version=str(result.version), polled_at=rfc3339(result.polled_at), key=result.key, rows=rows, more=more
    )


def _delta(event: DeltaEvent) -> types_pb2.Delta:
    entry = event.entry
    assert entry.change is not None
    delta = entry.change.delta
    return types_pb2.Delta(
        version=str(entry.version),
        base=str(event.base),
        polled_at=rfc3339(entry.polled_at),
        deletes=delta.deletes,
        upserts=[types_pb2.Upsert(at=at, row=row) for at, _, row in delta.upserts],
    )


def _query_info(query: Query) -> live_pb2.QueryInfo:
    return live_pb2.QueryInfo(
        name=query.name,
        title=query.title or "",
        key=query.key,
        interval_ms=round(query.interval * 1000),
        presence=query.presence,
        params=[_param_info(param) for param in query.params.values() if param.claim is None],
    )


def _param_info(param: Param) -> live_pb2.ParamInfo:
    return live_pb2.ParamInfo(
        name=param.name,
        type=param.declared_type,
        required=param.required,
        default=param.default if isinstance(param.default, str) else None,
        default_items=param.default if isinstance(param.default, tuple) else (),
        enum=param.enum or (),
        min=param.min,
        max=param.max,
        max_length=param.max_length,
    )
