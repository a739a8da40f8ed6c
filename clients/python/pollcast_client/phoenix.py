"""The messages of Phoenix Channels, V2 JSON serializer: `[join_ref, ref, topic, event, payload]`. Pure: no I/O."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pollcast_client.errors import ProtocolViolated
from pollcast_client.exact import loads

VSN = "2.0.0"
"""The version of the serializer, which the client sends as `vsn` in the WebSocket's address."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message in either direction; `payload` is decoded JSON."""

    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: Any

    def encode(self) -> str:
        """Return the message as the text of a WebSocket frame."""
        return json.dumps([self.join_ref, self.ref, self.topic, self.event, self.payload], separators=(",", ":"))


def decode(text: str | bytes, parse_float: Callable[[str], Any] = float) -> Message:
    """Return the message of a WebSocket frame; `parse_float` is as in `json.loads`. Raises ProtocolViolated when the
    text is not a message."""
    try:
        join_ref, ref, topic, event, payload = loads(text, parse_float)
    except (ValueError, TypeError) as error:
        raise ProtocolViolated(f"not a message of Phoenix Channels: {error}") from None
    return Message(join_ref, ref, topic, event, payload)


def socket_url(url: str) -> str:
    """Return the WebSocket's address for any spelling of a gateway's address: `http://host:4000`, `ws://host/socket`, …

    Raises ValueError when the text is not such an address.
    """
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ValueError(f"{url!r} is not the address of a gateway, as in http://127.0.0.1:4000")
    path = parts.path.rstrip("/")
    if not path.endswith("/websocket"):
        path = f"{path}/websocket" if path.endswith("/socket") else f"{path}/socket/websocket"
    return urlunsplit((scheme, parts.netloc, path, f"vsn={VSN}", ""))


def subprotocols(token: str | None) -> list[str]:
    """Return the WebSocket subprotocols to offer. As in phoenix.js, one of them carries the token, so that the token is
    in no address and in no access log."""
    if token is None:
        return ["phoenix"]
    return ["phoenix", "base64url.bearer.phx." + base64.b64encode(token.encode()).decode().rstrip("=")]
