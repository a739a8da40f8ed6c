"""A session of long polling as a client's link: frames wait here until the client polls for them.

A poll takes all frames that wait, and they count as waiting until the client has taken the answer; only then does the
next poll get any. So a session holds what a WebSocket may hold, one message and HELD_BYTES, however its client polls.

Nobody can tell whether a client has got an answer whose connection broke. A session whose answer was not taken ends,
and the client starts another, as it does after every failed poll (docs/reference/channels.md#long-polling).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from pollcast.gateway.close_codes import GOING_AWAY, MESSAGE_TOO_BIG
from pollcast.gateway.outbox import Outbox
from pollcast.gateway.turns import Turns
from pollcast.gateway.wire import ANSWER_BYTES, LOW_WATER_BYTES, SLICE_BYTES, Receiver

SENDING_BYTES = 8 * 1024
"""Number of bytes that the process may still hold of an answer that counts as taken."""

HIGH_WATER_BYTES = 48 * 1024
"""Number of bytes waiting for a session from which it is congested: with SENDING_BYTES as many as for a WebSocket."""

WINDOW_SECONDS = 10.0
"""Maximum time for which a poll waits for a message, and a POST for its turn, in seconds."""

IDLE_SECONDS = 30.0
"""Time without a poll after which a session ends, in seconds."""

LEFT_SECONDS = 5.0
"""Time until a session ends whose client has given up its last poll, in seconds."""

REJOIN_SECONDS = 2.0
"""Time within which the client of a session that replaces a lost one must join a topic, in seconds."""


class PolledReceiver(Receiver, Protocol):
    """The application's end of a session (`pollcast.gateway.channels.Socket`)."""

    @property
    def has_joined(self) -> bool:
        """Whether the client has ever asked to join a topic."""


