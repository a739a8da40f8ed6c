"""The life of a service process: its signals, its drain and its exit status (docs/reference/commands.md#exit-status).

A process runs one service: a coroutine function `run(stop)` that serves until `stop` is set, then drains and returns.
SIGTERM, SIGINT and SIGQUIT set `stop`. A second signal ends the delay before a drain, if the service waits at that
moment; else it ends the process at once with status 130. One that follows within DUPLICATE_SECONDS has no effect: make
and timeout forward a signal that the whole process group receives as well. SIGHUP,
SIGUSR1, SIGUSR2 and SIGALRM are logged and have no effect, where the system would end the process; a service with a
catalogue reads it again on SIGHUP. A service that cannot go on raises. The exit status is 0 after a drain, else that of
the PollcastError, else 1.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import uvloop

from pollcast.services.errors import PollcastError, leaves
from pollcast.services.process import descriptors, logs
from pollcast.services.process.loop_stops import stops_measured
from pollcast.services.process.settings import unknown_variables

log = logs.get_logger("lifecycle")

DUPLICATE_SECONDS = 1.0
"""Time after the first signal within which another one counts as its duplicate."""

HANGUP_LINE_SECONDS = 1.0
"""Minimum time between two lines of the log about SIGHUP."""

STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""Signals that drain a process."""

HARMLESS: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""Signals that have no effect on a service."""

SWITCH_SECONDS = 0.001
"""Time after which a thread that computes hands the interpreter to the event loop's, in seconds."""

Run = Callable[[asyncio.Event], Awaitable[None]]
"""A service: it serves until the event is set, then drains and returns."""


async def until_stopped(
    run: Run,
    *,
    ends_with_terminal: bool = False,
    on_hangup: Callable[[], None] | None = None,
    end_delay: Callable[[], bool] = lambda: False,
) -> None:
    """Run the service; a signal of STOPPING sets its stop event, and SIGHUP calls `on_hangup`.

    `end_delay` ends the delay before the drain, and returns whether there was one.

    One that `ends_with_terminal` drains on SIGHUP as well, unless it was started with SIGHUP ignored, as nohup does.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    abort_from = 0.0  # time of the loop from which another signal ends the process
    next_line = 0.0  # time of the loop from which another SIGHUP is logged

    def on_signal(number: signal.Signals) -> None:
        nonlocal abort_from, next_line
        if number == signal.SIGHUP and on_hangup is not None:
            if loop.time() >= next_line:
                log.info("reading the catalogue again", signal=number.name)
                next_line = loop.time() + HANGUP_LINE_SECONDS
            on_hangup()
        elif number in harmless:
            log.info("a signal without effect", signal=number.name)
        elif not stop.is_set():
            log.info("stopping", signal=number.name)
            stop.set()
            abort_from = loop.time() + DUPLICATE_SECONDS
        elif loop.time() >= abort_from:
            if not end_delay():
                os._exit(130)
            log.info("draining without delay", signal=number.name)
            abort_from = loop.time() + DUPLICATE_SECONDS

    harmless = set(HARMLESS)
    if ends_with_terminal and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        harmless.discard(signal.SIGHUP)
    for number in (*STOPPING, *HARMLESS):
        loop.add_signal_handler(number, on_signal, number)
    with stops_measured():
        await run(stop)


def main(
    run: Run, on_hangup: Callable[[], None] | None = None, end_delay: Callable[[], bool] = lambda: False
) -> NoReturn:
    """Run the service until it ends, then exit with the status of its end. Signals call `on_hangup` and `end_delay`.

    The soft limit of open files is raised to the hard one first (docs/reference/commands.md#open-files).
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the service runs: it is about to read the catalogue
    sys.setswitchinterval(SWITCH_SECONDS)
    descriptors.raise_limit()
    for variable in unknown_variables():
        log.warning("no such setting", variable=variable)
    try:
        uvloop.run(until_stopped(run, on_hangup=on_hangup, end_delay=end_delay))
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
