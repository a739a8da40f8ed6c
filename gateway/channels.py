"""One client: its channels, and the handling of its messages (docs/reference/channels.md#messages).

A socket is attached to a link right after the handshake (a connection of `gateway.wire`, or a session of
`gateway.longpoll_wire`), and lives until that is gone. It holds one channel per topic that it has joined, by the
topic's spelling. Everything here runs in callbacks of the event loop: there is no task and no queue per client. The
reply to a join never waits for a result, an owner or etcd.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import orjson

from pollcast.gateway import phoenix
from pollcast.gateway.backlog import PRESENCE, RESULT, Backlog
from pollcast.gateway.close_codes import INVALID_MESSAGE
from pollcast.gateway.cohorts import Cohort
from pollcast.gateway.hub import Hub
from pollcast.gateway.identity import Identity
from pollcast.gateway.join_payload import JoinPayload
from pollcast.gateway.limits import Bucket, Limits
from pollcast.gateway.link import Link
from pollcast.gateway.outbound_frames import Framed, frame
from pollcast.gateway.phoenix import Malformed, Message, Ref
from pollcast.gateway.presence_request import PresenceRequest
from pollcast.gateway.roster import Member
from pollcast.gateway.socket_counts import SocketCounts
from pollcast.gateway.status import Status
from pollcast.gateway.topic import LiveTopic
from pollcast.gateway.topic_memo import TopicMemo
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.clock import now_us
from pollcast.services.errors import (
    Forbidden,
    InvalidPayload,
    PollcastError,
    TooManyJoins,
    TooManyTopics,
    TopicTooLong,
    UnknownEvent,
    UnknownQuery,
)
from pollcast.services.serving.progress import Patience
from pollcast.services.serving.refusals import refused


@dataclass(frozen=True, slots=True)
class SocketContext:
    """Objects that all sockets of a gateway share. `identify` raises Unauthorized; `now` returns monotonic seconds."""

    hub: Hub
    catalogue: CatalogueInForce
    topics: TopicMemo
    limits: Limits
    identify: Callable[[str], Identity]
    now: Callable[[], float]
    counts: SocketCounts
    on_closed: Callable[[Socket], None]


class Channel:
    """One join of one socket: the subscriber that a topic's audience and presence list write to."""

    __slots__ = ("behind", "cohort", "deltas", "join_ref", "live", "member", "socket", "spelling", "wire")

    def __init__(self, socket: Socket, live: LiveTopic, spelling: bytes, join_ref: Ref, deltas: bool) -> None:
        self.socket = socket
        self.wire = socket.wire
        self.live = live
        self.spelling = spelling
        self.join_ref = join_ref
        self.deltas = deltas
        self.cohort: Cohort | None = None
        self.behind = 0
        self.member: Member | None = None

    def write_presence(self, messages: Sequence[Framed]) -> None:
        """Write the messages of the presence list, or record that the channel lacks it."""
        if self.wire.blocked:
            self.fell_behind(PRESENCE)
        else:
            self.wire.write(b"".join([message.ready(self.wire.deflates) for message in messages]))

    def fell_behind(self, part: int) -> None:
        """Record that the channel lacks a part of its state (gateway/backlog.py), because its socket is congested."""
        self.socket.fell_behind(self, part)

    def served(self) -> None:
        """Let the socket go on to bring its channels up to date, if it waited for this one."""
        self.socket.served(self)

    def catch_up(self, part: int) -> None:
        """Send the channel a part of its present state."""
        if part == RESULT:
            self.live.audience.catch_up(self, self.live.status)
        elif self.live.presence is not None:
            self.live.audience.skip_presence(self)
            self.live.presence.send_state(self)


