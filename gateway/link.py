"""The way from a client's socket to its client, whichever transport that is.

`pollcast.gateway.wire.Wire` is a WebSocket, `pollcast.gateway.longpoll_wire.LongPollWire` a session of long polling.
Both take the same ready frames, so that a message is encoded once for the clients of both.
"""

from __future__ import annotations

from typing import Protocol

from pollcast.gateway.outbox import Outbox
from pollcast.gateway.turns import Turns


class Link(Protocol):
    """The way to one client.

    `congested` is true while too much waits for the client, and `closing` from the beginning of its end. `blocked` is
    true while either is: nothing should be written then but answers to the client's messages. `deflates` is true when
    it takes compressed frames.
    """

    blocked: bool
    closing: bool
    congested: bool
    deflates: bool
    outbox: Outbox
    turns: Turns

    def write(self, frames: bytes) -> None:
        """Write ready frames of `pollcast.gateway.outbound_frames`. Do nothing when it is closing."""

    def close(self, code: int, reason: str = "") -> None:
        """Begin to end it, for a reason of `pollcast.gateway.close_codes`; the socket's `closed` follows soon."""

    def abort(self, code: int, reason: str) -> None:
        """End it at once."""

    @property
    def waiting(self) -> int:
        """The bytes that wait for the client in this process."""

    def taken(self) -> int:
        """Return a number that changes whenever the client takes bytes (`pollcast.services.serving.progress`)."""
