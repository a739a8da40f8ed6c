"""The codes with which a gateway closes a WebSocket, and the reason for each (docs/reference/channels.md#close-codes).

The `websockets` library itself sends 1002 (input that is not a WebSocket's) and 1009 (a message larger than
POLLCAST_MAX_FRAME).
"""

from __future__ import annotations

from typing import Final

GOING_AWAY: Final = 1001
"""The client sent nothing for a minute, not even a heartbeat."""

UNSUPPORTED_DATA: Final = 1003
"""The client sent a binary message; Pollcast takes text messages only."""

INVALID_MESSAGE: Final = 1007
"""The client sent a text that is not a message of Phoenix's V2 JSON serializer."""

MESSAGE_TOO_BIG: Final = 1009
"""The client sent a message larger than POLLCAST_MAX_FRAME over long polling."""

SERVICE_RESTART: Final = 1012
"""The gateway is draining or etcd has lost its data: the client should reconnect, to any gateway."""

STUCK: Final = 1013
"""The client read nothing for so long that its buffers stayed full."""

TOKEN_EXPIRED: Final = 4001
"""The client's token expired, and no new one arrived within the grace period."""
