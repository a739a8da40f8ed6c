"""Parsers of inbound frames, lent to connections: one belongs to a connection only while a frame or a message is half
read. Between messages all of a kind are alike, so that an idle connection has none.

Relied on in websockets (tests/unit/test_wire.py pins it): that a Protocol in state OPEN is ready to parse, and where
its parser waits.
"""

from __future__ import annotations

from typing import Any, cast

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import Protocol as Framing
from websockets.protocol import Side, State
from websockets.streams import StreamReader

from pollcast.gateway.frames import WINDOW_BITS


class Framings:
    """Parsers of inbound frames (and makers of control frames), for connections of one kind."""

    SPARE = 8

    def __init__(self, max_size: int | None, deflate: bool) -> None:
        self._max_size = max_size
        self._deflate = deflate
        self._spare: list[Framing] = []

    def borrow(self) -> Framing:
        if self._spare:
            return self._spare.pop()
        framing = Framing(Side.SERVER, state=State.OPEN, max_size=self._max_size)
        if self._deflate:
            framing.extensions = [PerMessageDeflate(True, True, 15, WINDOW_BITS)]
        return framing

    def take_back(self, framing: Framing) -> None:
        """One that is idle."""
        if len(self._spare) < self.SPARE:
            self._spare.append(framing)
        else:
            framing.parser.close()


def is_idle(framing: Framing) -> bool:
    """Whether it stands between two messages: then it knows nothing of its connection."""
    waits_in = cast(Any, framing.parser).gi_yieldfrom
    while getattr(waits_in, "gi_yieldfrom", None) is not None:
        waits_in = waits_in.gi_yieldfrom
    return (
        framing.state is State.OPEN
        and framing.current_size is None
        and getattr(waits_in, "gi_code", None) is StreamReader.at_eof.__code__
    )


_framings: dict[tuple[int | None, bool], Framings] = {}


def framings(max_size: int | None, deflate: bool) -> Framings:
    """Those of a kind, one pool per process."""
    kind = (max_size, deflate)
    if kind not in _framings:
        _framings[kind] = Framings(max_size, deflate)
    return _framings[kind]
