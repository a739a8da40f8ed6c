"""The topics that a gateway has attached to one poller, and what the poller is to be told about them. Pure.

Each attachment has a number that this gateway never uses again for the poller. It is replaced when the topic is
attached again or a new stream begins, and an update counts only if it answers the present attachment of its topic. So
nothing that a poller sent before an attachment is ever taken for an answer to it (docs/reference/grpc.md#feed).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from pollcast.gateway.version import Version
from pollcast.v1 import feed_pb2


class Known(NamedTuple):
    """The part of a topic that the gateway has: its version, if any, by this definition of its query (empty: any)."""

    version: Version | None = None
    definition: str = ""


KnownVersion = Callable[[str], Known | None]
"""Returns what the gateway has of a canonical topic; None for nothing."""


class Attachments:
    """The attached topics, by canonical name, and the changes that the next request reports."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._counter = count(1)
        self._changes: dict[str, bool] = {}  # topic → attach (True) or detach (False), not requested yet

    def __len__(self) -> int:
        return len(self._numbers)

    def attach(self, topic: str) -> None:
        """Attach the topic. Repeat it to get the missing updates again."""
        self._numbers[topic] = next(self._counter)
        self._changes[topic] = True

    def detach(self, topic: str) -> bool:
        """Detach the topic; return whether it was attached."""
        if self._numbers.pop(topic, None) is None:
            return False
        self._changes[topic] = False
        return True

    def restart(self) -> None:
        """Attach every topic again, because a new stream begins."""
        self._changes = {}
        for topic in list(self._numbers):
            self.attach(topic)

    def is_current(self, topic: str, number: int) -> bool:
        """Return whether this is the number of the topic's present attachment."""
        return self._numbers.get(topic) == number

    def request(self, gateway: str, known: KnownVersion) -> feed_pb2.FeedRequest:
        """Return the request that reports all changes since the last one, from the gateway of that name."""
        request = feed_pb2.FeedRequest(gateway=gateway, beats=True)
        for topic, attach in self._changes.items():
            if attach:
                version, definition = known(topic) or Known()
                epoch, seq = version or (0, 0)
                number = self._numbers[topic]
                request.attach.add(topic=topic, epoch=epoch, seq=seq, attachment=number, definition=definition)
            else:
                request.detach.append(topic)
        self._changes = {}
        return request
