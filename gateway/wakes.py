"""The waking of a topic's followers, or of its event streams: of a few at once, of many in portions.

What a woken follower does (an answer to a JSON request, a message of gRPC) takes 20 to 200 microseconds of the event
loop, and what is written to an event stream takes about 10. A thousand of them in one turn of the loop would make
everyone else wait for as long.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, islice
from typing import Generic, Protocol, TypeVar

from pollcast.gateway.offload import Offload

FOLLOWERS_AT_ONCE = 64
"""Number of followers that are woken in one turn of the event loop."""

STREAMS_AT_ONCE = 500
"""Number of event streams that are written to in one turn of the event loop."""


class TopicListener(Protocol):
    """A client of a topic that reads the topic's state by itself (`pollcast.gateway.follower.Follower`)."""

    def wake(self) -> None:
        """Notice that the topic's result or status has changed."""

    def end(self) -> None:
        """Stop listening."""

    def renew(self) -> None:
        """Go on under the catalogue that has just come into force: at the topic that is meant now, or not at all."""


T = TypeVar("T", bound=TopicListener)


class Wakes(Generic[T]):
    """The members of a collection that are still to be woken."""

    __slots__ = ("_at_once", "_members", "_offload", "_then", "_todo", "_wake")

    def __init__(
        self, members: Collection[T], wake: Callable[[Iterable[T]], None], at_once: int, offload: Offload
    ) -> None:
        """Take the collection, whose owner adds and removes members.

        `wake` is called with at most `at_once` of them in one turn. Those that it has not taken when it fails are woken
        in a later turn.
        """
        self._members = members
        self._wake = wake
        self._at_once = at_once
        self._offload = offload
        self._todo: dict[T, None] = {}
        self._then: list[Callable[[], None]] = []

    def wake_all(self, then: Callable[[], None] | None = None) -> None:
        """Wake every member, those first that still wait to be woken, and call `then` after the last one."""
        waits = bool(self._todo)
        if then is not None:
            self._then.append(then)
        self._todo = dict.fromkeys(chain(self._todo, self._members))
        if not waits:
            self._go_on()

    def _go_on(self) -> None:
        try:
            self._wake(self._portion())  # may wake all again
        finally:  # the loop reports an error; the others are still woken
            if self._todo:
                self._offload.soon(self._go_on)
        if not self._todo:
            done, self._then = self._then, []
            for call in done:
                call()

    def _portion(self) -> Iterator[T]:
        for member in list(islice(self._todo, self._at_once)):
            del self._todo[member]
            yield member
