"""The lobby of an HTTP server: its connections that wait for a request or linger after a refusal.

Every connection is in one of three places: in the lobby, where it has a deadline; being answered, where a peer that
reads nothing is cut off (serving.http_guard); or upgraded, where the application watches over it. The server as a whole
holds at most `capacity` connections. A new one beyond that takes the place of the oldest in the lobby, so a peer that
opens connections and sends nothing locks nobody out, and the process keeps descriptors for its own connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

import prometheus_client

from pollcast.services.process import logs
from pollcast.services.process.occasional import Occasional

log = logs.get_logger("http")

LINGER_SECONDS: Final = 2.0
"""Maximum time for a peer to close a connection after its last answer."""

LINGER_BYTES: Final = 1024 * 1024
"""Maximum number of bytes that are discarded from a peer after its last answer."""

SWEEP_SECONDS: Final = 0.25
"""Interval between two checks of the lobby's deadlines."""

REFUSALS = prometheus_client.Counter(
    "pollcast_http_refusals",
    "Connections that were refused or cut off before their request or handshake was served, by reason.",
    ["reason"],
)
for reason in ("bad_request", "draining", "forbidden", "no_room", "not_found", "slow", "too_many_connections"):
    REFUSALS.labels(reason)


class Visitor(Protocol):
    """A connection in the lobby."""

    def too_slow(self) -> None:
        """Close the connection, because its deadline has passed. The lobby has forgotten it already."""

    def make_room(self) -> None:
        """Close the connection at once, because another needs its place. The lobby has forgotten it already."""


class Lobby:
    """The connections of a server that have a deadline, in the order in which they entered.

    `capacity` is the maximum number of the server's connections in all places together; `now` returns monotonic
    seconds.
    """

    def __init__(self, capacity: int, now: Callable[[], float]) -> None:
        self.capacity = capacity
        self._now = now
        self._deadlines: dict[Visitor, float] = {}
        self._log = Occasional(log.warning, "closing connections to make room for others", now)

    def __len__(self) -> int:
        return len(self._deadlines)

    def enter(self, visitor: Visitor, seconds: float) -> None:
        """Add a connection that must leave within `seconds`. It must not be in the lobby."""
        self._deadlines[visitor] = self._now() + seconds

    def leave(self, visitor: Visitor) -> None:
        """Remove a connection; do nothing when it is not in the lobby."""
        self._deadlines.pop(visitor, None)

    def make_room(self) -> None:
        """Close the oldest connection in the lobby. Call this when a connection in the lobby is one too many."""
        visitor = next(iter(self._deadlines))
        del self._deadlines[visitor]
        REFUSALS.labels("no_room").inc()
        self._log(capacity=self.capacity)
        visitor.make_room()

    def sweep(self, now: float) -> None:
        """Close the connections whose deadline has passed at `now`."""
        for visitor in [visitor for visitor, deadline in self._deadlines.items() if deadline <= now]:
            self.leave(visitor)
            visitor.too_slow()

    async def run(self) -> None:
        """Enforce the deadlines until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep(self._now())


class Lingering(asyncio.Protocol):
    """A connection whose last answer is written: the rest of the peer's input is discarded until the peer closes it.

    To close at once would reset the connection when the peer is still sending, and the peer might lose the answer (RFC
    9112, section 9.6).
    """

    __slots__ = ("_connections", "_discarded", "_lobby", "_transport")

    def __init__(self, transport: asyncio.Transport, connections: set[Any], lobby: Lobby) -> None:
        """Take over a connection; `connections` is the server's set."""
        self._transport = transport
        self._connections = connections
        self._lobby = lobby
        self._discarded = 0
        if transport.is_closing():
            return
        connections.add(self)
        lobby.enter(self, LINGER_SECONDS)
        transport.set_protocol(self)
        transport.write_eof()
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > LINGER_BYTES:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lobby.leave(self)
        self._connections.discard(self)

    def too_slow(self) -> None:
        """Cut the connection off."""
        self._transport.abort()

    def make_room(self) -> None:
        """Cut the connection off: its answer is written already."""
        self._connections.discard(self)
        self._transport.abort()

    def shutdown(self) -> None:
        """Close the connection because the server stops."""
        self._transport.close()
