"""Notifications of PostgreSQL: what was notified since it was taken last, in bounded memory. Pure.

The payload of a notification is empty, which means all topics of each query that listens to the channel, or the part of
a topic after `?` (docs/reference/catalogue.md#listen). Equal payloads are one. When there are too many different
ones, all topics of the channel's queries are meant instead, so that the memory for them is bounded whatever is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.topics import Topic, parse_part
from pollcast.services.catalogue.values import Value
from pollcast.services.errors import InvalidParams

MAX_PAYLOADS: Final = 4096
"""Maximum number of different payloads of a channel that are kept until they are taken."""

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
"""Maximum size of all payloads that are kept until they are taken, in bytes."""

PAYLOAD_OVERHEAD: Final = 100
"""Memory that a payload takes in addition to its own bytes, in bytes."""

FIRST_RETRY_SECONDS: Final = 0.1
"""Maximum delay before the first attempt to connect again, in seconds."""

LONGEST_RETRY_SECONDS: Final = 5.0
"""Maximum delay between two attempts to connect, in seconds."""

REFUSED_RETRY_SECONDS: Final = 30.0
"""Maximum delay between two attempts to listen on a server that refuses it, in seconds."""

UNREADABLE: Final = "the payload is not the part of a topic of this query after '?'"
"""Reason why a payload is ignored, where its text must not be quoted because it may hold the value of a claim."""


@dataclass(slots=True)
class Heard:
    """The notifications of one channel since they were taken last."""

    times: int = 0
    """Number of notifications."""
    whole: bool = False
    """Whether all topics of the channel's queries are meant; `payloads` is empty then."""
    payloads: dict[bytes, int] = field(default_factory=dict)
    """The number of notifications with each payload."""


class Notifications:
    """The notifications that were not taken yet, by channel. Adding one takes constant time."""

    __slots__ = ("_bytes", "_heard")

    def __init__(self) -> None:
        self._heard: dict[bytes, Heard] = {}
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._heard)

    @property
    def size(self) -> int:
        """The memory that the payloads take, in bytes."""
        return self._bytes

    def add(self, channel: bytes, payload: bytes) -> None:
        """Record a notification."""
        heard = self._of(channel)
        heard.times += 1
        if heard.whole:
            return
        if payload in heard.payloads:
            heard.payloads[payload] += 1
            return
        size = len(payload) + PAYLOAD_OVERHEAD
        if not payload or len(heard.payloads) >= MAX_PAYLOADS or self._bytes + size > MAX_PAYLOAD_BYTES:
            self._mean_all(heard)
        else:
            heard.payloads[payload] = 1
            self._bytes += size

    def add_missed(self, channel: bytes) -> None:
        """Record that notifications of the channel may have been missed, so that all topics are meant."""
        self._mean_all(self._of(channel))

    def take(self) -> dict[bytes, Heard]:
        """Remove and return all notifications by channel."""
        taken, self._heard, self._bytes = self._heard, {}, 0
        return taken

    def _of(self, channel: bytes) -> Heard:
        heard = self._heard.get(channel)
        if heard is None:
            heard = self._heard[channel] = Heard()
        return heard

    def _mean_all(self, heard: Heard) -> None:
        self._bytes -= sum(map(len, heard.payloads)) + len(heard.payloads) * PAYLOAD_OVERHEAD
        heard.whole, heard.payloads = True, {}


@dataclass(frozen=True, slots=True)
class Ignored:
    """A payload that makes nothing due, because it is not the part of a topic after `?`."""

    reason: str


Meant = Topic | Mapping[str, Value] | Ignored
"""The topic that a payload means; the values that all topics which it means have in common; or why it is ignored."""


def meant_by(query: Query, payload: bytes) -> Meant:
    """Return what a payload that is not empty means for a query."""
    try:
        return parse_part(payload.decode(), query)
    except UnicodeDecodeError:
        return Ignored("the payload is not valid UTF-8")
    except InvalidParams as error:
        hidden = any(param.claim is not None for param in query.params.values())
        return Ignored(UNREADABLE if hidden else error.detail)


class Channels:
    """The channels of a catalogue, and the queries that listen to each."""

    __slots__ = ("_queries",)

    def __init__(self, queries: Iterable[Query]) -> None:
        self._queries: dict[bytes, list[Query]] = {}
        self.replace(queries)

    def replace(self, queries: Iterable[Query]) -> None:
        """Take the queries of another catalogue instead."""
        self._queries = {}
        for query in queries:
            if query.listen is not None:
                self._queries.setdefault(query.listen.encode(), []).append(query)

    def __bool__(self) -> bool:
        return bool(self._queries)

    @property
    def names(self) -> set[str]:
        """The names of the queries that listen to a channel."""
        return {query.name for queries in self._queries.values() for query in queries}

    def queries(self, channel: bytes) -> list[Query]:
        """Return the queries that listen to the channel."""
        return self._queries.get(channel, [])

    def wanted(self, owned: Callable[[str], bool]) -> frozenset[bytes]:
        """Return the channels of the queries for whose name `owned` returns True."""
        return frozenset(channel for channel, queries in self._queries.items() if any(owned(q.name) for q in queries))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._queries)


def listen_statement(add: Iterable[bytes], remove: Iterable[bytes]) -> bytes:
    """Return the text that begins to listen to some channels, and ends listening to others."""
    commands = [b"unlisten " + _identifier(channel) for channel in sorted(remove)]
    commands += [b"listen " + _identifier(channel) for channel in sorted(add)]
    return b"; ".join(commands)


def _identifier(name: bytes) -> bytes:
    """Return a name as an SQL identifier in double quotes."""
    return b'"' + name.replace(b'"', b'""') + b'"'


def retry_delay(failures: int, random: float, *, refused: bool) -> float:
    """Return the seconds until the next attempt after `failures` failed ones in a row, counted from 1.

    The delay doubles with each failure, up to LONGEST_RETRY_SECONDS, and is up to half shorter at random, a number
    between 0 and 1. A server that has `refused` to listen is tried every REFUSED_RETRY_SECONDS.
    """
    if refused:
        return REFUSED_RETRY_SECONDS * (1 - random / 2)
    return min(FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 10), LONGEST_RETRY_SECONDS) * (1 - random / 2)
