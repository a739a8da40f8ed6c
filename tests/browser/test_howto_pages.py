"""The pages of docs/howto/web-page.md, as they are there, with the table and catalogue of own-database.md."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import psycopg
import pytest
from playwright.async_api import expect

from tests.browser.conftest import Opens
from tests.support.cluster import Cluster, Served
from tests.support.repository import ROOT, manual_code

CATALOG, TABLE = manual_code("howto/own-database.md", "toml")[0], manual_code("howto/own-database.md", "sql")[0]
PAGES = dict(zip(("client", "phoenix", "eventsource"), manual_code("howto/web-page.md", "html"), strict=True))
SERVED = Served(
    CATALOG,
    TABLE.split(";\n"),
    flags=("--gateways", "1", "--pollers", "1"),
    environment={"POLLCAST_PATH_PREFIX": "/pollcast"},
)


class Quiet(SimpleHTTPRequestHandler):
    """A handler that serves files without logging."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Do nothing."""


@pytest.fixture(scope="module")
def site(running: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the pages and node_modules on a port of their own; the value is the address."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "node_modules").symlink_to(ROOT / "node_modules")
    for name, text in PAGES.items():
        (folder / f"{name}.html").write_text(text.replace("127.0.0.1:4000", running.gateway()))
    (folder / "favicon.ico").touch()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_of_the_manual_shows_a_result_and_its_changes(
    running: Cluster, site: str, tab: Opens, name: str
) -> None:
    with psycopg.connect(running.database_url, autocommit=True) as database:
        database.execute("delete from orders where customer not in ('Ada', 'Grace', 'Edsger')")
        async with tab(f"{site}/{name}.html") as watched:
            orders = watched.page.locator("#orders li")
            await expect(orders).to_have_text(["Ada: 120.5", "Grace: 99"])
            await expect(watched.page.locator("#status")).to_have_text("live")
            database.execute("insert into orders (customer, region, amount) values ('Barbara', 'north', 110)")
            await expect(orders).to_have_text(["Ada: 120.5", "Barbara: 110", "Grace: 99"])
            database.execute("update orders set amount = amount + 100 where customer = 'Barbara'")
            await expect(orders).to_have_text(["Barbara: 210", "Ada: 120.5", "Grace: 99"])
            database.execute("delete from orders where customer = 'Barbara'")
            await expect(orders).to_have_text(["Ada: 120.5", "Grace: 99"])


@pytest.mark.parametrize("path", ["/pollcast", "/"])
async def test_the_gateways_own_page_works_below_a_path_prefix_and_at_the_root(
    running: Cluster, tab: Opens, path: str
) -> None:
    base = f"http://{running.gateway()}{path.rstrip('/')}/"
    async with tab(f"http://{running.gateway()}{path}") as watched:
        await watched.page.get_by_role("link", name="Cluster").click()
        await expect(watched.page.get_by_text("gateway-1").first).to_be_visible()
        await watched.page.goto(f"{base}#/orders_by_region?region=north")
        await watched.follows()
        await watched.page.get_by_text("Use this topic in your code").click()
        await watched.page.get_by_role("link", name="OpenAPI").click()
        operation = watched.page.locator("#operations-live-live_orders_by_region")
        await operation.get_by_role("button", name="/live/orders_by_region").first.wait_for()
        assert {url.startswith(base) for url in watched.requests if not url.endswith("/pollcast")} == {True}
