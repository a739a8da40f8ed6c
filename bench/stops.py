"""Benchmark of the event loop's stops: how long a gateway holds everybody up while something large happens."""

from __future__ import annotations

import asyncio
import statistics
import time

from bench import table
from bench.processes import swarm
from bench.slow import counter
from bench.stage import SOCKET, WHOLE, Stage, noise, rows, stage, topic_names

CHANGES = 4
SPELLINGS = ("live:bench?n=0", *(f"live:bench?n=0{'0' * zeros}" for zeros in range(1, 9)))


async def run() -> None:
    """Print the longest stop and the longest computation of a gateway's loop in several situations."""
    lines = []
    for name, measure in (
        ("nothing but 100 clients of 1 KB", _quiet),
        ("a change of 10 MB that compresses ill, to 10 clients", _large_text),
        ("2 MB in 9 spellings, compressed", _spellings),
        ("500,000 rows, 24 MB, two changed rows", _many_rows),
        ("500,000 rows, 24 MB, by another owner", _takeover),
        ("a change of 1 KB to 10,000 clients", _many_clients),
    ):
        lines.append((name, *await measure()))
    table.show(
        "Stops of a gateway's loop, in ms",
        ("meanwhile", "longest", "of its own work", "a small topic, p50", "worst"),
        lines,
    )


async def _beside(on: Stage, small: str, change: asyncio.Task[None] | None = None) -> list[float]:
    """Return the delays with which a client of a small topic gets its changes while the task runs, in seconds."""
    delays = []
    await asyncio.sleep(7)
    async with swarm() as crowd:
        await crowd.ask(do="connect", port=on.port, path=SOCKET, n=1, send=on.joins([small]), until='"snapshot"')
        stamp, deadline = 0, time.monotonic() + 3.0
        while time.monotonic() < deadline or (change is not None and not change.done()):
            stamp += 1
            await crowd.ask(do="reset")
            began = time.perf_counter()
            on.change(small, rows(1, 100, stamp))
            await crowd.ask(do="expect", bytes=100)
            delays.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)
    if change is not None:
        await change
    return delays


def _figures(on: Stage, delays: list[float]) -> tuple[float, float, float, float]:
    stop = counter(on.port, "pollcast_loop_longest_stop_seconds") * 1e3
    work = counter(on.port, "pollcast_loop_longest_work_seconds") * 1e3
    return stop, work, statistics.median(delays) * 1e3, max(delays) * 1e3


async def _quiet() -> tuple[float, float, float, float]:
    names = topic_names(2)
    async with stage(names, rows(5, 180)) as on, swarm() as crowd:
        await crowd.ask(do="connect", port=on.port, path=SOCKET, n=100, send=on.joins(names[:1]), until='"snapshot"')
        await asyncio.sleep(60.0 if False else 0.0)
        return _figures(on, await _beside(on, names[1]))


async def _large_text() -> tuple[float, float, float, float]:
    small = topic_names(1)[0]
    async with stage([WHOLE, small], rows(1, 100)) as on, swarm() as crowd:
        send = on.joins([WHOLE])
        await crowd.ask(do="connect", port=on.port, path=SOCKET, n=10, send=send, until='"snapshot"', deflate=True)

        async def change() -> None:
            await asyncio.sleep(7.5)
            for _ in range(CHANGES):
                on.change(WHOLE, noise(10_000_000))
                await asyncio.sleep(1.0)

        return _figures(on, await _beside(on, small, asyncio.create_task(change())))


async def _spellings() -> tuple[float, float, float, float]:
    names = topic_names(2)
    async with stage(names, rows(1, 100)) as on, swarm() as crowd:
        for spelling in SPELLINGS:
            send = [f'["1","1","{spelling}","phx_join",{{}}]']
            await crowd.ask(do="connect", port=on.port, path=SOCKET, n=2, send=send, until='"snapshot"', deflate=True)

        async def change() -> None:
            await asyncio.sleep(7.5)
            for stamp in range(CHANGES):
                on.change(names[0], rows(2000, 1000, stamp + 1))
                await asyncio.sleep(1.0)

        return _figures(on, await _beside(on, names[1], asyncio.create_task(change())))


async def _many_rows(*, takeover: bool = False) -> tuple[float, float, float, float]:
    names = topic_names(2)
    async with stage(names, rows(1, 100)) as on, swarm() as crowd:
        many = [(b"[%d]" % n, b'{"id":%d,"v":"%020d"}' % (n, n)) for n in range(500_000)]
        await crowd.ask(do="connect", port=on.port, path=SOCKET, n=4, send=on.joins(names[:1]), until='"snapshot"')

        async def change() -> None:
            await asyncio.sleep(7.5)
            await asyncio.to_thread(on.owned[names[0]].record_result, many, 0)
            on.change(names[0], [*many[1:], many[0]])
            for stamp in range(CHANGES):
                await asyncio.sleep(1.0)
                changed = list(many)
                for at in range(0, 500_000, 2 if takeover else 250_000):
                    changed[at] = (many[at][0], b'{"id":%d,"v":"%020d"}' % (at, stamp))
                on.change(names[0], changed)

        return _figures(on, await _beside(on, names[1], asyncio.create_task(change())))


async def _takeover() -> tuple[float, float, float, float]:
    return await _many_rows(takeover=True)


async def _many_clients() -> tuple[float, float, float, float]:
    names = topic_names(2)
    async with stage(names, rows(5, 180)) as on, swarm() as crowd:
        await crowd.ask(do="connect", port=on.port, path=SOCKET, n=10_000, send=on.joins(names[:1]), until='"snapshot"')

        async def change() -> None:
            await asyncio.sleep(7.5)
            for stamp in range(10):
                on.change(names[0], rows(5, 180, stamp + 1))
                await asyncio.sleep(0.5)

        return _figures(on, await _beside(on, names[1], asyncio.create_task(change())))
