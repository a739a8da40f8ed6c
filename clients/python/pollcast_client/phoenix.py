"""Messages of Phoenix Channels, V2 JSON serializer: `[join_ref, ref, topic, event, payload]`. Pure."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pollcast_client.errors import ProtocolViolated

VSN = "2.0.0"


@dataclass(frozen=True, slots=True)
class Message:
    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: Any

    def encode(self) -> str:
        return json.dumps([self.join_ref, self.ref, self.topic, self.event, self.payload], separators=(",", ":"))


def decode(text: str | bytes) -> Message:
    """ProtocolViolated when it is no message."""
    try:
        join_ref, ref, topic, event, payload = json.loads(text)
    except (ValueError, TypeError) as error:
        raise ProtocolViolated(f"no message of Phoenix Channels: {error}") from None
    return Message(join_ref, ref, topic, event, payload)


def socket_url(url: str) -> str:
    """`http://host:4000`, `ws://host/socket` and the like → the WebSocket's address. ValueError when it is none."""
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ValueError(f"{url!r} is not the address of a gateway, as in http://127.0.0.1:4000")
    path = parts.path.rstrip("/")
    if not path.endswith("/websocket"):
        path = f"{path}/websocket" if path.endswith("/socket") else f"{path}/socket/websocket"
    return urlunsplit((scheme, parts.netloc, path, f"vsn={VSN}", ""))


def subprotocols(token: str | None) -> list[str]:
    """What to offer: the token travels as phoenix.js sends it, so that it stands in no address."""
    if token is None:
        return ["phoenix"]
    return ["phoenix", "base64url.bearer.phx." + base64.b64encode(token.encode()).decode().rstrip("=")]
