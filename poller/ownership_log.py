"""The log of ownership: topics gained, polled for the first time, and lost, as a few lines for thousands of topics.

Events within GATHER_SECONDS are logged as one line of each kind, in the order in which they happen to a topic.
"""

from __future__ import annotations

import asyncio

from pollcast.services.process import logs

log = logs.get_logger("polling")

GATHER_SECONDS = 0.2
"""Time over which events are gathered into one line, in seconds."""


class OwnershipLog:
    """The gathered events of one poller. Call its methods inside an event loop."""

    def __init__(self) -> None:
        self._lost: list[str] = []
        self._gained: dict[str, int] = {}
        self._unpolled: dict[str, float] = {}  # gained topic without a finished poll → when gained, on the loop's clock
        self._polled: dict[str, float] = {}  # topic → seconds from the gain to the end of the first poll
        self._due: asyncio.TimerHandle | None = None

    def gained(self, topic: str, epoch: int) -> None:
        """Record that this poller gained the topic."""
        self._gained[topic] = epoch
        self._unpolled[topic] = asyncio.get_running_loop().time()
        self._gather()

    def lost(self, topic: str) -> None:
        """Record that this poller lost the topic."""
        self._lost.append(topic)
        self._unpolled.pop(topic, None)
        self._gather()

    def published(self, topic: str) -> None:
        """Record that updates of the topic were published: a result, or the reason why there is none."""
        since = self._unpolled.pop(topic, None)
        if since is not None:
            self._polled[topic] = asyncio.get_running_loop().time() - since
            self._gather()

    def _gather(self) -> None:
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._write)

    def _write(self) -> None:
        self._due = None
        lost, self._lost = self._lost, []
        gained, self._gained = self._gained, {}
        polled, self._polled = self._polled, {}
        if lost:
            log.info("topics lost", topics=len(lost), such_as=lost[0])
        if gained:
            topic, epoch = next(iter(gained.items()))
            log.info("topics gained", topics=len(gained), such_as=topic, epoch=epoch)
        if polled:
            log.info(
                "first polls", topics=len(polled), such_as=next(iter(polled)), seconds=round(max(polled.values()), 3)
            )
