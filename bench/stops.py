"""Benchmark of the event loop's stops: how long a gateway holds everybody up while something large happens."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from bench import table
from bench.processes import swarm
from bench.stage import SOCKET, WHOLE, Stage, noise, rows, stage, topic_names

CHANGES = 4
BOUNDS = ("0.02", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0")
"""Bounds of the histogram of stops, in seconds."""

SPELLINGS = ("live:bench?n=0", *(f"live:bench?n=0{'0' * zeros}" for zeros in range(1, 9)))
MANY_ROWS = 500_000

Change = Callable[[], Awaitable[None]]
Figures = tuple[str, float, float]


async def run() -> None:
    """Print the longest stop of a gateway's loop, and the delay of a small topic's changes, in several situations."""
    lines = []
    for name, measure in (
        ("nothing else", _quiet),
        ("changes of 10 MB that hardly compress, 10 clients", _large_text),
        ("changes of 2 MB in 9 spellings, compressed", _spellings),
        ("500,000 rows, 24 MB: two rows change", lambda: _many_rows(MANY_ROWS // 2)),
        ("500,000 rows, 24 MB: every other row changes", lambda: _many_rows(2)),
        ("changes of 1 KB to 10,000 clients", _many_clients),
    ):
        lines.append((name, *await measure()))
    table.show("Stops of a gateway's loop", ("meanwhile", "longest", "a change beside it, p50 ms", "worst ms"), lines)


async def _beside(on: Stage, small: str, change: Change | None = None) -> Figures:
    """Return the longest stop of the gateway's loop, at most, and the delays of a small topic's changes meanwhile."""
    delays = []
    async with swarm() as crowd:
        await crowd.ask(do="connect", port=on.port, path=SOCKET, n=1, send=on.joins([small]), until='"snapshot"')
        before = _stops(on)
        task = asyncio.create_task(_until(change))
        stamp = 0
        while not task.done():
            stamp += 1
            await crowd.ask(do="reset")
            began = time.perf_counter()
            on.change(small, rows(1, 100, stamp))
            await crowd.ask(do="expect", bytes=100)
            delays.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(0.02)
        await task
    longer = [bound for bound, count, old in zip(BOUNDS, _stops(on), before, strict=True) if count > old]
    longest = f"< {float(BOUNDS[len(longer)]) * 1e3:.0f} ms" if len(longer) < len(BOUNDS) else "longer"
    return longest, statistics.median(delays), max(delays)


async def _until(change: Change | None) -> None:
    if change is not None:
        await change()
    await asyncio.sleep(2.0)


def _stops(on: Stage) -> list[float]:
    """Return the number of stops so far that were longer than each of BOUNDS."""
    values = on.metrics()
    total = values["pollcast_loop_stop_seconds_count"]
    return [total - values[f'pollcast_loop_stop_seconds_bucket{{le="{bound}"}}'] for bound in BOUNDS]


async def _quiet() -> Figures:
    names = topic_names(2)
    async with stage(names, rows(5, 180)) as on, swarm() as crowd:
        await crowd.ask(do="connect", port=on.port, path=SOCKET, n=100, send=on.joins(names[:1]), until='"snapshot"')
        return await _beside(on, names[1])


async def _large_text() -> Figures:
    small = topic_names(1)[0]
    async with stage([WHOLE, small], rows(1, 100)) as on, swarm() as crowd:
        send = on.joins([WHOLE])
        await crowd.ask(do="connect", port=on.port, path=SOCKET, n=10, send=send, until='"snapshot"', deflate=True)

        async def change() -> None:
            for _ in range(CHANGES):
                on.change(WHOLE, noise(10_000_000))
                await asyncio.sleep(1.0)

        return await _beside(on, small, change)


async def _spellings() -> Figures:
    names = topic_names(2)
    async with stage(names, rows(1, 100)) as on, swarm() as crowd:
        for spelling in SPELLINGS:
            send = [f'["1","1","{spelling}","phx_join",{{}}]']
            await crowd.ask(do="connect", port=on.port, path=SOCKET, n=2, send=send, until='"snapshot"', deflate=True)

        async def change() -> None:
            for stamp in range(CHANGES):
                on.change(names[0], rows(2000, 1000, stamp + 1))
                await asyncio.sleep(1.0)

        return await _beside(on, names[1], change)


async def _many_rows(every: int) -> Figures:
    names = topic_names(2)
    async with stage(names, rows(1, 100)) as on, swarm() as crowd:
        many = [(b"[%d]" % n, b'{"id":%d,"v":"%020d"}' % (n, n)) for n in range(MANY_ROWS)]
        await crowd.ask(do="connect", port=on.port, path=SOCKET, n=4, send=on.joins(names[:1]), until='"snapshot"')
        on.change(names[0], many)
        await asyncio.sleep(5.0)

        async def change() -> None:
            for stamp in range(CHANGES):
                changed = list(many)
                for at in range(0, MANY_ROWS, every):
                    changed[at] = (many[at][0], b'{"id":%d,"v":"%020d"}' % (at, stamp))
                on.change(names[0], changed)
                await asyncio.sleep(2.0)

        return await _beside(on, names[1], change)


async def _many_clients() -> Figures:
    names = topic_names(2)
    async with stage(names, rows(5, 180)) as on, swarm() as crowd:
        await crowd.ask(do="connect", port=on.port, path=SOCKET, n=10_000, send=on.joins(names[:1]), until='"snapshot"')

        async def change() -> None:
            for stamp in range(10):
                on.change(names[0], rows(5, 180, stamp + 1))
                await asyncio.sleep(0.5)

        return await _beside(on, names[1], change)
