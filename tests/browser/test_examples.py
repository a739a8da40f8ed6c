"""The example applications of examples/, built and driven in Chromium, and the size of the JavaScript client."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest
from playwright.async_api import Locator, Page, WebSocket, expect

from tests.browser.conftest import Opens
from tests.browser.test_howto_pages import Quiet
from tests.support.cluster import Cluster, Served
from tests.support.repository import ROOT

CATALOG = """
[queries.richest_tellers]
sql = "select teller, balance from tellers order by balance desc, teller limit %(limit)s"
key = ["teller"]
interval = "100ms"
params.limit = { type = "int", default = 10 }
"""
SERVED = Served(
    CATALOG,
    tables=["create table tellers (teller int primary key, balance int)"],
    flags=["--gateways", "1", "--pollers", "1"],
)
EXAMPLES = ["react", "vue", "svelte", "tanstack-db", "tanstack-query"]
ENVIRONMENT = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}

MOST_BYTES = {"core": 8 * 1024, "with phoenix": 14 * 1024}
"""Maximum sizes of the client, minified and gzipped, in bytes: of its own modules, and with phoenix.js."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the examples, each into a folder of its name, and serve them; the value is the address.

    They are built for development, in which React's StrictMode mounts each component twice.
    """
    folder = tmp_path_factory.mktemp("examples")
    vite = ROOT / "examples" / "node_modules" / "vite" / "bin" / "vite.js"
    builds = [
        subprocess.Popen(
            [
                "node",
                vite,
                "build",
                "--mode",
                "development",
                "--logLevel",
                "error",
                "--base",
                "./",
                "--outDir",
                folder / name,
            ],
            cwd=ROOT / "examples" / name,
            env=ENVIRONMENT | {"NODE_ENV": "development"},
        )
        for name in EXAMPLES
    ]
    assert [build.wait(120) for build in builds] == [0] * len(EXAMPLES)
    (folder / "favicon.ico").touch()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def tellers(running: Cluster) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection to the database, where six tellers have 10 to 60."""
    with psycopg.connect(running.database_url, autocommit=True) as database:
        database.execute("truncate tellers")
        database.execute("insert into tellers select n, 10 * n from generate_series(1, 6) n")
        yield database


@asynccontextmanager
async def example(
    tab: Opens, site: str, name: str, running: Cluster, *, calm: bool = True
) -> AsyncIterator[tuple[Page, Locator, list[str]]]:
    """Open an example; yield its page, its list, and the frames that it sends. See `Opens` for `calm`."""
    sent: list[str] = []

    def on_socket(socket: WebSocket) -> None:
        socket.on("framesent", lambda frame: sent.append(str(frame)))

    async with tab("about:blank", calm=calm) as watched:
        watched.page.on("websocket", on_socket)
        await watched.page.goto(f"{site}/{name}/index.html?gateway={running.gateway()}")
        yield watched.page, watched.page.locator("ol li"), sent


def joins(sent: list[str]) -> list[str]:
    """Return the topics that were joined, in order."""
    return [message[2] for message in map(json.loads, sent) if message[3] == "phx_join"]


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_shows_a_live_result_and_its_changes(
    running: Cluster, site: str, tab: Opens, name: str, tellers: psycopg.Connection[tuple[object, ...]]
) -> None:
    async with example(tab, site, name, running) as (page, rows, sent):
        await expect(rows).to_have_text(["6: 60", "5: 50", "4: 40", "3: 30", "2: 20"])
        await expect(page.locator(".status")).to_have_text("ready" if name == "tanstack-db" else "live")
        await expect(page.locator(".total")).to_contain_text("200 in all")
        tellers.execute("update tellers set balance = 55 where teller = 4")
        await expect(rows).to_have_text(["6: 60", "4: 55", "5: 50", "3: 30", "2: 20"])
        tellers.execute("delete from tellers where teller = 6")
        await expect(rows).to_have_text(["4: 55", "5: 50", "3: 30", "2: 20", "1: 10"])
        await page.locator("button").first.click()
        await expect(rows).to_have_text(["4: 55", "5: 50"] if name == "tanstack-db" else ["4: 55", "5: 50", "3: 30"])
        await expect(page.locator(".total")).to_contain_text("105" if name == "tanstack-db" else "135")
    topics = [f"live:richest_tellers?limit={limit}" for limit in ((40,) if name == "tanstack-db" else (5, 3))]
    assert joins(sent) == topics


async def test_react_renders_the_rows_that_changed_and_components_share_a_subscription_that_outlives_each(
    running: Cluster, site: str, tab: Opens, tellers: psycopg.Connection[tuple[object, ...]]
) -> None:
    # A browser that is offline logs each attempt to connect.
    async with example(tab, site, "react", running, calm=False) as (page, rows, sent):
        await expect(rows).to_have_text(["6: 60", "5: 50", "4: 40", "3: 30", "2: 20"])
        await page.evaluate("window.rendered = 0")
        tellers.execute("update tellers set balance = 31 where teller = 3")
        await expect(rows).to_have_text(["6: 60", "5: 50", "4: 40", "3: 31", "2: 20"])
        assert await page.evaluate("window.rendered") == 2  # one row, which StrictMode renders twice
        await page.locator("button").nth(1).click()
        await expect(page.locator(".total")).to_have_count(0)
        tellers.execute("update tellers set balance = 32 where teller = 3")
        await expect(rows.nth(3)).to_have_text("3: 32")
        await page.locator("button").nth(1).click()
        await expect(page.locator(".total")).to_contain_text("202 in all")
        assert joins(sent) == ["live:richest_tellers?limit=5"]
        await page.context.set_offline(True)
        await expect(page.locator(".status")).to_have_text("offline")
        await page.context.set_offline(False)
        tellers.execute("delete from tellers where teller = 3")
        await expect(rows).to_have_text(["6: 60", "5: 50", "4: 40", "2: 20", "1: 10"])
        await expect(page.locator(".status")).to_have_text("live")


def test_the_client_is_small() -> None:
    script = ROOT / "clients" / "js" / "sizes.mjs"
    done = subprocess.run(["node", script], env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=True)
    sizes = json.loads(done.stdout)
    sys.stdout.write(f"The JavaScript client, gzipped: {sizes}\n")
    assert sizes.keys() == MOST_BYTES.keys()
    assert all(sizes[name] <= most for name, most in MOST_BYTES.items()), sizes
