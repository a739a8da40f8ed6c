"""Pokes that gateways and coordinators send to this poller: hints for the topics that it owns.

A poke for a topic of another poller, or of a query that this poller's catalogue does not have, counts 0: the sender
asks every poller that may own a topic, and nothing is passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from pollcast.services.catalogue.topics import Poke
from pollcast.services.catalogue.values import Value
from pollcast.services.errors import PollcastError
from pollcast.services.process import logs
from pollcast.v1 import feed_pb2

log = logs.get_logger("pokes")


class Pokes:
    """The receiver of pokes.

    `values_of` returns the values that a poke means, or raises a PollcastError. The other functions hint a topic, or
    the topics of a query with some values, and return how many of them are owned.
    """

    def __init__(
        self,
        values_of: Callable[[Poke], Mapping[str, Value]],
        hint_topic: Callable[[str], int],
        hint_query: Callable[[str, Mapping[str, Value]], Coroutine[Any, Any, int]],
    ) -> None:
        self._values_of = values_of
        self._hint_topic = hint_topic
        self._hint_query = hint_query

    async def receive(self, request: feed_pb2.FeedPokes, _context: object) -> feed_pb2.FeedPoked:
        """Make the topics of all pokes due, and return how many these are, for each poke."""
        counts, several = list[int](), dict[int, asyncio.Task[int]]()
        async with asyncio.TaskGroup() as tasks:
            for at, poke in enumerate(request.pokes):
                counts.append(0)
                if poke.whole or poke.any:
                    several[at] = tasks.create_task(self._hint_several(poke))
                else:
                    counts[at] = self._hint_topic(poke.topic)
        for at, task in several.items():
            counts[at] = task.result()
        return feed_pb2.FeedPoked(topics=counts)

    async def _hint_several(self, message: feed_pb2.FeedPoke) -> int:
        poke = Poke(message.topic, message.whole, tuple(message.any))
        try:
            return await self._hint_query(poke.query, self._values_of(poke))
        except PollcastError as error:
            log.debug("poke refused", query=poke.query, detail=error.detail)
            return 0
