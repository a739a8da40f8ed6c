"""One file owns signals and the drain.

A process runs one service: a coroutine function `run(stop)` that serves until `stop` is set, then drains and returns.
SIGTERM and SIGINT set `stop`; a second one, a second later or more, ends the process at once with status 130. (One that
comes sooner is the same wish told twice: make and timeout pass on what the whole process group gets as well.) A service
that can't go on raises. Exit status: 0 after a drain, else that of the PollcastError, else 1.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import NoReturn

import uvloop

from pollcast.services.errors import PollcastError, leaves
from pollcast.services.process import logs
from pollcast.services.process.settings import unknown_variables

log = logs.get_logger("lifecycle")

SAME_WISH_SECONDS = 1.0

Run = Callable[[asyncio.Event], Awaitable[None]]


async def until_stopped(run: Run) -> None:
    """Runs the service, with `stop` set by the signals."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    impatient_from = 0.0

    def on_signal(number: signal.Signals) -> None:
        nonlocal impatient_from
        if not stop.is_set():
            log.info("stopping", signal=number.name)
            stop.set()
            impatient_from = loop.time() + SAME_WISH_SECONDS
        elif loop.time() >= impatient_from:
            os._exit(130)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await run(stop)


def main(run: Run) -> NoReturn:
    """The whole life of a service process."""
    for variable in unknown_variables():
        log.warning("no such setting", variable=variable)
    try:
        uvloop.run(until_stopped(run))
    except PollcastError as error:
        log.error("ended", reason=error.reason, detail=error.detail)
        raise SystemExit(error.exit) from None
    except BaseExceptionGroup as group:
        known = group.subgroup(PollcastError)
        if known is None:
            log.exception("ended")
            raise SystemExit(1) from None
        first = next(leaves(known))
        log.error("ended", detail=str(first))
        raise SystemExit(getattr(first, "exit", 1)) from None
    raise SystemExit(0)
