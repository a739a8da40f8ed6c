"""Parsers of inbound WebSocket frames, lent to connections while a frame or a message is half read.

Between two messages all parsers of a kind are alike, so an idle connection has none.

This module relies on two details of `websockets` that tests/unit/test_wire.py pins: a Protocol in state OPEN is ready
to parse, and its parser waits in `StreamReader.at_eof` between two frames.
"""

from __future__ import annotations

from typing import Any, cast

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.protocol import Protocol as SansIO
from websockets.protocol import Side, State
from websockets.streams import StreamReader

from pollcast.gateway.outbound_frames import WINDOW_BITS

try:
    from websockets.speedups import apply_mask
except ImportError:  # the library was built without its C module
    from websockets.utils import apply_mask


class FrameParser:
    """A parser of one connection's frames, which also encodes its control frames.

    `protocol` is websockets' parser; `fragments` holds the beginning of a message that comes in several frames.
    """

    __slots__ = ("fragments", "protocol")

    def __init__(self, protocol: SansIO) -> None:
        self.protocol = protocol
        self.fragments: bytearray | None = None

    def size_with(self, frame: Frame) -> int:
        """Return the size of the message that the frame belongs to, as far as it has come."""
        return len(frame.data) + (len(self.fragments) if self.fragments is not None else 0)

    def continued(self, frame: Frame) -> bytearray | None:
        """Add a continuation frame, and return the whole message when it is the last one."""
        if self.fragments is None:
            return None
        self.fragments += frame.data
        if not frame.fin:
            return None
        whole, self.fragments = self.fragments, None
        return whole


class ParserPool:
    """The spare parsers for connections that negotiated the same limits and extensions."""

    MAX_SPARE = 8

    def __init__(self, max_size: int | None, deflate: bool) -> None:
        self.max_size = max_size
        self._deflate = deflate
        self._spare: list[FrameParser] = []

    def borrow(self) -> FrameParser:
        """Return a parser that expects the beginning of a message."""
        if self._spare:
            return self._spare.pop()
        protocol = SansIO(Side.SERVER, state=State.OPEN, max_size=self.max_size)
        if self._deflate:
            protocol.extensions = [PerMessageDeflate(True, True, 15, WINDOW_BITS)]
        return FrameParser(protocol)

    def take_back(self, parser: FrameParser) -> None:
        """Keep an idle parser for the next connection, or close it when there are enough."""
        if len(self._spare) < self.MAX_SPARE:
            self._spare.append(parser)
        else:
            parser.protocol.parser.close()


def whole_text(data: bytes, max_size: int | None) -> bytes | None:
    """Return the text of one small frame that is all of the data: an uncompressed text message from a client.

    Return None for anything else, which needs a parser.
    """
    size = len(data)
    if size < 6 or data[0] != 0x81:
        return None
    length = data[1]
    if length == size - 6 + 0x80 and length < 0xFE:
        start = 6
    elif length == 0xFE and size >= 134 and int.from_bytes(data[2:4]) == size - 8:
        start = 8
    else:
        return None
    if max_size is not None and size - start > max_size:
        return None
    return apply_mask(data[start:], data[start - 4 : start])


def is_idle(protocol: SansIO) -> bool:
    """Return whether the protocol is between two messages, and so holds nothing of its connection."""
    waits_in = cast(Any, protocol.parser).gi_yieldfrom
    while getattr(waits_in, "gi_yieldfrom", None) is not None:
        waits_in = waits_in.gi_yieldfrom
    return (
        protocol.state is State.OPEN
        and protocol.current_size is None
        and getattr(waits_in, "gi_code", None) is StreamReader.at_eof.__code__
    )


_pools: dict[tuple[int | None, bool], ParserPool] = {}


def parser_pool(max_size: int | None, deflate: bool) -> ParserPool:
    """Return this process's pool for connections with these limits and with or without permessage-deflate."""
    kind = (max_size, deflate)
    if kind not in _pools:
        _pools[kind] = ParserPool(max_size, deflate)
    return _pools[kind]
