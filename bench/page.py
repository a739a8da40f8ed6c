"""Benchmark of the page: the CPU time of its main thread for each frame, while a table of 10,000 rows is scrolled.

A tenth of the rows changes and moves each second. Chromium runs without a display and records a trace; a frame's time
is the thread's CPU time from its beginning to that of the next one, with all that a WebSocket message causes, so other
work of the machine does not count. At 60 frames a second, a frame has 16.7 ms. It needs Chromium, so it runs only when
it is named.
"""

from __future__ import annotations

import bisect
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from playwright.async_api import Browser, async_playwright
from tests.browser.conftest import FLAGS
from tests.support.cluster import Served

from bench import table
from pollcast.services.local.postgres_server import PostgresServer

CATALOG = """
[queries.orders]
title = "Ten thousand orders"
sql = '''
select id, md5(id::text) as customer, (array['north', 'south', 'east', 'west'])[id %% 4 + 1] as region,
       (id * 7919 + extract(epoch from clock_timestamp())::bigint %% 1000 * (id %% 10 / 9)) %% 10007 / 4.0 as amount,
       timestamptz '2026-01-31 12:00:00+00' + id * interval '1 minute' as at, id %% 3 = 0 as paid
from generate_series(1, 10000) id
order by 4 desc, id
'''
key = ["id"]
interval = "1s"
timeout = "5s"
"""
SERVED = Served(CATALOG, flags=("--gateways", "1", "--pollers", "1"))

FRAMES = 600
"""Number of frames for each line of the table: ten seconds and ten changes."""

STEP = 400
"""Distance that the table is scrolled in each frame, in pixels: ten rows."""

CATEGORIES = ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline"]

PARTS = ["FunctionCall", "UpdateLayoutTree", "Layout", "Paint"]
"""Names in a trace whose time for each frame is printed, in milliseconds: scripts, styles, layout, painting."""

SCROLL = """([step, frames]) => new Promise(done => {
  const scroller = document.querySelector('.scroller')
  let count = 0
  let way = step
  const frame = () => {
    if (scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - step) way = -step
    if (scroller.scrollTop < step) way = step
    scroller.scrollTop += way
    count += 1
    count < frames ? requestAnimationFrame(frame) : done()
  }
  requestAnimationFrame(frame)
})"""


@dataclass(frozen=True)
class Frames:
    """The CPU time of the page's main thread for each frame, in milliseconds, and its parts by name in all frames."""

    times: list[float]
    parts: dict[str, float]


def frames_of(trace: bytes) -> Frames:
    """Return the frames of a trace of Chromium. Pure."""
    events: list[dict[str, Any]] = orjson.loads(trace)["traceEvents"]
    ticks = [each for each in events if each["name"] == "FireAnimationFrame"]  # several of a frame are in one task
    thread = Counter((each["pid"], each["tid"]) for each in ticks).most_common(1)[0][0]
    mine = [each for each in events if (each["pid"], each["tid"]) == thread]
    tasks = sorted(each["ts"] for each in mine if each["name"] == "RunTask")
    starts = sorted({tasks[bisect.bisect_right(tasks, each["ts"]) - 1] for each in ticks})
    times = [0.0] * len(starts)
    parts: Counter[str] = Counter()
    for each in mine:
        if each.get("ph") != "X" or "tdur" not in each:
            continue
        parts[each["name"]] += each["tdur"] / 1000
        at = bisect.bisect_right(starts, each["ts"]) - 1
        if each["name"] == "RunTask" and at >= 0:
            times[at] += each["tdur"] / 1000
    return Frames(times[1:-1], dict(parts))


async def measure(browser: Browser, url: str, scheme: Literal["light", "dark"], address: str, step: int) -> Frames:
    """Return the frames of a page with the table at this address, scrolled by `step` in each frame."""
    page = await browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    await page.goto(f"{url}#/{address}")
    await page.locator(".freshness[data-state=live]").wait_for()
    await page.locator(".rows .row").first.wait_for()
    await browser.start_tracing(page=page, categories=CATEGORIES)
    await page.evaluate(SCROLL, [step, FRAMES])
    trace = await browser.stop_tracing()
    await page.close()
    return frames_of(trace)


async def run() -> None:
    """Print the table of docs/design/performance.md#the-page."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("Chromium is missing: apt-get install chromium")
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory(prefix="bench-page-") as name:
        folder = Path(name)
        with (
            PostgresServer.start(folder / "pg", fsync=False) as server,
            SERVED.start(folder, server.url) as up,
        ):
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
                for order, address in (("query's order", "orders"), ("sorted by a click", "orders?~sort=amount")):
                    for scheme in ("light", "dark"):
                        for what, step in (("scrolled", STEP), ("not scrolled", 0)):
                            frames = await measure(browser, f"http://{up.gateway()}/", scheme, address, step)
                            times = frames.times
                            median, p95, p99 = (table.percentile(times, share) for share in (0.5, 0.95, 0.99))
                            each = (frames.parts.get(part, 0.0) / len(times) for part in PARTS)
                            rows.append([f"{order}, {scheme}, {what}", len(times), median, p95, p99, *each])
                await browser.close()
    head = ["10,000 rows that change each second", "frames", "median ms", "p95 ms", "p99 ms", *PARTS]
    table.show("CPU time of the page's main thread for each frame", head, rows)
