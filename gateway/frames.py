"""Frames as they leave: each message framed once, and compressed once, for all connections that it goes to.

permessage-deflate is negotiated without context takeover on either side (`EXTENSIONS`), so that one compressed frame
serves everybody and no connection has compression state.
"""

from __future__ import annotations

from typing import Final

from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode

MIN_DEFLATED_BYTES = 512
"""Smaller messages are not compressed: they fit in one packet either way."""

WINDOW_BITS: Final = 12
"""Of what is sent. Clients that ask for a smaller window get everything uncompressed."""

EXTENSIONS: Final = [
    ServerPerMessageDeflateFactory(
        server_no_context_takeover=True, client_no_context_takeover=True, server_max_window_bits=WINDOW_BITS
    )
]
"""What is negotiated: no context takeover on either side."""

_DEFLATE: Final = PerMessageDeflate(True, True, 15, WINDOW_BITS, {"memLevel": 5})


def frame(payload: bytes) -> bytes:
    """One text frame, unmasked as servers send it, ready to be written to any number of connections."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8), payload)


class Framed:
    """One text message, framed once for all connections, and compressed once for those that take that, when the first
    of them needs it."""

    __slots__ = ("_deflated", "_size", "plain")

    def __init__(self, payload: bytes) -> None:
        self.plain = frame(payload)
        self._size = len(payload)
        self._deflated: bytes | None = None

    def ready(self, deflates: bool) -> bytes:
        """The bytes for a connection; smaller messages are the same for all."""
        if not deflates or self._size < MIN_DEFLATED_BYTES:
            return self.plain
        if self._deflated is None:
            self._deflated = deflated(self.plain[-self._size :])
        return self._deflated


def deflated(payload: bytes) -> bytes:
    """One compressed text frame, for any connection that `deflates`."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False, extensions=[_DEFLATE])
