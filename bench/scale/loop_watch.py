"""The stacks of stops: `python -m bench.scale.loop_watch FILE MODULE ARGUMENT…` runs a module that runs an event loop.

How long a service's loop stops is its own metric (docs/reference/metrics.md#event-loop); this finds out where. A task
of the loop beats every BEAT_SECONDS, and while a beat is late, a thread samples the stack of the loop's thread. On a
machine that is shared, most of a delay may be that another process had the core, so a stop is written to the file only
for the CPU time that the loop's thread used meanwhile.
"""

from __future__ import annotations

import asyncio
import runpy
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
    """The watch of the event loop of the thread in which it is made."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._beat_at = time.monotonic()
        self._stacks: Counter[str] = Counter()
        self._thread = threading.get_ident()

    async def run(self) -> None:
        """Beat until cancelled."""
        threading.Thread(target=self._sample, daemon=True).start()
        while True:
            self._beat_at, cpu = time.monotonic(), time.thread_time()
            await asyncio.sleep(BEAT_SECONDS)
            late = time.monotonic() - self._beat_at - BEAT_SECONDS
            stop = min(late, time.thread_time() - cpu)
            if stop > REPORTED_SECONDS:
                self._write(stop)
            self._stacks.clear()

    def _write(self, stop: float) -> None:
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
    """Run the module of the command line with a watch of the loop that `uvloop.run` runs."""
    file, module = Path(sys.argv[1]), sys.argv[2]
    run_as_it_is = uvloop.run

    def run(everything: Coroutine[Any, Any, None]) -> None:
        async def watched() -> None:
            beating = asyncio.create_task(LoopWatch(file).run())
            await everything
            beating.cancel()

        run_as_it_is(watched())

    uvloop.run = run  # type: ignore[assignment]
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
