"""Work that would hold up the event loop: in a thread, or in a later turn of the loop.

There is one thread per gateway, so that such work never takes more than one core from the loop. It hands the
interpreter over often: compressing releases it, and everything else is divided into short steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

Call = Callable[[], None]


class Offload(Protocol):
    """A way to run work outside the present turn of the event loop."""

    def run(self, work: Call, then: Call) -> None:
        """Run `work` in a thread, and then `then` in the event loop."""

    def soon(self, call: Call) -> None:
        """Run `call` in a later turn of the event loop, so that other callbacks run before it."""


class Inline:
    """An Offload that does everything at once, for use without an event loop."""

    def run(self, work: Call, then: Call) -> None:
        """Run both."""
        work()
        then()

    def soon(self, call: Call) -> None:
        """Run the call."""
        call()


class Thread:
    """The Offload of a gateway. It needs a running event loop when it is used."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="encode")

    def run(self, work: Call, then: Call) -> None:
        """Run `work` after all work given before, and then `then`, unless `work` raises."""
        loop = asyncio.get_running_loop()

        def finish(done: asyncio.Future[None]) -> None:
            done.result()  # the loop reports an error
            then()

        loop.run_in_executor(self._executor, work).add_done_callback(finish)

    def soon(self, call: Call) -> None:
        """Run the call after the callbacks that are due now."""
        asyncio.get_running_loop().call_soon(call)


INLINE = Inline()
