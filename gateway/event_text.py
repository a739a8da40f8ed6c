"""The text of server-sent events, made once for all streams of a topic that are at the same position.

`EventTexts.after` is a memo over `pollcast.gateway.follower.due`: it holds the texts of the present result and status
only, so that it grows with the number of different positions, and not with clients or time. A large text is made
outside the event loop (gateway/offload.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pollcast.gateway.follower import DeltaEvent, Position, TopicEvent, due
from pollcast.gateway.history import Result
from pollcast.gateway.offload import Offload
from pollcast.gateway.status import Status
from pollcast.gateway.topic import LiveTopic
from pollcast.gateway.version import Version
from pollcast.services.serving.http_guard import chunk_of

Step = tuple[bytes, Position]
"""Pair of what a stream is sent, as a chunk of its answer, and its position after that."""

MAX_TEXTS = 16
"""Maximum number of texts that are kept for a topic."""

_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
"""The characters beyond ASCII that some clients take for the end of a line, and the same in JSON's spelling."""

_LINE_END = re.compile(rb"\r\n|\r|\n")


class EventTexts:
    """The texts that lead the streams of one topic to its present state."""

    __slots__ = ("_deltas", "_last", "_offload", "_prepared", "_preparing", "_status", "_texts", "_topic", "_version")

    def __init__(self, topic: LiveTopic, offload: Offload) -> None:
        self._topic = topic
        self._offload = offload
        self._deltas = bool(topic.topic.query.key)
        self._version: Version | None = None  # what the texts lead to, with the status
        self._status: Status | None = None
        self._texts: dict[Position, Step] = {}
        self._last: tuple[Position, Step] | None = None  # most streams are at the same position
        self._preparing = False
        self._prepared: tuple[Position, Step] | None = None  # a large step while streams are woken for it

    def after(self, position: Position) -> Step:
        """Return what a stream at a position is sent next.

        The chunk is empty when nothing is new, and while a large text is made: the topic's streams are woken then.
        """
        topic = self._topic
        present = topic.present
        version = None if present is None else present.version
        if version is not self._version or topic.status is not self._status:
            self._version, self._status = version, topic.status
            self._texts.clear()
            self._last = None
        elif self._last is not None and self._last[0] is position:
            return self._last[1]
        if self._prepared is not None and self._prepared[0] == position:
            return self._prepared[1]
        found = self._texts.get(position)
        if found is None:
            if len(self._texts) >= MAX_TEXTS:
                self._texts.clear()
            events, after = due(topic, position, self._deltas)
            if any(map(_is_large, events)):
                self._prepare(events, position, after)
                return b"", position
            found = self._texts[position] = _step(events, position, after)
        self._last = position, found
        return found

    def _prepare(self, events: list[TopicEvent], position: Position, after: Position) -> None:
        """Make a large step outside the event loop, one at a time, and then wake the streams.

        They take it even when the topic has changed meanwhile, so that no stream waits for ever. Then they are woken
        once more, because nothing else may ever tell them of that change.
        """
        if self._preparing:
            return
        self._preparing = True
        made: list[Step] = []
        aim = self._version, self._status

        def done() -> None:
            self._preparing, self._prepared = False, (position, made[0])
            self._wake_streams(woken)

        def woken() -> None:
            if self._prepared is not None and self._prepared[1] is made[0]:
                self._prepared = None
            present = self._topic.present
            if present is not None and (present.version, self._topic.status) == aim:
                self._texts[position] = made[0]
            else:
                self._wake_streams()

        self._offload.run(lambda: made.append(_step(events, position, after)), done)

    def _wake_streams(self, then: Callable[[], None] | None = None) -> None:
        if self._topic.streams is not None:
            self._topic.streams.wake(then)


def _is_large(event: TopicEvent) -> bool:
    if isinstance(event, Result):
        return event.body.large
    return isinstance(event, DeltaEvent) and event.entry.body.large


def _step(events: list[TopicEvent], position: Position, after: Position) -> Step:
    text = encoded(events, position.version or position.since)
    return chunk_of(text) if text else b"", after


def encoded(events: list[TopicEvent], known: Version | None) -> bytes:
    """Return events as text, for a client that has the version `known` before them."""
    texts = []
    for event in events:
        if isinstance(event, Result):
            known = event.version
        elif isinstance(event, DeltaEvent):
            known = event.entry.version
        texts.append(server_sent(event, known))
    return b"".join(texts)


def server_sent(event: TopicEvent, known: Version | None) -> bytes:
    """Return one server-sent event; `known` is the version that the client has after it."""
    if isinstance(event, Result):
        name, payload = b"snapshot", event.payload
    elif isinstance(event, DeltaEvent):
        name, payload = b"delta", event.entry.payload(event.base)
    else:
        name, payload = b"status", event.payload()
    identifier = b"id: %b\n" % str(known).encode() if known is not None else b""
    if not payload.isascii():
        for character, escape in _SEPARATORS:  # in JSON they occur in strings only
            payload = payload.replace(character, escape)
    if b"\n" in payload or b"\r" in payload:  # white space in JSON: each line becomes a data line
        payload = b"\ndata: ".join(_LINE_END.split(payload))
    return b"event: %b\n%bdata: %b\n\n" % (name, identifier, payload)
