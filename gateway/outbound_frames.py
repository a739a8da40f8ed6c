"""Outbound WebSocket frames: each message is framed once, and compressed once, for all connections that it goes to.

permessage-deflate is negotiated without context takeover on either side (`DEFLATE_EXTENSIONS`), so that one compressed
frame serves every connection and no connection keeps compression state. A message is compressed in parts, which become
consecutive blocks of one deflate stream: what all spellings of a topic share is compressed once for all of them.
"""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections.abc import Callable
from typing import Final

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

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

DEFLATE_MEMORY: Final = 5
"""zlib's `memLevel`: a compressor takes 32 KiB."""

SHARED_BYTES: Final = 4096
"""Size from which a body is compressed once for all spellings, and each head by itself: a few bytes more to send."""

COPIED_BYTES: Final = 1024 * 1024
"""Size up to which a text that exists is framed, which copies it, without regard to the time that it takes."""

_TEXT: Final = 0x81
_COMPRESSED_TEXT: Final = 0xC1
"""The first byte of a whole text frame, and of a compressed one."""

_FLUSHED: Final = b"\x00\x00\xff\xff"
"""The end of flushed blocks, which a message leaves out (RFC 7692, section 7.2.1)."""


def frame(payload: bytes, first: int = _TEXT) -> bytes:
    """Return one text frame, unmasked as servers send it, ready to be written to any number of connections."""
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (first, size, payload)
    if size < 65536:
        return b"%c\x7e%b%b" % (first, size.to_bytes(2), payload)
    return b"%c\x7f%b%b" % (first, size.to_bytes(8), payload)


class Body:
    """The part of a message that is the same in every spelling of its topic, with its compressed form, each made once.

    `make` returns the text, unless it is given; it is called when the text is first needed. A `large` body takes so
    long to make and to compress that this should happen outside the event loop.
    """

    __slots__ = ("_deflated", "_lock", "_make", "_text", "large")

    def __init__(self, make: Callable[[], bytes] | None, *, large: bool = False, text: bytes | None = None) -> None:
        self.large = large
        self._make = make
        self._text = text
        self._deflated: bytes | None = None
        self._lock = threading.Lock() if large else None

    @property
    def text(self) -> bytes:
        """The text, without anything that depends on a spelling."""
        if self._text is not None:
            return self._text
        if self._make is not None:
            with self._lock or contextlib.nullcontext():
                if self._make is not None:
                    self._text, self._make = self._make(), None
        assert self._text is not None
        return self._text

    @property
    def size(self) -> int:
        """The bytes that are held now."""
        return sum(len(each) for each in (self._text, self._deflated) if each is not None)

    @property
    def deflated(self) -> bytes:
        """The compressed text, as a sequence of whole deflate blocks that refer to nothing before them."""
        if self._deflated is None:
            text = self.text
            with self._lock or contextlib.nullcontext():
                if self._deflated is None:
                    self._deflated = _blocks(text)
        return self._deflated


NO_BODY: Final = Body(None, text=b"")
"""The body of a message that is framed as a whole."""


class Framed:
    """A text message as frames: one plain for all connections, and one compressed, made when it is first needed.

    The message is `head`, the text of `body` and `end`.
    """

    __slots__ = ("_deflated", "_plain", "body", "end", "head")

    def __init__(self, head: bytes, body: Body = NO_BODY, end: bytes = b"") -> None:
        self.head = head
        self.body = body
        self.end = end
        self._plain: bytes | None = None
        self._deflated: bytes | None = None

    @property
    def plain(self) -> bytes:
        """The frame for a connection that does not take compressed frames."""
        if self._plain is None:
            self._plain = frame(b"%b%b%b" % (self.head, self.body.text, self.end))
        return self._plain

    def ready(self, deflates: bool) -> bytes:
        """Return the frame for a connection that takes compressed frames (`deflates`) or does not."""
        if not deflates:
            return self.plain
        if self._deflated is None:
            self._deflated = self._compressed()
        return self._deflated

    def is_ready(self, deflates: bool) -> bool:
        """Return whether `ready` takes next to no time: the message is small, or its frame exists."""
        if not self.body.large or (self._deflated if deflates else self._plain) is not None:
            return True
        return not deflates and 0 < self.body.size < COPIED_BYTES

    def _compressed(self) -> bytes:
        text = self.body.text
        size = len(self.head) + len(text) + len(self.end)
        if size < MIN_DEFLATED_BYTES:
            return self.plain
        if len(text) < SHARED_BYTES:
            return deflated(b"%b%b%b" % (self.head, text, self.end))
        data = b"%b%b%b" % (_blocks(self.head), self.body.deflated, _blocks(self.end) if self.end else b"")
        return frame(data[: -len(_FLUSHED)], _COMPRESSED_TEXT)


def deflated(payload: bytes) -> bytes:
    """Return one compressed text frame, for any connection whose `Wire.deflates` is true."""
    return frame(_blocks(payload)[: -len(_FLUSHED)], _COMPRESSED_TEXT)


def _blocks(data: bytes) -> bytes:
    """Return compressed data that ends with an empty block on a byte's boundary, so that other blocks may follow."""
    compressor = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -WINDOW_BITS, DEFLATE_MEMORY)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
