"""Messages that bring channels to a result, each encoded once for all channels that need it. Pure."""

from __future__ import annotations

from pollcast.gateway import phoenix
from pollcast.gateway.history import Entry, History
from pollcast.gateway.outbound_frames import Framed
from pollcast.gateway.version import Version

MAX_READY = 16
"""Maximum number of encoded catch-ups that are kept, by spelling and `since`."""


class CatchUp:
    """The messages that bring a client from `since`, None for any state, to a result, and the version by which it then
    knows the result.

    Each message stands beside the version that it leads to.
    """

    __slots__ = ("event", "frames", "since", "to")

    def __init__(
        self, event: bytes, frames: list[tuple[Framed, Version]], to: Version, since: Version | None = None
    ) -> None:
        self.event = event
        self.frames = frames
        self.to = to
        self.since = since

    def is_ready(self, deflates: bool) -> bool:
        """Return whether the frames take next to no time to make."""
        return all(framed.is_ready(deflates) for framed, _ in self.frames)

    def prepare(self, deflates: bool) -> None:
        """Make the frames; may be called in any thread."""
        for framed, _ in self.frames:
            framed.ready(deflates)


class CatchUps:
    """The encoded messages that lead to the present result of a history."""

    __slots__ = ("_history", "_ready", "_ready_for")

    def __init__(self, history: History) -> None:
        self._history = history
        self._ready: dict[tuple[bytes, Version | None], CatchUp] = {}
        self._ready_for: Version | None = None

    def get(self, spelling: bytes, since: Version | None, with_deltas: bool) -> CatchUp:
        """Return the messages that lead from `since` to the present result."""
        present = self._history.present
        assert present is not None
        if self._ready_for != present.version:
            self._ready.clear()
            self._ready_for = present.version
        steps = self._history.since(since) if since is not None else None
        if since is None or steps is None or (steps and not with_deltas):
            steps = since = None
        catch_up = self._ready.get((spelling, since))
        if catch_up is not None:
            return catch_up
        if since is None or steps is None:
            catch_up = CatchUp(b"snapshot", [(self.snapshot(spelling), present.version)], present.version)
        elif not steps:  # the same result, which the client goes on knowing by its own version
            return CatchUp(b"", [], since, since)
        else:
            frames = []
            at = since
            for entry in steps:
                frames.append((self.delta(spelling, entry, at), entry.version))
                at = entry.version
            catch_up = CatchUp(b"delta", frames, at, since)
        if not any(framed.body.large for framed, _ in catch_up.frames):  # large ones are made for those who wait
            if len(self._ready) >= MAX_READY:
                self._ready.clear()
            self._ready[spelling, since] = catch_up
        return catch_up

    def clear(self) -> None:
        """Forget the encoded messages."""
        self._ready.clear()

    def snapshot(self, spelling: bytes) -> Framed:
        """Return the event `snapshot` of the present result."""
        present = self._history.present
        assert present is not None
        return Framed(phoenix.push_head(spelling, b"snapshot"), present.body, b"]")

    def delta(self, spelling: bytes, entry: Entry, base: Version) -> Framed:
        """Return the event `delta` of a step for channels at `base`, a version of the same result as the step's."""
        return Framed(phoenix.push_head(spelling, b"delta") + entry.head(base), entry.body, b"]")