class LongPollWire:
    """A session of long polling (a `pollcast.gateway.link.Link`).

    `replaces` is true when the client came with the token of a session that is gone. phoenix.js 1.7 takes that for a
    mere interruption and joins nothing again, unless a poll fails.
    """

    deflates: bool = False

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        max_frame: int,
        replaces: bool,
        make_receiver: Callable[[LongPollWire], PolledReceiver],
        on_closed: Callable[[], None],
    ) -> None:
        """Open a session. `make_receiver` is called last, and may write."""
        self.blocked = self.closing = self.congested = False
        self.outbox = Outbox.of(loop)
        self.turns = Turns.of(loop)
        self.replaces = replaces
        self.changed = asyncio.Event()
        """Set whenever something may have changed that a poll or a POST waits for."""
        self._loop = loop
        self._max_frame = max_frame
        self._on_closed = on_closed
        self._frames: list[bytes] = []
        self._waiting = 0  # bytes of those frames, and of the answer that is being taken
        self._answers = 0  # bytes of answers that are still kept while it is congested
        self._newest: Poll | None = None  # the poll that waits, or whose answer is being taken
        self._taking: Poll | None = None  # the poll whose answer is being taken
        self._answered = 0  # number of answers that were taken
        self._ends_at = loop.time() + (LEFT_SECONDS if replaces else IDLE_SECONDS)
        self.receiver = make_receiver(self)

    @property
    def waiting(self) -> int:
        """The bytes of messages that the client has not taken."""
        return self._waiting

    @property
    def polling(self) -> bool:
        """Whether a poll waits, or its answer is being taken."""
        return self._newest is not None

    def taken(self) -> int:
        """Return a number that changes whenever the client takes bytes."""
        return (self._answered << 64) + (self._taking.progress() if self._taking is not None else 0)

    def write(self, frames: bytes) -> None:
        """Keep plain frames until the client polls. Do nothing when the session is closing."""
        if self.closing:
            return
        self._frames.append(frames)
        self._waiting += len(frames)
        if self.congested:
            self._answers -= len(frames)
        elif self._waiting > HIGH_WATER_BYTES:
            self.congested = self.blocked = True
            self._answers = ANSWER_BYTES
        self.changed.set()

    def close(self, code: int, reason: str = "") -> None:
        """End the session: its polls are answered at once. The transport has no words for the code and the reason."""
        if self.closing:
            return
        self.closing = self.blocked = True
        self._frames.clear()
        self._waiting = 0
        self.changed.set()
        self._on_closed()
        self._loop.call_soon(self.receiver.closed)

    def abort(self, code: int, reason: str) -> None:
        """End the session."""
        self.close(code, reason)

    def sweep(self, now: float) -> None:
        """End the session when its client has not polled for too long; `now` is the loop's time."""
        if self._newest is None and now > self._ends_at:
            self.close(GOING_AWAY, "no poll for too long")

    # --- the client's messages --------------------------------------------------------------------------------

    async def receive(self, text: bytes) -> None:
        """Handle a message when its turn has come and the client has taken enough of its answers."""
        if len(text) > self._max_frame:
            self.close(MESSAGE_TOO_BIG, "a message is too large")
        while not self.closing and self.congested and (self._answers < 0 or len(text) > SLICE_BYTES):
            self.changed.clear()
            await self.changed.wait()
        if self.turns.open:
            started = time.perf_counter()
            self._handle(text)
            self.turns.spend(time.perf_counter() - started)
            return
        handled = self._loop.create_future()
        self.turns.later(lambda: self._handle(text, handled))
        await handled

    def _handle(self, text: bytes, handled: asyncio.Future[None] | None = None) -> None:
        if handled is not None:
            if handled.cancelled():
                return
            handled.set_result(None)
        if not self.closing:
            with self.outbox:
                self.receiver.received(text)

    # --- polls ------------------------------------------------------------------------------------------------

    def poll(self, progress: Callable[[], int]) -> Poll:
        """Return a new poll, which answers one that waits with nothing.

        `progress` returns a number that changes whenever the client takes bytes of the answer.
        """
        self._newest = poll = Poll(self, progress)
        self.receiver.pinged()
        self.changed.set()
        return poll

    def is_newest(self, poll: Poll) -> bool:
        """Return whether no other poll came after this one."""
        return self._newest is poll

    def take(self, poll: Poll) -> list[bytes]:
        """Return the frames that wait, for the answer to this poll; none while another answer is being taken."""
        if self._taking is not None:
            return []
        frames, self._frames = self._frames, []
        if frames:
            self._taking = poll
        return frames

    def ended(self, poll: Poll, size: int, *, left: bool) -> None:
        """Note that the client has taken the answer of this size, or has gone away before (`left`)."""
        if self._newest is poll:
            self._newest = None
            self._ends_at = self._loop.time() + (LEFT_SECONDS if left else IDLE_SECONDS)
        if self.closing:
            return
        if self._taking is poll:
            self._taking = None
            if left:
                self.close(GOING_AWAY, "an answer was lost")
                return
            self._answered += 1
            self._waiting -= size
            self.receiver.pinged()
            if self.congested and self._waiting < LOW_WATER_BYTES:
                self.congested = self.blocked = False
                with self.outbox:
                    self.receiver.drained()
        self.changed.set()


class Poll:
    """One poll of a session. Use it as a scope, and set `taken` before its end when the client has the answer."""

    def __init__(self, wire: LongPollWire, progress: Callable[[], int]) -> None:
        self.progress = progress
        self.taken = False
        self._wire = wire
        self._size = 0
        self._left = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._wire.ended(self, self._size, left=not self.taken and (self._size > 0 or self._left))

    def leave(self) -> None:
        """Note that the client waits no longer."""
        self._left = True
        self._wire.changed.set()

    async def frames(self) -> list[bytes] | None:
        """Return the frames for the client as soon as there are any; none after WINDOW_SECONDS or for another poll.

        Return None when the session is gone. Raises TimeoutError when the client of a session that replaces another has
        not joined in time.
        """
        wire = self._wire
        rejoins = wire.replaces and not wire.receiver.has_joined
        deadline = asyncio.timeout(REJOIN_SECONDS if rejoins else WINDOW_SECONDS)
        try:
            async with deadline:
                while not wire.closing:
                    wire.changed.clear()
                    if self._left or not wire.is_newest(self):
                        return []
                    found = wire.take(self)
                    if found:
                        self._size = sum(map(len, found))
                        return found
                    await wire.changed.wait()
        except TimeoutError:
            if rejoins and not wire.receiver.has_joined:
                raise
            return []
        return None
