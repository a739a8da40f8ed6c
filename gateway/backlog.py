"""The messages that a congested socket's channels missed, as the state that each needs to catch up. Pure.

A channel that misses a message is behind: nothing else of that kind is sent to it until it has caught up with the
present state. Nothing is queued but its place. A socket that has drained sends one message at a time, as long as it is
not congested again, so that it never holds more than one of them; and it serves its channels in the order in which they
fell behind, so that none waits for ever because of others that change often.
"""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar

RESULT: Final = 1
"""The part of a channel's state that is the topic's result and status."""

PRESENCE: Final = 2
"""The part of a channel's state that is the topic's presence list."""


class Debtor(Protocol):
    """A channel. `behind` is the sum of the parts of its state that it lacks; the backlog sets it."""

    behind: int


C = TypeVar("C", bound=Debtor)


class Backlog(Generic[C]):
    """The channels of one socket that are behind, each once, in the order in which they are served."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: dict[C, None] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, channel: C, part: int) -> None:
        """Note that a channel lacks a part of its state; a channel that is behind already keeps its place."""
        channel.behind |= part
        self._queue.setdefault(channel)

    def discard(self, channel: C) -> None:
        """Forget a channel, which may not be behind."""
        channel.behind = 0
        self._queue.pop(channel, None)

    def pop(self) -> tuple[C, int]:
        """Return the next channel and the part to send it, which it then no longer lacks.

        A channel that lacks the other part as well waits for its next turn.
        """
        channel = next(iter(self._queue))
        del self._queue[channel]
        part = RESULT if channel.behind & RESULT else PRESENCE
        channel.behind &= ~part
        if channel.behind:
            self._queue[channel] = None
        return channel, part
