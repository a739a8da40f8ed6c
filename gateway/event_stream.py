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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pollcast.gateway.admission import Admission
from pollcast.gateway.event_text import EventTexts
from pollcast.gateway.follower import Position, ending_after
from pollcast.gateway.hub import Hub
from pollcast.gateway.topic import LiveTopic
from pollcast.gateway.version import Version
from pollcast.services.catalogue.topics import Topic
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

    def write_chunk(self, chunk: bytes) -> None:
        """Write a chunk of the answer; must not block."""


def retry_field() -> bytes:
    """Return the beginning of a stream: the time after which its client connects again when the stream has ended.

    It is random, so that the clients of a gateway that has died do not reach the others all at once. A stream that has
    only this beginning is the answer of a draining gateway: a browser's EventSource gives up for good on a 503.
    """
    return b"retry: %d\n\n" % random.randint(*RETRY_MILLISECONDS)


class Stream:
    """One client's stream of a topic, as the topic sees it."""

    __slots__ = ("_connection", "_position", "_texts", "ended", "silent")

    def __init__(self, texts: EventTexts, connection: StreamConnection, since: Version | None) -> None:
        self._texts = texts
        self._connection = connection
        self._position = Position(since=since)
        self.ended = asyncio.Event()
        self.silent = False  # whether nothing was written since the last call of `EventStreams.sweep`

    def wake(self) -> None:
        """Write what is new, unless the client has not taken what was written before."""
        if self.ended.is_set() or self._connection.blocked:
            return
        before = self._position
        chunk, after = self._texts.after(before)
        if after is not before:
            self._position = after
        if chunk:
            self._connection.write_chunk(chunk)
            self.silent = False

    def comment(self) -> None:
        """Write a comment, unless something else was or waits to be written."""
        if not self.ended.is_set() and not self._connection.blocked:
            self._connection.write_chunk(COMMENT)

    def end(self) -> None:
        """Write nothing more, and end the response."""
        self.ended.set()


class EventStreams:
    """The event streams of a gateway."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._texts: dict[LiveTopic, EventTexts] = {}
        self._open: set[Stream] = set()
        self._swept = 0.0

    @contextmanager
    def opened(self, topic: Topic, connection: GuardedHttp, since: Version | None) -> Iterator[Stream]:
        """Add a stream to the topic's clients inside the scope; its answer's headers have been sent."""
        live = self._hub.enter(topic, time.monotonic())
        texts = self._texts.get(live)
        if texts is None:
            texts = self._texts[live] = EventTexts(live, self._hub.offload)
        texts.streams += 1
        stream = Stream(texts, connection, since)
        connection.on_drained = stream.wake
        live.followers.add(stream)
        self._open.add(stream)
        try:
            stream.wake()
            yield stream
        finally:
            stream.end()
            connection.on_drained = None
            self._open.discard(stream)
            live.followers.discard(stream)
            texts.streams -= 1
            if not texts.streams:
                del self._texts[live]
            self._hub.leave(live, time.monotonic())

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
    ) -> None:
        """Describe the response: `since` is the version that the client has, `lifetime` its maximum time in seconds."""
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._streams = streams
        self._topic = topic
        self._since = since
        self._lifetime = lifetime
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._admission.seat():
            connection: GuardedHttp = scope["extensions"][CONNECTION]
            connection.begin_stream()
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            connection.write_chunk(chunk_of(retry_field()))
            with (
                self._streams.opened(self._topic, connection, self._since) as stream,
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
