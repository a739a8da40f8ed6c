"""Server-sent events: the response that streams a topic's events (docs/reference/http.md#server-sent-events).

An event is encoded once for all streams of its topic at the same position, and the same bytes are written straight to
their connections when the topic changes; no coroutine runs for it. A stream whose client has not taken the last event
gets nothing, and nothing is kept for it: once its connection has drained, it is brought up to date, with a snapshot if
it has missed much. The coroutine of the response only waits for the end: the client leaves, its token expires, the
gateway drains, or etcd has lost its data.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pollcast.gateway.admission import Admission
from pollcast.gateway.event_text import EventTexts, server_sent
from pollcast.gateway.follower import Position, ending_after, meant_now
from pollcast.gateway.hub import Hub
from pollcast.gateway.offload import Offload
from pollcast.gateway.status import Status
from pollcast.gateway.topic import LiveTopic
from pollcast.gateway.version import Version
from pollcast.gateway.wakes import STREAMS_AT_ONCE, Wakes
from pollcast.services.catalogue.topics import Topic
from pollcast.services.clock import now_us
from pollcast.services.errors import PollcastError
from pollcast.services.serving.http_guard import CONNECTION, GuardedHttp, chunk_of

COMMENT_SECONDS = 15.0
"""Maximum time without an event before a comment is sent, in seconds.

It keeps proxies from closing the stream, and makes the gateway notice a client that is gone.
"""

RETRY_MILLISECONDS = (1000, 5000)
"""The least and the greatest time after which clients are asked to connect again, in milliseconds."""

COMMENT = chunk_of(b": still here\n\n")


class StreamConnection(Protocol):
    """The connection of a stream (`pollcast.services.serving.http_guard.GuardedHttp`)."""

    @property
    def blocked(self) -> bool:
        """Whether nothing should be written now."""

    def chunk_writer(self) -> Callable[[bytes], None]:
        """Return a function that writes a chunk of the answer, without blocking."""


def retry_field() -> bytes:
    """Return the beginning of a stream: the time after which its client connects again when the stream has ended.

    It is random, so that the clients of a gateway that has died do not reach the others all at once. A stream that has
    only this beginning is the answer of a draining gateway: a browser's EventSource gives up for good on a 503.
    """
    return b"retry: %d\n\n" % random.randint(*RETRY_MILLISECONDS)


class Stream:
    """One client's stream of a topic, as the topic sees it."""

    __slots__ = ("connection", "ended", "on_renew", "position", "silent", "streams", "write_chunk")

    def __init__(
        self,
        streams: Streams,
        connection: StreamConnection,
        since: Version | None,
        on_renew: Callable[[Stream], None] = lambda stream: None,
    ) -> None:
        """`on_renew` moves the stream to the topic that its client means by the catalogue in force, or fails it."""
        self.streams = streams
        self.on_renew = on_renew
        self.connection = connection
        self.write_chunk = connection.chunk_writer()
        self.position = Position(since=since)
        self.ended = asyncio.Event()
        self.silent = False  # whether nothing was written since the last call of `EventStreams.sweep`

    def wake(self) -> None:
        """Write what is new, unless the client has not taken what was written before."""
        self.streams.write(self)

    def comment(self) -> None:
        """Write a comment, unless something else was or waits to be written."""
        if not self.ended.is_set() and not self.connection.blocked:
            self.write_chunk(COMMENT)

    def end(self) -> None:
        """Write nothing more, and end the response."""
        self.ended.set()

    def renew(self) -> None:
        """Go on under the catalogue that has just come into force."""
        self.on_renew(self)

    def fail(self, error: PollcastError) -> None:
        """Write a last status `failed`, and end the response, because the topic may not be followed any more."""
        if not self.ended.is_set():
            status = Status("failed", error.explained, now_us())
            self.write_chunk(chunk_of(server_sent(status, self.position.version or self.position.since)))
        self.end()


class Streams:
    """The event streams of one topic (a `pollcast.gateway.topic.StreamGroup`)."""

    __slots__ = ("_texts", "_wakes", "live", "members")

    def __init__(self, live: LiveTopic, texts: EventTexts, offload: Offload) -> None:
        self.live = live
        self._texts = texts
        self.members: dict[Stream, None] = {}  # in the order of their connections, which lie likewise in memory
        self._wakes = Wakes(self.members, partial(_write, texts), STREAMS_AT_ONCE, offload)

    def wake(self, then: Callable[[], None] | None = None) -> None:
        """Write what is new to every stream whose client has taken what was written before, now or soon.

        Call `then` after that.
        """
        self._wakes.wake_all(then)

    def write(self, stream: Stream) -> None:
        """Write what is new to one stream, unless its client has not taken what was written before."""
        _write(self._texts, (stream,))


