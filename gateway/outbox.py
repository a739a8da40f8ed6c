"""Gathering of writes: all frames that one event writes to a connection leave in one system call."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Protocol
from weakref import WeakKeyDictionary


class Flushable(Protocol):
    """A connection that buffers frames while the outbox is held (`pollcast.gateway.wire.Wire`)."""

    def flush(self) -> None:
        """Write the buffered frames to the transport."""


class Outbox:
    """The connections of one event loop that have buffered frames.

    While it is held (`with outbox:`), connections buffer the frames that are written; at the end each flushes. Hold it
    only within one turn of the loop.
    """

    __slots__ = ("buffering", "held")

    _of: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self.held = 0  # the number of nested `with` blocks
        self.buffering: list[Flushable] = []

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Outbox:
        """Return this loop's outbox; create it on first use."""
        outbox = cls._of.get(loop)
        if outbox is None:
            outbox = cls._of[loop] = cls()
        return outbox

    def __enter__(self) -> None:
        self.held += 1

    def __exit__(self, *_: object) -> None:
        self.held -= 1
        if not self.held and self.buffering:
            buffering, self.buffering = self.buffering, []
            for connection in buffering:
                connection.flush()
