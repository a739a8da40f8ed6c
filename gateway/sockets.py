"""The open sockets of a gateway, of both transports: opening, counting and sweeping them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from pollcast.gateway.channels import Socket, SocketContext
from pollcast.gateway.close_codes import GOING_AWAY, STUCK, TOKEN_EXPIRED
from pollcast.gateway.hub import Hub
from pollcast.gateway.identity import Identity
from pollcast.gateway.limits import Limits
from pollcast.gateway.link import Link
from pollcast.gateway.socket_counts import SocketCounts
from pollcast.gateway.topic_memo import TopicMemo
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.serving.progress import Patience

SWEEPS = 4
"""Number of calls of `Sockets.sweep` that together check every socket once."""


class Sockets:
    """The collection of a gateway's open sockets. Iterate over a copy when the loop closes or awaits."""

    def __init__(
        self,
        hub: Hub,
        catalogue: CatalogueInForce,
        limits: Limits,
        identify: Callable[[str], Identity],
        now: Callable[[], float],
    ) -> None:
        self.counts = SocketCounts()
        memo = TopicMemo(catalogue)
        self.context = SocketContext(hub, catalogue, memo, limits, identify, now, self.counts, self._remove)
        self._open: set[Socket] = set()
        self._unjoined: dict[Socket, float] = {}  # when they were opened; some may have joined since the last sweep
        self._unswept: list[Socket] = []
        self._part_size = 0
        self._none_left = asyncio.Event()
        self._none_left.set()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Socket]:
        return iter(self._open)

    def open(self, wire: Link, identity: Identity) -> Socket:
        """Return a new socket for a connection whose handshake has just ended."""
        socket = Socket(wire, identity, self.context)
        self._open.add(socket)
        self._unjoined[socket] = socket.last_heard
        self._none_left.clear()
        return socket

    async def all_closed(self) -> None:
        """Wait until no socket is open."""
        await self._none_left.wait()

    def sweep(self, now: float, wall: float) -> None:
        """Close the sockets that are silent, stuck, have not joined any topic, or whose token has expired.

        Call SWEEPS times a second: each call checks another part of the sockets. `now` is monotonic seconds, `wall` is
        seconds since the Unix epoch.
        """
        if not self._unswept:
            self._unswept = list(self._open)
            self._part_size = -(-len(self._unswept) // SWEEPS)
            self._check_joined(now)
        for socket in self._unswept[: self._part_size]:
            self._check(socket, now, wall)
        del self._unswept[: self._part_size]

    def _check(self, socket: Socket, now: float, wall: float) -> None:
        wire, limits = socket.wire, self.context.limits
        if wire.closing:
            return
        if socket.identity.expired(wall - limits.expiry_grace_seconds):
            wire.close(TOKEN_EXPIRED, "the token has expired")
        elif wire.congested:  # the gateway does not read from it either, so silence proves nothing
            taken = wire.taken()
            if socket.patience is None:
                socket.patience = Patience(taken, now)
            elif socket.patience.waited(taken, now) > limits.stuck_seconds:
                self.counts.stuck += 1
                wire.close(STUCK, "reads nothing")
        elif now - socket.last_heard > limits.silent_seconds:
            wire.close(GOING_AWAY, "no message for too long, not even a heartbeat")

    def _check_joined(self, now: float) -> None:
        """Close the sockets that were opened long ago and have never joined a topic."""
        for socket, opened in list(self._unjoined.items()):
            if socket.has_joined:
                del self._unjoined[socket]
            elif now - opened > self.context.limits.unjoined_seconds:
                del self._unjoined[socket]
                socket.wire.close(GOING_AWAY, "no topic was joined in time")

    def _remove(self, socket: Socket) -> None:
        self._open.discard(socket)
        self._unjoined.pop(socket, None)
        if not self._open:
            self._none_left.set()