class Socket:
    """One client's connection (a `pollcast.gateway.wire.Receiver`) with its channels by spelling and its identity.

    `last_heard` (monotonic seconds) and `patience`, which it has while it is congested, are for
    `pollcast.gateway.sockets`.
    """

    __slots__ = (
        "_awaited",
        "_backlog",
        "_bucket",
        "_context",
        "channels",
        "identity",
        "last_heard",
        "patience",
        "wire",
    )

    def __init__(self, wire: Link, identity: Identity, context: SocketContext) -> None:
        self.wire = wire
        self.identity = identity
        self.channels: dict[str, Channel] = {}
        self.last_heard = context.now()
        self.patience: Patience | None = None
        self._context = context
        self._bucket: Bucket | None = None
        self._awaited: Channel | None = None  # while its message is made outside the event loop: the one caught up last
        self._backlog: Backlog[Channel] | None = None  # None while no channel is behind

    # --- calls by the wire ------------------------------------------------------------------------------------

    @property
    def has_joined(self) -> bool:
        """Whether the client has ever asked to join a topic."""
        return self._bucket is not None

    def received(self, text: bytes | bytearray | memoryview) -> None:
        """Handle a message; close the socket when it is malformed."""
        self.last_heard = self._context.now()
        try:
            message = phoenix.decode(text)
        except Malformed as error:
            self._context.counts.malformed += 1
            self.wire.close(INVALID_MESSAGE, str(error)[:120])
            return
        if message.topic == "phoenix":
            self._on_phoenix(message)
        elif message.event == "phx_join":
            self._answer(message, self._join)
        else:
            self._on_channel(message)

    def pinged(self) -> None:
        """Record that the client is alive."""
        self.last_heard = self._context.now()

    def drained(self) -> None:
        """Begin to bring the channels that missed a message up to date."""
        self.patience = None
        self.last_heard = self._context.now()  # its silence proves nothing: the gateway did not read from it
        self._awaited = None
        self._catch_up()

    def closed(self) -> None:
        """Take all channels off their topics, because the connection is gone."""
        for channel in self.channels.values():
            self._part(channel, broken=True)
        self.channels.clear()
        self._context.on_closed(self)

    def renew(self, lives: Collection[LiveTopic]) -> None:
        """Go on with the channels of these topics under the catalogue in force: move a channel to the topic that its
        client means now, or close it."""
        for name, channel in list(self.channels.items()):
            if channel.live in lives:
                try:
                    self._move(name, channel)
                except PollcastError as error:
                    del self.channels[name]
                    self._part(channel)
                    status = Status("failed", error.explained, now_us())
                    self._send(phoenix.push(channel.spelling, b"status", status.payload()))
                    self._send(phoenix.close(channel.join_ref, channel.spelling))

    def _move(self, name: str, old: Channel) -> None:
        """Move a channel to the topic that its client means by the catalogue in force. Raises PollcastError."""
        context = self._context
        topic = context.topics.parse(name, self.identity.values)
        topics.check_roles(topic.query, self.identity.roles)
        if context.hub.topics.get(topic.canonical) is old.live:
            return  # nothing has changed but the roles that may watch it
        request = PresenceRequest.again(topic, old.member, self.identity)
        live = context.hub.enter(topic, context.now())
        channel = self.channels[name] = Channel(self, live, old.spelling, old.join_ref, old.deltas)
        live.spellings.add(channel.spelling)
        if not live.status.same_as(old.live.audience.known_status(old, old.live.status)):
            self._send(phoenix.push(channel.spelling, b"status", live.status.payload()))
        if live.presence is not None and live.presence is old.live.presence:
            channel.member, old.member = old.member, None
            live.presence.send_state(channel)
        elif live.presence is not None:
            channel.member = live.presence.join(channel, request)
        live.audience.join(channel, None)
        self._part(old)

    def fell_behind(self, channel: Channel, part: int) -> None:
        """Remember to bring the channel up to date once this socket has drained."""
        if self.wire.closing:
            return
        if self._backlog is None:
            self._backlog = Backlog()
            self._context.counts.slow += 1
        self._backlog.add(channel, part)
        self.served(channel)

    def served(self, channel: Channel) -> None:
        """Go on to bring channels up to date when the one that was waited for has its message, or is gone."""
        if channel is self._awaited:
            self._awaited = None
            if self._backlog is not None:
                self.wire.turns.later(self._catch_up)

    def _catch_up(self) -> None:
        """Send what channels lack, one message at a time, until the socket is congested or this turn's time is over.

        A large message is made outside the event loop: the next one waits for it.
        """
        turns = self.wire.turns
        with self.wire.outbox:
            while (backlog := self._backlog) is not None and not self.wire.blocked and self._awaited is None:
                started = time.perf_counter()
                channel, part = backlog.pop()
                channel.catch_up(part)
                if not backlog:
                    self._backlog = None
                turns.spend(time.perf_counter() - started)
                if channel.cohort is not None and channel.cohort.waits:
                    self._awaited = channel
                elif self._backlog is not None and not turns.open:
                    turns.later(self._catch_up)
                    break

    # --- messages ---------------------------------------------------------------------------------------------

    def _on_phoenix(self, message: Message) -> None:
        if message.event == "heartbeat":
            self._send(phoenix.reply(message, b'"phoenix"', b"ok"))
        else:
            self._answer(message, _unknown_event)

    def _on_channel(self, message: Message) -> None:
        channel = self.channels.get(message.topic)
        if channel is None:
            if message.event == "phx_leave":  # leaving twice is no error
                self._send(phoenix.reply(message, phoenix.quote(message.topic), b"ok"))
            else:
                spelling = phoenix.quote(message.topic)
                detail = "this topic is not joined on this socket: send phx_join first"
                self._send(phoenix.reply_error(message, spelling, "unmatched_topic", detail))
            return
        if message.join_ref is not None and message.join_ref != channel.join_ref:
            return  # the message belongs to an earlier join
        if message.event == "phx_leave":
            self._leave(message, channel)
        elif message.event == "access_token":
            self._answer(message, lambda message: self._renew(message, channel))
        elif message.event == "presence" and channel.live.presence is not None:
            self._answer(message, lambda message: self._presence(message, channel))
        else:
            self._answer(message, _unknown_event)

    def _answer(self, message: Message, act: Callable[[Message], None]) -> None:
        """Call `act` with the message; send an error reply when it raises a PollcastError."""
        try:
            if message.payload is phoenix.UNREADABLE:
                raise InvalidPayload("the payload is not valid Unicode: it holds half of a surrogate pair")
            act(message)
        except PollcastError as error:
            if isinstance(error, TopicTooLong):
                refused("topic", detail=error.detail)
            self._context.counts.refused(error.reason)
            self._send(phoenix.reply_error(message, phoenix.quote(message.topic), error.reason, error.detail))

    def _join(self, message: Message) -> None:
        now = self._take_token()
        old = self.channels.get(message.topic)
        if old is None and len(self.channels) >= self._context.limits.max_topics:
            raise TooManyTopics(f"at most {self._context.limits.max_topics} topics on one socket: leave some first")
        payload = JoinPayload.parse(message.payload)
        if not message.topic.startswith(topics.PREFIX):
            raise UnknownQuery(f"topics start with {topics.PREFIX!r}, as in 'live:<query>'")
        if payload.others:
            payload.check_others(topics.query_of(message.topic, self._context.catalogue.catalog))
        topic = self._context.topics.parse(message.topic, self.identity.values)
        topics.check_roles(topic.query, self.identity.roles)
        request = PresenceRequest.of(topic, payload.presence, self.identity)
        spelling = phoenix.quote(message.topic)
        self._context.hub.check_spelling(topic, spelling)

        live = self._context.hub.enter(topic, now)
        channel = Channel(self, live, spelling, message.join_ref, payload.deltas)
        self.channels[message.topic] = channel
        live.spellings.add(spelling)
        present = live.present
        since = payload.since
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
        self._take_token()
        token = message.payload.get("token") if isinstance(message.payload, dict) else None
        if not isinstance(token, str):
            raise InvalidPayload('the payload must be {"token": "…"}')
        renewed = self._context.identify(token)
        if renewed.subject != self.identity.subject:
            raise Forbidden("the new token belongs to another subject: open a new connection")
        for spelling, joined in self.channels.items():
            topic = self._context.topics.parse(spelling, renewed.values)
            topics.check_roles(topic.query, renewed.roles)
            if topic.canonical != joined.live.topic.canonical:
                raise Forbidden("the new token binds a joined topic to other values: open a new connection")
        self.identity = renewed
        self._send(phoenix.reply(message, channel.spelling, b"ok"))

    def _presence(self, message: Message, channel: Channel) -> None:
        self._take_token()
        payload = message.payload if message.payload is not None else {}
        if not isinstance(payload, dict) or not isinstance(payload.get("meta"), dict):
            raise InvalidPayload('the payload must be {"meta": {…}}')
        assert channel.live.presence is not None
        channel.live.presence.update(channel, payload["meta"])
        self._send(phoenix.reply(message, channel.spelling, b"ok"))

    def _part(self, channel: Channel, *, broken: bool = False) -> None:
        """Take the channel off its topic. With `broken`, its socket is gone, and its client may come back."""
        channel.live.spellings.remove(channel.spelling)
        if self._backlog is not None:
            self._backlog.discard(channel)
            if not self._backlog:
                self._backlog = None
        self.served(channel)
        if channel.live.presence is not None:
            (channel.live.presence.depart if broken else channel.live.presence.leave)(channel)
        channel.live.audience.leave(channel)
        self._context.hub.leave(channel.live, self._context.now())

    def _take_token(self) -> float:
        """Count a message that costs more than its answer; return the time. Raises TooManyJoins beyond the limit."""
        now = self._context.now()
        if self._bucket is None:
            self._bucket = Bucket(self._context.limits.join_rate, now)
        if not self._bucket.take(now):
            most = f"{self._context.limits.join_rate:g}"
            raise TooManyJoins(f"at most {most} joins, presence and access_token events a second on one socket")
        return now

    def _send(self, message: bytes) -> None:
        self.wire.write(frame(message))


def _unknown_event(message: Message) -> None:
    raise UnknownEvent(f"there is no event {message.event[:40]!r} here")