def _write(texts: EventTexts, streams: Iterable[Stream]) -> None:
    """Write what is new to these streams, except to those whose clients have not taken what was written before.

    All writes come last, in a loop of its own: between them, each system call would slow down the code beside it.
    """
    writes: list[tuple[bytes, list[Callable[[bytes], None]]]] = []
    takers: list[Callable[[bytes], None]] = []
    at = after = None  # most streams are at the same position
    chunk = b""
    for stream in streams:
        if stream.ended.is_set() or stream.connection.blocked:
            continue
        if stream.position is not at or after is None:
            at = stream.position
            chunk, after = texts.after(at)
            takers = []
            if chunk:
                writes.append((chunk, takers))
        stream.position = after
        if chunk:
            stream.silent = False
            takers.append(stream.write_chunk)
    for chunk, takers in writes:
        for write in takers:
            write(chunk)


class EventStreams:
    """The event streams of a gateway."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._streams: dict[LiveTopic, Streams] = {}
        self._open: set[Stream] = set()
        self._swept = 0.0

    @contextmanager
    def opened(
        self, topic: Topic, connection: GuardedHttp, since: Version | None, again: Callable[[], Topic] | None = None
    ) -> Iterator[Stream]:
        """Add a stream to the topic's clients inside the scope; its answer's headers have been sent.

        `again` returns the topic that the client means by the catalogue in force then, or raises what refuses it.
        """

        def on_renew(stream: Stream) -> None:
            self._renew(stream, again or (lambda: topic))

        streams = self._of(self._hub.enter(topic, time.monotonic()))
        stream = Stream(streams, connection, since, on_renew)
        connection.on_drained = stream.wake
        streams.members[stream] = None
        self._open.add(stream)
        try:
            stream.wake()
            yield stream
        finally:
            stream.end()
            connection.on_drained = None
            self._open.discard(stream)
            self._leave(stream, stream.streams)

    def _renew(self, stream: Stream, again: Callable[[], Topic]) -> None:
        """Move a stream to the topic that its client means by the catalogue in force, or fail it."""
        before = stream.streams
        if stream in before.members and (topic := meant_now(self._hub, before.live, stream, again)):
            stream.position = Position(reported=stream.position.reported)
            self._enter(stream, topic)
            self._leave(stream, before)
            stream.wake()

    def _enter(self, stream: Stream, topic: Topic) -> None:
        """Move a stream to the clients of a topic."""
        stream.streams = self._of(self._hub.enter(topic, time.monotonic()))
        stream.streams.members[stream] = None

    def _leave(self, stream: Stream, streams: Streams) -> None:
        """Take a stream off a topic's clients."""
        del streams.members[stream]
        if not streams.members:
            del self._streams[streams.live]
            streams.live.streams = None
        self._hub.leave(streams.live, time.monotonic())

    def _of(self, live: LiveTopic) -> Streams:
        """Return the streams of a topic, which may have none yet."""
        streams = self._streams.get(live)
        if streams is None:
            texts = EventTexts(live, self._hub.offload)
            streams = live.streams = self._streams[live] = Streams(live, texts, self._hub.offload)
        return streams

    def sweep(self, now: float) -> None:
        """Send a comment on each stream that has been silent; call it several times in COMMENT_SECONDS."""
        if now - self._swept < COMMENT_SECONDS / 2:
            return
        self._swept = now
        for stream in self._open:
            if stream.silent:
                stream.comment()
            stream.silent = True


class EventStream(Response):
    """A response that streams a topic's events until its stream ends or the client is gone."""

    media_type = "text/event-stream"

    def __init__(
        self,
        streams: EventStreams,
        topic: Topic,
        since: Version | None,
        lifetime: float | None,
        admission: Admission,
        headers: dict[str, str],
        again: Callable[[], Topic] | None = None,
    ) -> None:
        """Describe the response: `since` is the version that the client has, `lifetime` its maximum time in seconds.

        `again` is as for `EventStreams.opened`.
        """
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._streams = streams
        self._topic = topic
        self._since = since
        self._lifetime = lifetime
        self._admission = admission
        self._again = again

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._admission.seat():
            connection: GuardedHttp = scope["extensions"][CONNECTION]
            connection.begin_stream()
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            connection.chunk_writer()(chunk_of(retry_field()))
            topic = self._topic
            if self._again is not None:  # the catalogue may have changed since the request came
                try:
                    topic = self._again()
                except PollcastError as error:
                    status = Status("failed", error.explained, now_us())
                    connection.chunk_writer()(chunk_of(server_sent(status, self._since)))
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
            with (
                self._streams.opened(topic, connection, self._since, self._again) as stream,
                ending_after(self._lifetime, stream.end),
            ):
                await _until_over(stream, receive)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_over(stream: Stream, receive: Receive) -> None:
    """Wait until the stream has ended or its client is gone."""
    async with asyncio.TaskGroup() as group:
        ended = group.create_task(stream.ended.wait())
        gone = group.create_task(_until_disconnected(receive))
        await asyncio.wait([ended, gone], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        gone.cancel()


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
