"""Outbound WebSocket frames: each message is framed once, and compressed once, for all connections that it goes to.

permessage-deflate is negotiated without context takeover on either side (`DEFLATE_EXTENSIONS`), so that one compressed
frame serves every connection and no connection keeps compression state.
"""

from __future__ import annotations

from typing import Final

from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode

MIN_DEFLATED_BYTES = 512
"""Size from which a message is compressed. A smaller one fits in one packet either way."""

WINDOW_BITS: Final = 12
"""Window size of the server's compression, as a power of two. Clients that ask for a smaller one get plain frames."""

DEFLATE_EXTENSIONS: Final = [
    ServerPerMessageDeflateFactory(
        server_no_context_takeover=True, client_no_context_takeover=True, server_max_window_bits=WINDOW_BITS
    )
]
"""Extensions that the server offers in a handshake: permessage-deflate without context takeover."""

_DEFLATE: Final = PerMessageDeflate(True, True, 15, WINDOW_BITS, {"memLevel": 5})


def frame(payload: bytes) -> bytes:
    """Return one text frame, unmasked as servers send it, ready to be written to any number of connections."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8), payload)


class Framed:
    """A text message as frames: one plain for all connections, and one compressed, made when it is first needed."""

    __slots__ = ("_deflated", "_size", "plain")

    def __init__(self, payload: bytes) -> None:
        self.plain = frame(payload)
        self._size = len(payload)
        self._deflated: bytes | None = None

    def ready(self, deflates: bool) -> bytes:
        """Return the frame for a connection that takes compressed frames (`deflates`) or does not."""
        if not deflates or self._size < MIN_DEFLATED_BYTES:
            return self.plain
        if self._deflated is None:
            self._deflated = deflated(self.plain[-self._size :])
        return self._deflated


def deflated(payload: bytes) -> bytes:
    """Return one compressed text frame, for any connection whose `Wire.deflates` is true."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False, extensions=[_DEFLATE])
