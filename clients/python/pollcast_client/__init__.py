"""A client for Pollcast: `async for change in watch("live:…", url="http://127.0.0.1:4000")`, or without an event loop
`Client("http://127.0.0.1:4000").live("live:…").rows`."""

from pollcast_client.change import Change, Delta, Status
from pollcast_client.client import Client, Live
from pollcast_client.errors import PollcastClientError, ProtocolViolated, Refused
from pollcast_client.event import Connected, Disconnected, Event, Joined, Pushed
from pollcast_client.poking import poke
from pollcast_client.presence import Listed
from pollcast_client.result import Result, Row
from pollcast_client.topic import topic
from pollcast_client.watching import Watch, watch

__all__ = [
    "Change",
    "Client",
    "Connected",
    "Delta",
    "Disconnected",
    "Event",
    "Joined",
    "Listed",
    "Live",
    "PollcastClientError",
    "ProtocolViolated",
    "Pushed",
    "Refused",
    "Result",
    "Row",
    "Status",
    "Watch",
    "poke",
    "topic",
    "watch",
]
