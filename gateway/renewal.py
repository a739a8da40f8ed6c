"""The move of a gateway's clients to another catalogue (docs/reference/catalogue.md#reloading).

In one go, each topic of a query that has another definition now, or is gone, is taken off its feed, so that nothing of
the former definition comes any more, and a new live topic takes its place. Its clients then move there one by one: each
means by its spelling, with its token, a topic of the new catalogue, and gets a snapshot of that, or it is closed for
the reason for which a join would be refused. Where only the roles have changed, those stay who may, and notice nothing.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from pollcast.gateway.hub import Hub
from pollcast.gateway.presence import Presences
from pollcast.gateway.sockets import Sockets
from pollcast.gateway.topic import LiveTopic
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.definitions import Difference
from pollcast.services.catalogue.topics import Topic
from pollcast.services.errors import PollcastError
from pollcast.services.process import logs

log = logs.get_logger("renewal")

STEP_SECONDS: Final = 0.002
"""Time after which moving clients lets the event loop do other work, in seconds."""


class Renewal:
    """The renewal of one gateway's topics. Call it right after another catalogue has come into force."""

    def __init__(self, hub: Hub, sockets: Sockets, presences: Presences) -> None:
        self._hub = hub
        self._sockets = sockets
        self._presences = presences

    async def __call__(self, catalog: Catalog, difference: Difference) -> None:
        """Move all clients of topics of queries that have changed, or close them."""
        hub, now = self._hub, time.monotonic()
        touched = difference.redefined | difference.guarded
        affected = {live for live in hub.topics.values() if live.topic.query.name in touched}
        retired = [live for live in affected if live.topic.query.name in difference.redefined]
        successors = [hub.replace(live, again(live, catalog), now) for live in retired]
        steps = Steps()
        for socket in list(self._sockets):
            socket.renew(affected)
            await steps.give_way()
        for live in affected:
            for listener in live.listeners:
                listener.renew()
                await steps.give_way()
        self._presences.renew_watches(touched)
        for successor in successors:
            if successor is not None:
                hub.leave(successor, time.monotonic())
        if affected:
            log.info("topics moved to another catalogue", topics=len(affected), clients=sum(_clients(successors)))


class Steps:
    """Work in steps of STEP_SECONDS, between which the event loop does other work."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def give_way(self) -> None:
        """Let the event loop do other work if the present step has taken its time."""
        if time.monotonic() - self._began >= STEP_SECONDS:
            await asyncio.sleep(0)
            self._began = time.monotonic()


def again(live: LiveTopic, catalog: Catalog) -> Topic | None:
    """Return the canonical topic by this catalogue; None when it is not valid there. Pure."""
    try:
        return topics.parse_canonical(live.topic.canonical, catalog)
    except PollcastError:
        return None


def _clients(successors: list[LiveTopic | None]) -> list[int]:
    return [successor.clients for successor in successors if successor is not None]
