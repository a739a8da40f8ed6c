"""The page's wall in a real browser, and the ways to show a result: tables, charts, trends and numbers."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.async_api import Locator, expect

from tests.browser.conftest import Opens, Watched
from tests.support.cluster import STOCK_TABLE, Cluster, Served
from tests.support.waiting import eventually

CATALOG = '''
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

[queries.orders]
title = "Orders"
sql = """
select id, 100000 + id as customer_id, round(n * 1.255, 3) as amount, id = 2 as paid, nullif(name, 'fig') as name,
       timestamptz '2026-01-31 12:00:00.123456+00' + id * interval '1 hour' as at,
       jsonb_build_object('shelf', shelf, 'ids', array[9007199254740993, id]) as details
from stock order by id
"""
key = ["id"]
interval = "100ms"

[queries.tellers]
title = "The richest tellers"
sql = "select 70 + id as teller, id as bid, n as balance from stock order by n desc, id"
key = ["teller"]
interval = "100ms"

[queries.regions]
title = "By region"
sql = """
select r as region, timestamptz '2026-01-31 12:00+00' + m * interval '1 minute' as at, m * length(r) as revenue
from generate_series(0, 20) m, unnest(array['north', 'southern']) r order by at, region
"""
key = ["region", "at"]

[queries.many]
title = "Ten thousand rows"
sql = """
select id, (id * 7919 + extract(epoch from clock_timestamp())::bigint %% 1000 * (id %% 10 / 9)) %% 10007 as n,
       md5(id::text) as text
