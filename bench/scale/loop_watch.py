"""A service with a watch of its event loop: `python -m bench.scale.loop_watch ROLE ARGUMENT…` runs `pollcast ROLE …`.

A task of the loop beats every BEAT_SECONDS. A beat that comes late shows that the loop stood still: its other callbacks
waited as long. On a machine that is shared, most of a delay may be that another process had the core, so a stop counts
only for the CPU time that the loop's thread used meanwhile. While the loop stands still, a thread samples its stack;
SCALE_STOPS names the file for stops and their stacks.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

BEAT_SECONDS = 0.02
"""Interval between two beats, in seconds."""

REPORTED_SECONDS = 0.05
"""Minimum length of a stop whose stack is written to the file, in seconds."""

FRAMES = 9
"""Number of frames of a stack, the innermost ones, that are written."""


class LoopWatch:
    """The watch of one event loop."""

    def __init__(self, file: Path | None = None) -> None:
        self.longest = 0.0
        self._file = file
        self._beat_at = time.monotonic()
        self._stacks: Counter[str] = Counter()
        self._thread = threading.get_ident()

    def take(self) -> float:
        """Return the longest stop since the last call, in seconds of CPU time."""
        longest, self.longest = self.longest, 0.0
        return longest

    async def run(self) -> None:
        """Beat until cancelled."""
        if self._file is not None:
            threading.Thread(target=self._sample, daemon=True).start()
        while True:
            self._beat_at, cpu = time.monotonic(), time.thread_time()
            await asyncio.sleep(BEAT_SECONDS)
            late = time.monotonic() - self._beat_at - BEAT_SECONDS
            stop = min(late, time.thread_time() - cpu)
            self.longest = max(self.longest, stop)
            if stop > REPORTED_SECONDS and self._file is not None:
                self._write(stop)
            self._stacks.clear()

    def _write(self, stop: float) -> None:
        assert self._file is not None
        samples = sum(self._stacks.values())
        with self._file.open("a") as file:
            file.write(f"--- {stop * 1000:.0f} ms of CPU, {samples} samples\n")
            for stack, count in self._stacks.most_common(2):
                file.write(f"{count} ×\n{stack}\n")

    def _sample(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            if time.monotonic() - self._beat_at > BEAT_SECONDS + REPORTED_SECONDS / 2:
                frame = sys._current_frames().get(self._thread)
                stack = traceback.extract_stack(frame)[-FRAMES:]
                self._stacks["\n".join(f"  {Path(f.filename).name}:{f.lineno} {f.name}" for f in stack)] += 1


def main() -> None:
    """Run the service of the command line with a watch of its loop."""
    run_as_it_is = uvloop.run

    def run(service: Coroutine[Any, Any, None]) -> None:
        async def watched() -> None:
            watch = LoopWatch(Path(os.environ["SCALE_STOPS"]) if "SCALE_STOPS" in os.environ else None)
            beating = asyncio.create_task(watch.run())
            await service
            beating.cancel()

        run_as_it_is(watched())

    uvloop.run = run  # type: ignore[assignment]
    from pollcast.services.cli.main import main as pollcast

    sys.argv = ["pollcast", *sys.argv[1:]]
    pollcast()


if __name__ == "__main__":
    main()
