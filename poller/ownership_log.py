"""Logs how topics come, have their first result, and go: a few lines for a takeover of thousands of topics.

What happens within GATHER_SECONDS is one line per kind, in the order in which things happen to a topic.
"""

from __future__ import annotations

import asyncio

from pollcast.services.process import logs

log = logs.get_logger("polling")

GATHER_SECONDS = 0.05


class OwnershipLog:
    """Told by Polling, in an event loop."""

    def __init__(self) -> None:
        self._lost: list[str] = []
        self._gained: dict[str, int] = {}
        self._awaited: dict[str, float] = {}  # no poll has ended yet; since when, on the loop's clock
        self._polled: dict[str, float] = {}  # seconds from the gain to the end of the first poll
        self._due: asyncio.TimerHandle | None = None

    def gained(self, topic: str, epoch: int) -> None:
        """The topic is ours."""
        self._gained[topic] = epoch
        self._awaited[topic] = asyncio.get_running_loop().time()
        self._gather()

    def lost(self, topic: str) -> None:
        """It is not any more."""
        self._lost.append(topic)
        self._awaited.pop(topic, None)
        self._gather()

    def told(self, topic: str) -> None:
        """Gateways were told something of it: a result, or why there is none."""
        since = self._awaited.pop(topic, None)
        if since is not None:
            self._polled[topic] = asyncio.get_running_loop().time() - since
            self._gather()

    def _gather(self) -> None:
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._tell)

    def _tell(self) -> None:
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
