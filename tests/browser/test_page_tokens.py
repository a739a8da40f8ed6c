"""The page in a real browser, on a gateway that requires tokens, whose catalogue changes, or behind a proxy."""

from __future__ import annotations

import time
from typing import Any

import jwt
import psycopg
from playwright.async_api import Locator, Page, expect

from tests.browser.conftest import Opens, Watched
from tests.support.cluster import STOCK_TABLE, Cluster, Served
from tests.support.tokens import token
from tests.support.waiting import eventually

CATALOG = """
[queries.stock]
sql = "select id, name, n from stock where shelf = %(shelf)s order by n desc, id"
key = ["id"]
interval = "100ms"
presence = true
params.shelf = { type = "text", enum = ["a", "b"] }
"""

SERVED = Served(CATALOG, tables=[STOCK_TABLE], flags=("--gateways", "1", "--pollers", "1"))


async def enter(opened: Watched, text: str) -> None:
    """Enter a token into the form."""
    await opened.page.get_by_label("Token", exact=True).last.fill(text)
    await opened.page.get_by_role("button", name="Use this token").click()


async def test_the_page_asks_for_a_token_where_the_gateway_requires_one(
    guarded: Cluster, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    # The browser logs each 401 on the console.
    async with tab(f"http://{guarded.gateway()}/#/stock?shelf=a", calm=False) as opened:
        page = opened.page
        await expect(page.get_by_role("heading", name="A token is needed")).to_be_visible()
        await expect(page.locator("#token")).to_be_focused()
        await enter(opened, "no token at all".replace(" ", "-"))
        await expect(page.locator("#access")).to_contain_text("The gateway refused yours")
        await enter(opened, token(300))
        await opened.shows(["apple", "pear"])
        await expect(page.locator("#access")).to_be_hidden()
        await expect(page.locator(".people")).to_contain_text("(you)")
        await expect(page.locator(".people li")).to_have_count(1)
        await page.goto(f"http://{guarded.gateway()}/#/cluster/")
        await expect(page.locator(".owners")).to_contain_text("stock")
        await expect(page.locator(".owners")).not_to_contain_text("shelf")  # no parameters


def expiry(held: str) -> float:
    """Return the Unix time of a token's expiry."""
    return float(jwt.decode(held, options={"verify_signature": False})["exp"])


async def brief(opened: Watched, awaited: Locator) -> float:
    """Enter tokens that expire soon, each later than the one before, until one was good for so long that the awaited
    element appeared; return the Unix time of its expiry."""
    again = opened.page.get_by_role("heading", name="Another token is needed")
    seconds = 2
    while True:
        held = token(seconds)
        await enter(opened, held)
        await expect(awaited.or_(again).first).to_be_visible()
        if await awaited.is_visible():
            return expiry(held)
        seconds *= 2


async def soon(page: Page, held: str) -> None:
    """Set the page's clock to two seconds before the expiry of a token, for ever, also when the page is loaded again.

    The page then asks for another token a second after it has connected with this one, and the gateway, whose clock is
    right, takes both.
    """
    await page.clock.set_fixed_time(expiry(held) - 2)


async def test_the_page_asks_for_another_token_in_time_and_the_next_one_keeps_the_connection(
    guarded: Cluster, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    async with tab(f"http://{guarded.gateway()}/#/stock?shelf=a", calm=False) as opened:
        page = opened.page
        asked = page.get_by_role("heading", name="Your token expires soon")
        sockets: list[str] = []
        page.on("websocket", lambda socket: sockets.append(socket.url))
        first = token(300)
        await soon(page, first)
        await enter(opened, first)
        await opened.shows(["apple", "pear"])
        await expect(asked).to_be_visible()
        await page.locator("#token").press("Escape")
        await expect(page.locator("#access")).to_be_hidden()
        await page.reload()  # a reloaded page still has its token, and asks for another before it expires
        await opened.follows()
        sockets.clear()
        await expect(asked).to_be_visible()
        stock.execute("update stock set n = 9 where id = 2")
        await opened.shows(["pear", "apple"])  # the rows stay live meanwhile
        await opened.picture("token")
        await enter(opened, token(301))
        await expect(page.locator("#access")).to_be_hidden()
        stock.execute("update stock set n = 1 where id = 2")
        await opened.shows(["apple", "pear"])
        await expect(page.locator("article")).to_have_attribute("data-kind", "delta")
        assert sockets == []

        await opened.page.get_by_label("You are").fill("Tom")
        await expect(asked).to_be_visible()
        await enter(opened, token(302, sub="bob"))  # a token of another subject opens a new connection
        await expect(page.locator(".people")).to_contain_text("(you)")
        stock.execute("update stock set n = 9 where id = 2")
        await opened.shows(["pear", "apple"])
        await opened.follows()
        await eventually(lambda: len(sockets) == 1)


async def test_an_expired_token_keeps_what_the_page_shows_until_the_next_one(
    guarded: Cluster, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    url = f"http://{guarded.gateway()}/#/"
    async with tab(f"{url}stock?shelf=b", calm=False) as late, tab(f"{url}cluster/", calm=False) as overview:
        asked = [each.page.get_by_role("heading", name="Another token is needed") for each in (late, overview)]
        expires_at = await brief(late, late.page.locator(".cell", has_text="fig"))
        node = overview.page.get_by_role("row", name="gateway-1")
        await brief(overview, node)
        await expect(asked[1]).to_be_visible(timeout=30_000)
        await expect(node).to_be_visible()
        await enter(overview, token(300))
        await expect(overview.page.locator("article > .why")).to_be_empty()

        # The gateway closes the connection ten seconds after the expiry.
        await expect(asked[0]).to_be_visible(timeout=1000 * (max(0.0, expires_at - time.time()) + 40))
        await expect(late.page.locator(".freshness .state")).to_have_text("stale")
        await late.shows(["fig"])
        stock.execute("insert into stock values (4, 'lime', 9, 'b')")
        await enter(late, token(300))
        await late.shows(["lime", "fig"])
        await late.follows()
        await expect(late.page.locator("article")).to_have_attribute("data-kind", "delta")  # it resumed


async def test_the_page_takes_a_changed_catalogue_over(
    running: Cluster, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    url = f"http://{running.gateway()}/"
    file = running.data_dir.parent / "catalog.toml"
    wall = "#/wall/?t=0.0.6.5.stock%3Fshelf%3Da&t=6.0.6.5.stock%3Fshelf%3Db"
    async with tab(f"{url}#/stock?shelf=a") as opened, tab(f"{url}{wall}") as beside:
        await opened.shows(["apple", "pear"])
        tiles = beside.page.locator(".tile")
        await expect(tiles.first.locator(".people li")).to_have_count(1)  # the other page; a wall is no member
        try:
            file.write_text(CATALOG.replace("queries.stock", "queries.other"))
            await expect(opened.page.locator(".freshness .why")).to_contain_text("unknown_query")
            await expect(opened.page.locator("#catalogue a")).to_have_text(["otherother"])
            await opened.shows(["apple", "pear"])  # the last rows stay
            await expect(tiles.first.locator(".why")).to_contain_text("unknown_query")

            file.write_text(CATALOG.replace("[queries.stock]", '[queries.stock]\ntitle = "The stock"'))

            async def taken() -> bool:
                return "The stock" in await opened.page.evaluate("fetch('/api/queries').then((found) => found.text())")

            await eventually(taken, what="the gateway shows the new title")
            for page in (opened.page, beside.page):  # which ask for the queries when somebody looks at them again
                await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
                await expect(page.locator("main").get_by_role("heading", name="The stock").first).to_be_visible()
            await opened.follows()
            await expect(beside.page.locator(".freshness[data-state=live]")).to_have_count(2)
            stock.execute("update stock set n = 9 where id = 2")
            await opened.shows(["pear", "apple"])
            await expect(tiles.nth(1).locator(".rows .cell").nth(1)).to_have_text("fig")
            assert beside.page.url == f"{url}{wall}"
        finally:
            file.write_text(CATALOG)


async def test_the_page_falls_back_to_long_polling_where_no_websocket_is_let_through(
    running: Cluster, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    async with tab(f"http://{running.gateway()}/") as opened:
        await opened.page.add_init_script(
            """window.WebSocket = class {
              constructor() { setTimeout(() => this.onerror?.(new Event('error'))) }
              close() {}
            }"""
        )
        await opened.page.goto(f"http://{running.gateway()}/?#/stock?shelf=a")
        await opened.shows(["apple", "pear"])
        stock.execute("update stock set n = 9 where id = 2")
        await opened.shows(["pear", "apple"])
        assert any("/socket/longpoll?" in url for url in opened.requests)
