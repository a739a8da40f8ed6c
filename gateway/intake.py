"""The results of one topic on their way into its history: large ones are compared outside the event loop.

Comparing a result of many rows with the present one takes up to a second. It happens in a thread; what the owner sends
meanwhile waits in order. That is at most one whole result, as a later one makes what came before it needless, and
deltas of WAITING_BYTES; when there are more, the topic is attached to its owner again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from pollcast.gateway.change import Change
from pollcast.gateway.history import Entry, History
from pollcast.gateway.offload import Offload
from pollcast.gateway.version import Version
from pollcast.services.delta import Row

COMPARED_ROWS = 2000
"""Number of rows up to which two results are compared at once: about 2 ms."""

WAITING_BYTES = 4 * 1024 * 1024
"""Maximum size of the deltas that wait for a comparison to end, in bytes."""

OnStep = Callable[[Entry | None], None]
"""Passes on a step that the history has taken; None for a first or outdated result."""

Snapshot = tuple[Version, int, list[Row]]
"""A whole result: its version, the start of its poll in microseconds since the Unix epoch, and its rows."""


class Intake:
    """The way of one topic's results into its history.

    `on_gap` is called when a result that waited does not follow on the history: attach to the owner again.
    """

    __slots__ = (
        "_busy",
        "_bytes",
        "_deltas",
        "_gap",
        "_history",
        "_offload",
        "_on_gap",
        "_on_step",
        "_snapshot",
        "_turn",
    )

    def __init__(self, history: History, offload: Offload, on_step: OnStep, on_gap: Callable[[], None]) -> None:
        self._history = history
        self._offload = offload
        self._on_step = on_step
        self._on_gap = on_gap
        self._busy = False  # whether a result is being compared
        self._turn = 0  # counts the calls of `drop`
        self._snapshot: Snapshot | None = None  # a whole result that waits
        self._deltas: deque[tuple[Version, int, Change]] = deque()  # the deltas that wait, those after it
        self._bytes = 0
        self._gap = False  # whether deltas that came later were dropped

    def take_snapshot(self, version: Version, polled_at: int, rows: list[Row]) -> None:
        """Take an owner's whole result and pass the step on, now or later. `rows` is kept, and may be changed."""
        if self._busy:
            self._snapshot = version, polled_at, rows
            self._drop_deltas(gap=False)
            return
        before = self._history.present
        if before is None or version <= before.version or not (before.many or len(rows) > COMPARED_ROWS):
            self._on_step(self._history.take_snapshot(version, polled_at, rows))
            return
        self._busy = True
        found: list[Change | None] = []
        turn = self._turn

        def take() -> None:
            if turn == self._turn:
                self._compared(version, polled_at, rows, found[0])

        self._offload.run(partial(self._history.compare, rows, found), take)

    def take_delta(self, version: Version, polled_at: int, change: Change) -> None:
        """Take an owner's delta and pass the step on, now or later.

        Raises LookupError when it does not follow on the history: attach to the owner again.
        """
        if not self._busy:
            self._on_step(self._history.take_delta(version, polled_at, change))
            if self._history.due:
                self._settle()
        elif not self._gap:
            self._deltas.append((version, polled_at, change))
            self._bytes += len(change.text)
            if self._bytes > WAITING_BYTES:
                self._drop_deltas(gap=True)

    def drop(self) -> None:
        """Discard what waits or is being compared, because it may be out of date by the time that it is taken."""
        self._turn += 1
        self._busy = False
        self._snapshot = None
        self._drop_deltas(gap=False)

    def _settle(self) -> None:
        """Apply the deltas that wait for it."""
        if self._history.present is not None and self._history.present.many:
            self._offload.run(self._history.settle, _nothing)
        else:
            self._history.settle()

    def _drop_deltas(self, *, gap: bool) -> None:
        self._deltas.clear()
        self._bytes = 0
        self._gap = gap

    def _compared(self, version: Version, polled_at: int, rows: list[Row], change: Change | None) -> None:
        self._busy = False
        self._on_step(self._history.adopt(version, polled_at, rows, change))
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            self.take_snapshot(*snapshot)
        try:
            while self._deltas and not self._busy:
                delta = self._deltas.popleft()
                self._bytes -= len(delta[2].text)
                self.take_delta(*delta)
            gap = self._gap and not self._busy
        except LookupError:
            gap = True
        if gap:
            self._drop_deltas(gap=False)
            self._on_gap()


def _nothing() -> None:
    """Do nothing after the deltas have been applied."""
