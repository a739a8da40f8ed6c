"""One WebSocket client: its channels, and what its messages do.

A socket is attached to a connection of `gateway.wire` right after the handshake and lives until that is gone. It holds
one channel per topic it has joined, by the topic's spelling. Everything here runs in the event loop's callbacks: there
is no task and no queue per client. The reply to a join never waits for a result, an owner or etcd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from pollcast.gateway import phoenix
from pollcast.gateway.audience import Cohort
from pollcast.gateway.frames import frame
from pollcast.gateway.hub import Hub
from pollcast.gateway.identity import Identity
from pollcast.gateway.limits import Bucket, Limits
from pollcast.gateway.phoenix import Malformed, Message, Ref
from pollcast.gateway.presence_request import PresenceRequest
from pollcast.gateway.roster import Member
from pollcast.gateway.topic import LiveTopic
from pollcast.gateway.version import Version
from pollcast.gateway.wire import Wire
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.errors import (
    Forbidden,
    InvalidPayload,
    PollcastError,
    TooManyJoins,
    TooManyTopics,
    UnknownEvent,
    UnknownQuery,
)

INVALID_MESSAGE = 1007
GOING_AWAY = 1001
TOKEN_EXPIRED = 4001
STUCK = 1013

PREFIX = "live:"

SWEEPS = 4
"""How many calls of `Context.sweep` go once through all sockets."""


class Channel:
    """One join of one socket; what `pollcast.gateway.audience` writes to."""

    __slots__ = ("cohort", "deltas", "join_ref", "live", "member", "socket", "spelling", "wire")

    def __init__(self, socket: Socket, live: LiveTopic, spelling: bytes, join_ref: Ref, deltas: bool) -> None:
        self.socket = socket
        self.wire = socket.wire
        self.live = live
        self.spelling = spelling
        self.join_ref = join_ref
        self.deltas = deltas
        self.cohort: Cohort | None = None
        self.member: Member | None = None

    def write(self, frames: bytes) -> None:
        """Writes what is part of the state that a channel is given when it catches up."""
        if self.wire.blocked:
            self.fell_behind()
        else:
            self.wire.write(frames)

    def fell_behind(self) -> None:
        self.socket.fell_behind(self)


class Socket:
    """The receiver of one connection (`pollcast.gateway.wire.Receiver`)."""

    __slots__ = ("_behind", "_bucket", "_context", "channels", "congested_since", "identity", "last_heard", "wire")

    def __init__(self, wire: Wire, identity: Identity, context: Context) -> None:
        self.wire = wire
        self.identity = identity
        self.channels: dict[str, Channel] = {}
        self.last_heard = context.now()
        self.congested_since: float | None = None
        self._context = context
        self._bucket: Bucket | None = None
        self._behind: set[Channel] | None = None

    # --- the wire's side --------------------------------------------------------------------------------------

    def received(self, text: bytes | bytearray | memoryview) -> None:
        self.last_heard = self._context.now()
        try:
            message = phoenix.decode(text)
        except Malformed as error:
            self._context.malformed += 1
            self.wire.close(INVALID_MESSAGE, str(error)[:120])
            return
        if message.topic == "phoenix":
            self._on_phoenix(message)
        elif message.event == "phx_join":
            self._answer(message, self._join)
        else:
            self._on_channel(message)

    def pinged(self) -> None:
        self.last_heard = self._context.now()

    def drained(self) -> None:
        self.congested_since = None
        self.last_heard = self._context.now()  # it has not been read from meanwhile
        behind, self._behind = self._behind, None
        for channel in behind or ():
            if self.wire.blocked:
                self.fell_behind(channel)
            else:
                channel.live.audience.catch_up(channel, channel.live.status)
                if channel.live.presence is not None:
                    channel.live.presence.send_state(channel)

    def closed(self) -> None:
        for channel in self.channels.values():
            self._part(channel, broken=True)
        self.channels.clear()
        self._context.remove(self)

    def fell_behind(self, channel: Channel) -> None:
        """The channel missed something because this socket is congested."""
        if self.wire.closing:
            return
        if self._behind is None:
            self._behind = set()
            self._context.slow += 1
        self._behind.add(channel)

    # --- messages ---------------------------------------------------------------------------------------------

    def _on_phoenix(self, message: Message) -> None:
        if message.event == "heartbeat":
            self._send(phoenix.reply(message, b'"phoenix"', b"ok"))
        else:
            self._answer(message, _unknown_event)

    def _on_channel(self, message: Message) -> None:
        channel = self.channels.get(message.topic)
        if channel is None:
            if message.event == "phx_leave":  # it is gone already: so be it
                self._send(phoenix.reply(message, phoenix.quote(message.topic), b"ok"))
            else:
                spelling = phoenix.quote(message.topic)
                detail = "this topic is not joined on this socket: send phx_join first"
                self._send(phoenix.reply_error(message, spelling, "unmatched_topic", detail))
            return
        if message.join_ref is not None and message.join_ref != channel.join_ref:
            return  # of a join that is over
        if message.event == "phx_leave":
            self._leave(message, channel)
        elif message.event == "access_token":
            self._answer(message, lambda message: self._renew(message, channel))
        elif message.event == "presence" and channel.live.presence is not None:
            self._answer(message, lambda message: self._presence(message, channel))
        else:
            self._answer(message, _unknown_event)

    def _answer(self, message: Message, act: Callable[[Message], None]) -> None:
        """Does it, or replies with the error."""
        try:
            if message.payload is phoenix.UNREADABLE:
                raise InvalidPayload("the payload is not valid Unicode: it holds half of a surrogate pair")
            act(message)
        except PollcastError as error:
            self._context.refused(error.reason)
            self._send(phoenix.reply_error(message, phoenix.quote(message.topic), error.reason, error.detail))

    def _join(self, message: Message) -> None:
        now = self._context.now()
        if self._bucket is None:
            self._bucket = Bucket(self._context.limits.join_rate, now)
        if not self._bucket.take(now):
            raise TooManyJoins(f"at most {self._context.limits.join_rate:g} joins a second on one socket: join later")
        old = self.channels.get(message.topic)
        if old is None and len(self.channels) >= self._context.limits.max_topics:
            raise TooManyTopics(f"at most {self._context.limits.max_topics} topics on one socket: leave some first")
        since, deltas, presence = _join_payload(message.payload)
        if not message.topic.startswith(PREFIX):
            raise UnknownQuery(f"topics start with {PREFIX!r}, as in 'live:<query>'")
        topic = topics.parse(message.topic, self._context.catalog, self.identity.values)
        topics.check_roles(topic.query, self.identity.roles)
        request = PresenceRequest.of(topic, presence, self.identity)

        live = self._context.hub.enter(topic, now)
        channel = Channel(self, live, phoenix.quote(message.topic), message.join_ref, deltas)
        self.channels[message.topic] = channel
        present = live.present
        known = since is not None and present is not None and live.history.since(since) == []
        response = orjson.dumps(
            {
                "topic": topic.canonical,
                "version": str(since if known else present.version) if present is not None else None,
                "interval_ms": round(topic.query.interval * 1000),
            }
        )
        self._send(phoenix.reply(message, channel.spelling, b"ok", response))
        if old is not None:
            self._send(phoenix.close(old.join_ref, old.spelling))
        if live.status.state != "live":
            self._send(phoenix.push(channel.spelling, b"status", live.status.payload()))
        if live.presence is not None:
            channel.member = live.presence.join(channel, request)
        live.audience.join(channel, since)
        if old is not None:  # last, so that the topic is never without a client
            self._part(old)

    def _leave(self, message: Message, channel: Channel) -> None:
        del self.channels[message.topic]
        self._part(channel)
        self._send(phoenix.reply(message, channel.spelling, b"ok"))
        self._send(phoenix.close(channel.join_ref, channel.spelling))

    def _renew(self, message: Message, channel: Channel) -> None:
        token = message.payload.get("token") if isinstance(message.payload, dict) else None
        if not isinstance(token, str):
            raise InvalidPayload('the payload must be {"token": "…"}')
        renewed = self._context.identify(token)
        if renewed.subject != self.identity.subject:
            raise Forbidden("the new token is of another subject: connect anew")
        for spelling, joined in self.channels.items():
            topic = topics.parse(spelling, self._context.catalog, renewed.values)
            topics.check_roles(topic.query, renewed.roles)
            if topic.canonical != joined.live.topic.canonical:
                raise Forbidden("the new token binds a joined topic to other values: connect anew")
        self.identity = renewed
        self._send(phoenix.reply(message, channel.spelling, b"ok"))

    def _presence(self, message: Message, channel: Channel) -> None:
        payload = message.payload if message.payload is not None else {}
        if not isinstance(payload, dict) or not isinstance(payload.get("meta"), dict):
            raise InvalidPayload('the payload must be {"meta": {…}}')
        assert channel.live.presence is not None
        channel.live.presence.update(channel, payload["meta"])
        self._send(phoenix.reply(message, channel.spelling, b"ok"))

    def _part(self, channel: Channel, *, broken: bool = False) -> None:
        """The channel is over. `broken`: because its socket is, so that its client may come back."""
        if self._behind is not None:
            self._behind.discard(channel)
        if channel.live.presence is not None:
            (channel.live.presence.depart if broken else channel.live.presence.leave)(channel)
        channel.live.audience.leave(channel)
        self._context.hub.leave(channel.live, self._context.now())

    def _send(self, message: bytes) -> None:
        self.wire.write(frame(message))


class Context:
    """What all sockets of a gateway share."""

    def __init__(
        self,
        hub: Hub,
        catalog: Catalog,
        limits: Limits,
        identify: Callable[[str], Identity],
        now: Callable[[], float],
    ) -> None:
        self.hub = hub
        self.catalog = catalog
        self.limits = limits
        self.identify = identify  # raises Unauthorized
        self.now = now  # monotonic seconds
        self.sockets: set[Socket] = set()
        self._unswept: list[Socket] = []
        self._part_size = 0
        self._none_left = asyncio.Event()
        self._none_left.set()
        self.malformed = 0  # messages, ever
        self.slow = 0  # times that a socket fell behind, ever
        self.stuck = 0  # sockets that were closed because they did not read, ever
        self.refusals: dict[str, int] = {}  # error replies by reason, ever

    def open(self, wire: Wire, identity: Identity) -> Socket:
        """A socket for a connection that is there now."""
        socket = Socket(wire, identity, self)
        self.sockets.add(socket)
        self._none_left.clear()
        return socket

    def remove(self, socket: Socket) -> None:
        self.sockets.discard(socket)
        if not self.sockets:
            self._none_left.set()

    async def all_gone(self) -> None:
        """Waits until there is no socket."""
        await self._none_left.wait()

    def refused(self, reason: str) -> None:
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def sweep(self, now: float, wall: float) -> None:
        """Call SWEEPS times a second: ends sockets that are silent, stuck, or whose token has expired, each time among
        another part of them."""
        if not self._unswept:
            self._unswept = list(self.sockets)
            self._part_size = -(-len(self._unswept) // SWEEPS)
        for socket in self._unswept[: self._part_size]:
            self._check(socket, now, wall)
        del self._unswept[: self._part_size]

    def _check(self, socket: Socket, now: float, wall: float) -> None:
        wire = socket.wire
        if wire.closing:
            return
        if socket.identity.expired(wall - self.limits.expiry_grace_seconds):
            wire.close(TOKEN_EXPIRED, "the token has expired")
        elif wire.congested:  # and thereby not read from either
            if socket.congested_since is None:
                socket.congested_since = now
            elif now - socket.congested_since > self.limits.stuck_seconds:
                self.stuck += 1
                wire.close(STUCK, "reads too slowly")
        elif now - socket.last_heard > self.limits.silent_seconds:
            wire.close(GOING_AWAY, "nothing heard, not even a heartbeat")


def _unknown_event(message: Message) -> None:
    raise UnknownEvent(f"there is no event {message.event[:40]!r} here")


def _join_payload(payload: Any) -> tuple[Version | None, bool, dict[str, Any] | None]:
    """`(since, deltas, presence)` of a join payload. Raises InvalidPayload."""
    if payload is None:
        payload = {}
    if not isinstance(payload, dict):
        raise InvalidPayload("the join payload must be an object")
    since, deltas, presence = payload.get("since"), payload.get("deltas"), payload.get("presence")
    if since is not None and not isinstance(since, str):
        raise InvalidPayload("since must be a version, as a string")
    if deltas is not None and not isinstance(deltas, bool):
        raise InvalidPayload("deltas must be true or false")
    if presence is not None and not isinstance(presence, dict):
        raise InvalidPayload('presence must be an object: {"key": "…", "meta": {…}}')
    return (Version.parse(since) if since is not None else None), deltas is not False, presence
