"""Progress of a peer that reads slowly: it is cut off for taking nothing, never for being slow.

What the peer has taken is counted by its machine's acknowledgements, because the kernel's buffers hide the rest: the
write buffer of a process may stand still for a minute while a slow peer reads the megabytes that the kernel holds.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

STUCK_SECONDS: Final = 30.0
"""Maximum time for which a peer may take nothing of what waits for it, in seconds."""

_TCP_INFO_BYTES: Final = 128
_BYTES_ACKED: Final = struct.Struct("=120xQ")
"""The field `tcpi_bytes_acked` in Linux' `struct tcp_info`."""


def bytes_taken(transport: asyncio.WriteTransport) -> int:
    """Return a number that changes whenever the peer takes bytes of what waits for it.

    On Linux it is the number of bytes that the peer's machine has acknowledged. Elsewhere it is the size of the write
    buffer, which shrinks when the kernel takes bytes.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None and hasattr(socket, "TCP_INFO") and connection.family != socket.AF_UNIX:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        if len(info) == _TCP_INFO_BYTES:
            (acknowledged,) = _BYTES_ACKED.unpack(info)
            return int(acknowledged)
    return -transport.get_write_buffer_size()


class Patience:
    """The time for which a peer has taken nothing. Pure; times are monotonic seconds."""

    __slots__ = ("_since", "_taken")

    def __init__(self, taken: int, now: float) -> None:
        self._taken = taken
        self._since = now

    def waited(self, taken: int, now: float) -> float:
        """Return the seconds since `taken` (of `bytes_taken`) changed for the last time, as far as calls have seen."""
        if taken != self._taken:
            self._taken, self._since = taken, now
        return now - self._since