from generate_series(1, 10000) id order by id
"""
key = ["id"]
interval = "500ms"
timeout = "5s"

[queries.broken]
title = "A query that fails"
sql = "select 1 / n as one from (values (0)) v(n)"
interval = "100ms"

[queries.without_rows]
title = "A query without rows"
sql = "select 1 as one where false"
interval = "100ms"
'''

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"

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


async def arrange(opened: Watched, url: str) -> None:
    """Put two topics on the empty wall, and move and resize them by keyboard and mouse."""
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


async def test_a_wall_is_arranged_with_mouse_and_keyboard_and_its_address_gives_the_same_wall(
    url: str, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    async with tab(f"{url}#/wall/") as opened:
        await arrange(opened, url)
        shared = opened.page.url

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
        stock.execute("update stock set n = 1234567885 where id = 2")
        await expect(page.locator(".figure strong").first).to_have_text("1,234,567,891")
        resize = page.get_by_role("button", name="Resize The total")
        for _ in range(4):
            await resize.press("ArrowLeft")
        narrow = page.locator(".figure strong[title]").first  # shortened rather than cut, with all digits as its title
        await expect(narrow).to_have_attribute("title", "1,234,567,891")
        await expect(narrow).to_have_text(re.compile(r"^1\.2\d*B$"))
        assert await narrow.evaluate("figure => figure.scrollWidth <= figure.clientWidth")
        for _ in range(4):
            await page.go_back()
        stock.execute("update stock set n = 11 where id = 2")
        await expect(page.locator(".figure strong").first).to_have_text("17")
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


async def test_a_table_has_readable_cells_is_sorted_and_can_be_copied(
    url: str, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    allowed = ["clipboard-read", "clipboard-write"]
    async with tab(f"{url}#/orders", permissions=allowed, timezone_id="Europe/Vienna") as opened:
        page = opened.page
        await opened.shows(["1", "2", "3"], column=0)
        await opened.shows(["100001", "100002", "100003"], column=1)
        await opened.shows(["6.275", "3.765", "1.255"], column=2)
        await opened.shows(["false", "true", "false"], column=3)
        await opened.shows(["apple", "pear", "NULL"], column=4)
        await opened.shows([f"2026-01-31 {hour}:00:00.123" for hour in (14, 15, 16)], column=5)
        time = page.locator(".cell.time", has_text=" 14:00")
        await expect(time).to_have_attribute("title", "2026-01-31T13:00:00.123456+00:00")
        stock.execute("update stock set n = 40 where id = 3")
        await opened.shows(["6.275", "3.765", "50.200"], column=2)

        amount = page.get_by_role("columnheader", name="amount")
        await amount.get_by_role("button").press("Enter")
        await opened.shows(["2", "1", "3"], column=0)
        await expect(amount).to_have_attribute("aria-sort", "ascending")
        await amount.get_by_role("button").press("Enter")
        await opened.shows(["3", "1", "2"], column=0)
        await expect(page).to_have_url(f"{url}#/orders?%7Edesc=amount")
        stock.execute("update stock set n = 50 where id = 2")
        await opened.shows(["2", "3", "1"], column=0)
        await amount.get_by_role("button").press("Enter")
        await opened.shows(["1", "2", "3"], column=0)

        more = page.locator(".rows .cell.json button").first
        await more.press("Enter")
        await expect(page.get_by_role("dialog")).to_contain_text("9007199254740993")
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await expect(more).to_be_focused()
        await page.get_by_role("button", name="Copy as CSV").click()
        await expect(page.get_by_role("button", name="Copied")).to_be_visible()
        copied = await page.evaluate("navigator.clipboard.readText()")
        assert copied.splitlines()[0] == "id,customer_id,amount,paid,name,at,details"
        assert copied.splitlines()[3].startswith("3,100003,50.2,false,,2026-01-31T15:00:00.123456+00:00,")
        async with page.expect_download() as download:
            await page.get_by_role("button", name="Download CSV").click()
        saved = await download.value
        assert saved.suggested_filename == "orders.csv"
        assert (await saved.path()).read_bytes().decode().splitlines() == copied.splitlines()


async def test_charts_have_the_right_labels_a_line_for_each_series_and_a_measure_as_column(
    url: str, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    async with tab(f"{url}#/tellers?~=chart") as opened:
        page = opened.page
        await page.evaluate(
            """() => {
              window.drawn = []
              const write = CanvasRenderingContext2D.prototype.fillText
              const clear = CanvasRenderingContext2D.prototype.clearRect
              CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
                window.drawn.push(text)
                return write.call(this, text, ...rest)
              }
              CanvasRenderingContext2D.prototype.clearRect = function (...given) {
                window.drawn = []
                return clear.apply(this, given)
              }
            }"""
        )
        await expect(page.locator(".u-legend")).to_contain_text("balance")
        assert "bid" not in str(await page.locator(".u-legend").text_content())
        stock.execute("update stock set n = 9 where id = 2")  # the order changes, and nothing else of the axis
        await opened.becomes("drawn.filter(text => /^7[123]$/.test(text)).join() === '72,71,73'")
        await page.locator(".plot .u-over").hover()
        await expect(page.locator(".tip")).to_contain_text("teller: 71")
        await page.goto(f"{url}#/regions?~=chart")
        await expect(page.locator(".u-legend .u-series")).to_have_count(3)
        await expect(page.locator(".u-legend")).to_contain_text("southern")
        await page.goto(f"{url}#/tellers?~=trend")
        await expect(page.locator(".u-legend")).to_contain_text("teller 72")


async def test_the_code_for_a_topic_works_as_it_is(url: str, stock: psycopg.Connection[Any], tab: Opens) -> None:
    async with tab(f"{url}#/stock?shelf=a&limit=7") as opened:
        page = opened.page
        await opened.shows(["apple", "pear"])
        await page.get_by_text("Use this topic in your code").click()
        code = {}
        for language in ("curl", "JavaScript", "React", "Python"):
            await page.get_by_label("Language").select_option(language)
            code[language] = str(await page.locator(".code pre").text_content())
        assert await page.get_by_role("link", name="OpenAPI").get_attribute("href") == f"{url}api/docs"
    assert '"live:stock?shelf=a&limit=7"' in code["JavaScript"]
    assert 'useLive("live:stock?shelf=a&limit=7")' in code["React"]
    for command in (["sh", "-c", f"exec {code['curl'].splitlines()[-1]}"], [sys.executable, "-c", code["Python"]]):
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(60):
                while b"pear" not in (line := await process.stdout.readline()):
                    assert line, f"{command} ended without a row"
        finally:
            process.kill()
            await process.wait()


async def test_axe_finds_nothing_in_any_view(url: str, stock: psycopg.Connection[Any], tab: Opens) -> None:
    wall = "t=0.0.6.5.stock%3Fshelf%3Da&t=6.0.6.5.regions%3F~%3Dchart&t=0.5.4.4.total%3F~%3Dnumber&t=4.5.4.4.broken"
    walls = {
        name: (f"wall/?{full}{wall}", ".trouble:not([hidden])") for name, full in (("wall", ""), ("full", "full&"))
    }
    views = walls | {
        "table": ("orders?~sort=n", ".rows .row"),
        "empty": ("without_rows", ".none:not([hidden])"),
        "chart": ("regions?~=chart", "canvas"),
        "number": ("total?~=number", ".figure"),
        "wrong": ("stock?shelf=a&limit=999", ".wrong:not(:empty)"),
        "failed": ("broken", ".trouble:not([hidden])"),
        "cluster": ("cluster/", ".nodes"),
    }
    looks = [("light", (390, 844), views), ("dark", (1280, 800), views), ("light", (3840, 2160), walls)]
    async with tab(url, reduced_motion="reduce") as opened:
        await opened.page.evaluate(AXE.read_text())
        for scheme, (width, height), shown in looks:
            await opened.page.set_viewport_size({"width": width, "height": height})
            await opened.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            for name, (address, awaited) in shown.items():
                await opened.page.evaluate("address => { location.hash = address }", f"#/{address}")
                await opened.page.locator(awaited).first.wait_for()
                found = await opened.page.evaluate(
                    """axe.run({resultTypes: ['violations'], preload: false})
                         .then(({violations}) => violations.map(({id, nodes}) => `${id}: ${nodes[0].html}`))"""
                )
                await opened.picture(f"{name}-{width}-{scheme}")
                assert found == [], (scheme, width, name)
                assert await opened.page.evaluate("document.documentElement.scrollWidth") <= width


async def test_scrolling_ten_thousand_rows_makes_no_elements_and_sorts_once_for_each_delta(
    url: str, tab: Opens
) -> None:
    scroll = """() => new Promise(done => {
      const counts = {made: 0, sorted: 0, results: 0, most: 0, frames: 0}
      const make = Document.prototype.createElement
      Document.prototype.createElement = function (...given) {
        counts.made += 1
        return make.apply(this, given)
      }
      const sort = Array.prototype.sort
      Array.prototype.sort = function (...given) {
        if (this.length > 1000) counts.sorted += 1
        return sort.apply(this, given)
      }
      new MutationObserver(() => { counts.results += 1 })
        .observe(document.querySelector('article'), {attributeFilter: ['data-version']})
      const scroller = document.querySelector('.scroller')
      const frame = () => {
        counts.most = Math.max(counts.most, document.querySelectorAll('.rows .row').length)
        scroller.scrollTop += 400
        counts.frames += 1
        if (counts.frames < 120 || counts.results < 3) requestAnimationFrame(frame)
        else done(counts)
      }
      requestAnimationFrame(frame)
    })"""
    async with tab(f"{url}#/many?~sort=n") as opened:
        await opened.follows()
        await expect(opened.page.get_by_role("table")).to_have_attribute("aria-rowcount", "10001")
        counts = await opened.page.evaluate(scroll)
    rows, elements = 60, 4  # of a screen, and of a row
    assert counts["most"] < rows
    assert counts["sorted"] <= counts["results"] + 1
    assert counts["made"] <= (counts["results"] + 1) * rows * elements
