"""The waking of a topic's followers: of a few at once, of many in portions.

What a woken follower does (an answer to a JSON request, a message of gRPC, a write to an event stream) takes 20 to 200
microseconds of the event loop. A thousand of them in one turn of the loop would make everyone else wait for as long.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, islice
from typing import Protocol

from pollcast.gateway.offload import Offload

AT_ONCE = 64
"""Number of followers that are woken in one turn of the event loop."""


class TopicListener(Protocol):
    """A client of a topic that reads the topic's state by itself (`pollcast.gateway.follower.Follower`)."""

    def wake(self) -> None:
        """Notice that the topic's result or status has changed."""

    def end(self) -> None:
        """Stop listening."""


class Wakes:
    """The followers of one topic that are still to be woken."""

    __slots__ = ("_followers", "_offload", "_then", "_todo")

    def __init__(self, followers: set[TopicListener], offload: Offload) -> None:
        """`followers` are those that are woken: the caller adds and removes them."""
        self._followers = followers
        self._offload = offload
        self._todo: dict[TopicListener, None] = {}
        self._then: list[Callable[[], None]] = []

    def wake_all(self, then: Callable[[], None] | None = None) -> None:
        """Wake every follower, those first that still wait to be woken, and call `then` after the last one."""
        waits = bool(self._todo)
        if then is not None:
            self._then.append(then)
        self._todo = dict.fromkeys(chain(self._todo, self._followers))
        if not waits:
            self._go_on()

    def _go_on(self) -> None:
        try:
            for follower in list(islice(self._todo, AT_ONCE)):
                del self._todo[follower]
                follower.wake()  # may wake all again
        finally:  # the loop reports an error; the others are still woken
            if self._todo:
                self._offload.soon(self._go_on)
        if not self._todo:
            done, self._then = self._then, []
            for call in done:
                call()
