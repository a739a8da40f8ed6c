"""Refusals of what a client may repeat as often as it likes: each is counted, and logged once a minute at most.

The kinds are pages of a foreign Origin, tokens, and what is too large: HTTP requests, messages on a WebSocket, topics
(docs/reference/security.md#refusals).
"""

from __future__ import annotations

from typing import Final, Literal

import prometheus_client

from pollcast.services.process import logs
from pollcast.services.process.occasional import Occasional

Kind = Literal["origin", "token", "request", "message", "topic"]
"""A kind of refusal."""

REFUSED: Final = prometheus_client.Counter(
    "pollcast_refused",
    "Pages of a foreign Origin, tokens, and requests, messages and topics that are too large, which were refused.",
    ["kind"],
)

_log = logs.get_logger("refusals")

LINES: Final[dict[Kind, Occasional]] = {
    "origin": Occasional(_log.warning, "refusing pages of a foreign Origin"),
    "token": Occasional(_log.warning, "refusing tokens"),
    "request": Occasional(_log.warning, "refusing HTTP requests that are too large"),
    "message": Occasional(_log.warning, "closing sockets for messages that are too large"),
    "topic": Occasional(_log.warning, "refusing topics that are too long"),
}
"""The log line of each kind."""

for _kind in LINES:
    REFUSED.labels(_kind)


def refused(kind: Kind, **fields: object) -> None:
    """Count a refusal, and log it with these fields if its kind has not been logged for a minute.

    Pass no token, and no text of a client that is longer than a line.
    """
    REFUSED.labels(kind).inc()
    LINES[kind](**fields)
