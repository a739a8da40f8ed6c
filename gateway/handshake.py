"""The opening handshake of a WebSocket (RFC 6455, section 4.2): the request's checks and the answers. Pure.

`Offer.read` checks what the RFC asks of a client's request and returns the parts that decide whether it is admitted
(gateway/entrance.py). `accept` writes the answer 101; `refusal` writes any other.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import http
import re
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final, NamedTuple

import orjson
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.server import ServerProtocol

from pollcast.gateway.outbound_frames import DEFLATE_EXTENSIONS, WINDOW_BITS
from pollcast.services.errors import PollcastError
from pollcast.services.serving.http_guard import Refusal

GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""The constant that a server appends to a client's key (RFC 6455, section 1.3)."""

LISTS: Final = frozenset({b"connection", b"upgrade", b"sec-websocket-extensions", b"sec-websocket-protocol"})
"""Headers that may come several times, which means the same as one with all values between commas."""

SINGLE: Final = frozenset(
    {b"host", b"origin", b"sec-websocket-key", b"sec-websocket-version", b"content-length", b"transfer-encoding"}
)
"""Headers that may come only once. Any other header is of no concern to a handshake."""

HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+;=%-]*(:[0-9]*)?|\[[0-9A-Fa-f:.%]+\](:[0-9]*)?")
"""The syntax of the header Host (RFC 9112, section 3.2), with IP literals in brackets."""

MAX_MEMO: Final = 256
"""Maximum number of different offers of extensions whose answer is remembered."""

MAX_MEMO_BYTES: Final = 512
"""Maximum length of an offer whose answer is remembered."""

ACCEPTED: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n%b%b\r\n"
)
"""The answer 101, with places for the digest of the key, the extensions' line and the subprotocol's line."""


class BadHandshake(PollcastError):
    """This is not the opening handshake of a WebSocket."""

    reason, http = "bad_request", 400
    headers: ClassVar[bytes] = b""


class WrongVersion(BadHandshake):
    """This server speaks version 13 of the WebSocket protocol only."""

    http = 426
    headers = b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"


class Offer(NamedTuple):
    """A valid opening handshake. `extensions` is the value of Sec-WebSocket-Extensions, empty without the header."""

    query: bytes
    host: str
    origin: str | None
    subprotocols: list[str]
    extensions: bytes
    key: bytes

    @classmethod
    def read(cls, query: bytes, headers: Mapping[bytes, bytes]) -> Offer:
        """Return the offer of a request whose HTTP parser has found an upgrade to `websocket`.

        `query` is the target's part after `?`, and `headers` are those of `merged`. Raises BadHandshake.
        """
        if b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0"):
            raise BadHandshake("a WebSocket handshake has no body")
        if headers.get(b"sec-websocket-version") != b"13":
            raise WrongVersion()
        key = headers.get(b"sec-websocket-key", b"")
        if not _is_key(key):
            raise BadHandshake("Sec-WebSocket-Key must be the base64 of 16 bytes")
        host = headers.get(b"host")
        if host is None or not _is_host(host):
            raise BadHandshake("the request needs one valid Host header")
        origin = headers.get(b"origin")
        offered = headers.get(b"sec-websocket-protocol")
        return cls(
            query,
            host.decode("ascii"),
            None if origin is None else origin.decode("latin-1"),
            [] if offered is None else [each.strip() for each in offered.decode("latin-1").split(",")],
            headers.get(b"sec-websocket-extensions", b""),
            key,
        )


def merged(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return headers by their names in lower case, values without white space around them, those of LISTS joined.

    Raises BadHandshake when one of SINGLE comes twice.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        name, value = name.lower(), value.strip()
        if name not in found:
            found[name] = value
        elif name in LISTS:
            found[name] += b", " + value
        elif name in SINGLE:
            raise BadHandshake(f"the header {name.decode()} comes twice")
    return found


class Negotiated(NamedTuple):
    """The answer to an offer of extensions: its line in the response, with CRLF, or nothing.

    `inflates` is true when the client may send compressed messages, and `deflates` when it takes those of the server,
    whose window is larger than some clients allow.
    """

    line: bytes
    inflates: bool
    deflates: bool


_memo: dict[bytes, Negotiated] = {b"": Negotiated(b"", False, False)}


def negotiate(offered: bytes) -> Negotiated:
    """Return the answer to the value of Sec-WebSocket-Extensions. Raises BadHandshake when it cannot be parsed."""
    known = _memo.get(offered)
    if known is None:
        known = _negotiate(offered)
        if len(offered) <= MAX_MEMO_BYTES and len(_memo) < MAX_MEMO:
            _memo[offered] = known
    return known


def _negotiate(offered: bytes) -> Negotiated:
    headers = Headers([("Sec-WebSocket-Extensions", offered.decode("latin-1"))])
    try:
        accepted, extensions = ServerProtocol(extensions=DEFLATE_EXTENSIONS).process_extensions(headers)
    except (InvalidHeader, NegotiationError):
        raise BadHandshake("Sec-WebSocket-Extensions cannot be parsed") from None
    if accepted is None:
        return Negotiated(b"", False, False)
    deflates = any(
        isinstance(each, PerMessageDeflate) and each.local_max_window_bits >= WINDOW_BITS for each in extensions
    )
    return Negotiated(b"Sec-WebSocket-Extensions: %b\r\n" % accepted.encode(), True, deflates)


def accept(offer: Offer, negotiated: Negotiated) -> bytes:
    """Return the answer 101. It selects the subprotocol `phoenix` if that is offered."""
    digest = base64.b64encode(hashlib.sha1(offer.key + GUID, usedforsecurity=False).digest())
    subprotocol = b"Sec-WebSocket-Protocol: phoenix\r\n" if "phoenix" in offer.subprotocols else b""
    return ACCEPTED % (digest, negotiated.line, subprotocol)


def refusal(error: PollcastError) -> Refusal:
    """Return the answer to a handshake that is refused (docs/reference/channels.md#connecting)."""
    status = b"%d %b" % (error.http, http.HTTPStatus(error.http).phrase.encode())
    return Refusal(status, error.reason, orjson.dumps({"reason": error.reason, "detail": error.detail}))


@functools.lru_cache(MAX_MEMO)
def _is_host(host: bytes) -> bool:
    """Return whether this is a valid value of the header Host."""
    return HOST.fullmatch(host) is not None


def _is_key(key: bytes) -> bool:
    """Return whether this is the base64 of 16 bytes."""
    try:
        return len(key) == 24 and len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except binascii.Error:
        return False
