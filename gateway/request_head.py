"""Reading the head of a WebSocket handshake that came in one piece."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import httptools

from pollcast.services.serving.http_guard import HEAD_END, MAX_REQUEST_BYTES

BODY = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that announce a body."""


class PlainHead(NamedTuple):
    """The head of a handshake: its target, its headers by names in lower case, and the bytes that follow it."""

    target: bytes
    headers: dict[bytes, bytes]
    rest: bytes


class HeadReader:
    """A reader of handshakes, which keeps its parser from one to the next.

    A parser is kept only after a handshake that leaves nothing in it, so that no connection can affect another.
    """

    def __init__(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._target: list[bytes] = []
        self._parser: httptools.HttpRequestParser | None = None

    def read(self, data: bytes) -> PlainHead | None:
        """Return the head of a handshake, or None for anything that is unusual.

        Unusual are a head that is not complete, an invalid one, one that asks for no upgrade to `websocket`, has a
        header twice or announces a body, and HTTP/1.0.
        """
        end = data.find(HEAD_END)
        if not 0 < end < MAX_REQUEST_BYTES:
            return None
        found, target = self._headers, self._target
        parser, self._parser = self._parser, None
        if parser is None:
            parser = httptools.HttpRequestParser(SimpleNamespace(on_header=found.__setitem__, on_url=target.append))
        found.clear()
        target.clear()
        try:
            parser.feed_data(data[: end + len(HEAD_END)])
            return None
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            return None
        headers = dict(zip(map(bytes.lower, found), map(bytes.strip, found.values()), strict=True))
        if (
            len(headers) != data.count(b"\r\n", 0, end)
            or len(target) != 1
            or headers.get(b"upgrade", b"").lower() != b"websocket"
            or parser.get_http_version() != "1.1"
            or not BODY.isdisjoint(headers)
        ):
            return None
        if b"close" not in headers[b"connection"].lower():
            self._parser = parser
        return PlainHead(target[0], headers, data[end + len(HEAD_END) :])
