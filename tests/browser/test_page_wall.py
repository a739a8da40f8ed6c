"""The page's wall in a real browser: several topics side by side, kept in the address."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from playwright.async_api import Locator, expect

from tests.browser.conftest import Opens
from tests.support.cluster import STOCK_TABLE, Cluster, Served
from tests.support.waiting import eventually

CATALOG = """
[queries.stock]
title = "What is in stock"
sql = "select id, name, n from stock where shelf = %(shelf)s order by n desc, id limit %(limit)s"
key = ["id"]
interval = "100ms"
[queries.stock.params]
shelf = { type = "text", enum = ["a", "b"] }
limit = { type = "int", default = 10, min = 1, max = 100 }

[queries.total]
title = "The total"
sql = "select sum(n)::int as total, 1.5::numeric(8, 2) as share from stock"
interval = "100ms"

[queries.broken]
title = "A query that fails"
sql = "select 1 / n as one from (values (0)) v(n)"
interval = "100ms"
"""

SERVED = Served(CATALOG, tables=[STOCK_TABLE], flags=("--gateways", "1", "--pollers", "1"))


@pytest.fixture
def url(running: Cluster) -> str:
    """The address of the page."""
    return f"http://{running.gateway()}/"


async def drag(handle: Locator, right: float, down: float) -> None:
    """Drag an element with the mouse, by so many CSS pixels."""
    await handle.hover()
    box = await handle.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse = handle.page.mouse
    await mouse.move(x, y)
    await mouse.down()
    await mouse.move(x + right / 2, y + down / 2)
    await mouse.move(x + right, y + down)
    await mouse.up()


async def test_a_wall_is_arranged_with_mouse_and_keyboard_and_its_address_gives_the_same_wall(
    url: str, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    async with tab(f"{url}#/wall/") as opened:
        page = opened.page
        await page.get_by_label("Topic", exact=True).select_option("stock")
        await page.get_by_role("button", name="Add", exact=True).click()
        await opened.shows(["apple", "pear"])
        await page.get_by_label("Topic", exact=True).select_option("total")
        await page.get_by_label("as", exact=True).select_option("number")
        await page.get_by_role("button", name="Add", exact=True).click()
        first, second = "t=0.0.6.5.stock%3Fshelf%3Da", "t=6.0.3.3.total%3F%257E%3Dnumber"
        await expect(page).to_have_url(f"{url}#/wall/?{first}&{second}")
        await expect(page.locator(".figure strong").first).to_have_text("9")

        move = page.get_by_role("button", name="Move The total", exact=True)
        await move.press("ArrowRight")
        await expect(page).to_have_url(f"{url}#/wall/?{first}&{second.replace('6.0.3.3', '7.0.3.3')}")
        await expect(move).to_be_focused()
        await move.press("Shift+ArrowDown")
        await expect(page).to_have_url(f"{url}#/wall/?{first}&{second.replace('6.0.3.3', '7.0.3.4')}")
        await page.get_by_role("button", name="Resize The total").press("ArrowLeft")
        await expect(page).to_have_url(f"{url}#/wall/?{first}&{second.replace('6.0.3.3', '7.0.2.4')}")
        await page.go_back()
        await page.go_back()
        await page.go_back()
        await expect(page).to_have_url(f"{url}#/wall/?{first}&{second}")
        tile = page.locator(".tile", has_text="The total")
        before = await tile.bounding_box()
        assert before is not None

        await drag(move, -before["width"] * 2, 0)  # onto the first tile, which makes room
        await expect(page).to_have_url(f"{url}#/wall/?t=0.3.6.5.stock%3Fshelf%3Da&{second.replace('6.0', '0.0')}")
        await drag(page.get_by_role("button", name="Resize The total"), before["width"], 0)
        await expect(page).to_have_url(f"{url}#/wall/?t=0.3.6.5.stock%3Fshelf%3Da&{second.replace('6.0.3', '0.0.6')}")
        await page.get_by_role("button", name="Move The total", exact=True).focus()
        await page.get_by_label("Show What is in stock as").select_option("chart")
        await page.locator(".tile .plot canvas").wait_for()
        shared = page.url

    async with tab(shared) as opened:
        page = opened.page
        await expect(page.locator(".tile")).to_have_count(2)
        assert page.url == shared
        boxes = [await page.locator(".tile", has_text=text).bounding_box() for text in ("The total", "in stock")]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert boxes[0]["x"] == boxes[1]["x"]
        assert boxes[1]["y"] > boxes[0]["y"] + boxes[0]["height"]
        stock.execute("update stock set n = 11 where id = 2")
        await expect(page.locator(".figure strong").first).to_have_text("17")
        await expect(page.locator(".figure .change").first).to_have_text("▲ 8")
        await page.get_by_label("Show What is in stock as").select_option("table")
        await opened.shows(["pear", "apple"])
        await page.get_by_role("button", name="Parameters of").click()
        await page.get_by_label("shelf").select_option("b")
        await opened.shows(["fig"])
        await expect(page).to_have_url(f"{url}#/wall/?t=0.3.6.5.stock%3Fshelf%3Db&t=0.0.6.3.total%3F%257E%3Dnumber")
        await page.get_by_role("button", name="Remove The total").click()
        await expect(page.locator(".tile")).to_have_count(1)
        await expect(page.get_by_role("button", name="Move What is in stock", exact=True)).to_be_focused()
        await expect(page).to_have_url(f"{url}#/wall/?t=0.0.6.5.stock%3Fshelf%3Db")

        await page.get_by_role("button", name="Full screen").click()
        await expect(page).to_have_url(f"{url}#/wall/?full=&t=0.0.6.5.stock%3Fshelf%3Db")
        await expect(page.locator(".bar")).to_be_hidden()
        await expect(page.locator(".chrome")).to_be_hidden()
        await page.keyboard.press("Escape")
        await expect(page.locator(".bar")).to_be_visible()
        await page.get_by_role("link", name="Explore").click()
        await opened.shows(["pear", "apple"])
        await page.get_by_role("button", name="Add to wall").click()
        await expect(page).to_have_url(f"{url}#/wall/?t=0.0.6.5.stock%3Fshelf%3Db&t=6.0.6.5.stock%3Fshelf%3Da")


async def test_no_address_breaks_the_page_and_each_tile_says_what_is_wrong_with_it(
    url: str, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    good = "t=6.0.6.5.stock%3Fshelf%3Da"
    async with tab(f"{url}#/wall/?{good}&t=0.0.6.5.broken&t=0.5.6.5.stock%3Fshelf%3Da%26limit%3D999") as opened:
        page = opened.page
        broken = page.locator(".tile", has_text="A query that fails")
        await expect(broken.locator(".trouble")).to_contain_text("division_by_zero")
        await expect(broken.locator(".trouble")).to_contain_text("since")
        await expect(page.locator(".tile .wrong", has_text="at most 100")).to_be_visible()
        await opened.shows(["apple", "pear"])
        bad = ["t", "t=%E0%A4%A", "t=0.0.6.5.nothing%3Fa%3Db", "t=999.999.0.0.broken%3F%26%26%3D&full", "%00&=&t=1.2"]
        for text in bad:
            await page.goto(f"{url}#/wall/?{text}&{good}")
            await opened.shows(["apple", "pear"])
        await page.goto(f"{url}#/wall/?t=0.0.6.5.nothing")
        await expect(page.locator(".tile")).to_contain_text("There is no query “nothing”")

        async def calm() -> bool:
            return opened.troubles == []

        assert await eventually(calm)
