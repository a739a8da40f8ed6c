"""An asyncio client for Pollcast: `async for change in watch("live:…", url="http://127.0.0.1:4000")`."""

from pollcast_client.change import Change, Delta, Status
from pollcast_client.errors import PollcastClientError, ProtocolViolated, Refused
from pollcast_client.event import Connected, Disconnected, Event, Joined, Pushed
from pollcast_client.presence import Listed
from pollcast_client.result import Result, Row
from pollcast_client.topic import topic
from pollcast_client.watching import Watch, watch

__all__ = [
    "Change",
    "Connected",
    "Delta",
    "Disconnected",
    "Event",
    "Joined",
    "Listed",
    "PollcastClientError",
    "ProtocolViolated",
    "Pushed",
    "Refused",
    "Result",
    "Row",
    "Status",
    "Watch",
    "topic",
    "watch",
]
