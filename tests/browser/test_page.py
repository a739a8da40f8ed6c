"""The page in a real browser, on a healthy cluster."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
from playwright.async_api import expect

from tests.browser.conftest import Opens
from tests.support.cluster import STOCK_TABLE, Cluster, Served
from tests.support.waiting import eventually

CATALOG = '''
[queries.stock]
title = "What is in stock"
sql = "select id, name, n from stock where shelf = %(shelf)s order by n desc, id limit %(limit)s"
key = ["id"]
interval = "100ms"
presence = true
[queries.stock.params]
shelf = { type = "text", enum = ["a", "b"] }
limit = { type = "int", default = 10, min = 1, max = 100 }

[queries.since]
sql = "select %(at)s as at, %(name)s as name, %(day)s as day, %(exact)s as exact, %(yes)s as yes"
interval = "100ms"
[queries.since.params]
at = "timestamptz"
day = { type = "date", default = 2026-01-31 }
name = "text"
exact = { type = "numeric", default = "1.5" }
yes = { type = "bool", default = true }

[queries.lists]
sql = """
select id, name from stock
where shelf = any(%(shelves)s) and (%(least)s is null or n >= %(least)s) and (%(of)s = '{}' or id = any(%(of)s))
  and (%(open)s is null or %(open)s) and (%(size)s is null or %(size)s <> '')
  and (%(names)s = '{}' or name = any(%(names)s))
order by id
"""
key = ["id"]
interval = "100ms"
[queries.lists.params]
shelves = { type = "text[]", enum = ["a", "b", "c"], default = ["a"] }
least = { type = "int", optional = true, min = 0 }
of = { type = "int[]", default = [] }
open = { type = "bool", optional = true }
size = { type = "text", optional = true, enum = ["s", "m"] }
names = { type = "text[]", default = [], max_length = 5 }

[queries.named]
sql = "select n as named from unnest(%(names)s) n order by n"
params.names = "text[]"
interval = "100ms"

[queries.busy]
title = "A thousand rows that all change"
sql = """
select g as id, (random() * 1000)::int as n, md5(random()::text) as text
from generate_series(1, 1000) g order by 2 desc, 1
"""
key = ["id"]
interval = "100ms"

[queries.beat]
sql = "select extract(epoch from clock_timestamp())::int %% 7 as beat"
interval = "100ms"

[queries.hours]
sql = """
select t as at, extract(hour from t)::int as hour
from generate_series('2026-01-01'::timestamptz, '2026-01-02', '1 hour') t
"""

[queries.large]
sql = """
select 9007199254740992 + id as id, name, case id when 1 then 'NaN' else n::float8 end as n
from stock order by stock.n desc, stock.id
"""
key = ["id"]
interval = "100ms"

[queries.broken]
sql = "select 1 / n as one from (values (0)) v(n)"
interval = "100ms"
'''


SERVED = Served(CATALOG, tables=[STOCK_TABLE])


@pytest.fixture
def url(running: Cluster) -> str:
    """The address of the page."""
    return f"http://{running.gateway(0)}/"


async def test_rows_whose_keys_are_neighbouring_large_integers_are_told_apart(
    url: str, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    async with tab(f"{url}#/large") as opened:
        first, second, third = (f"9007199254740{last}" for last in ("993", "994", "995"))
        await opened.shows([first, second, third], column=0)
        await opened.shows(["NaN", "3", "1"], column=2)
        stock.execute("update stock set n = 9 where id = 2")
        await opened.shows([second, first, third], column=0)
        stock.execute("delete from stock where id = 1")
        await opened.shows([second, third], column=0)
        await opened.page.get_by_role("link", name="Chart").click()
        await opened.page.locator(".plot canvas").wait_for()


async def test_the_page_loads_nothing_from_other_hosts_and_runs_no_inline_script(url: str, tab: Opens) -> None:
    async with tab(url) as opened:
        await opened.follows()
        assert {request for request in opened.requests if not request.startswith(url)} == set()
        answer = await opened.page.request.get(url)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        # The browser does not run an inline script.
        await opened.page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))"
        )
        assert await opened.page.evaluate("window.ran") is None
        assert "Content Security Policy" in await eventually(lambda: "\n".join(opened.troubles))
        opened.troubles.clear()


async def test_the_table_applies_deltas_and_keeps_the_querys_order(
    url: str, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    async with tab(f"{url}#/stock?shelf=a") as opened:
        await opened.shows(["apple", "pear"])
        stock.execute("update stock set n = 9 where id = 2")
        await opened.shows(["pear", "apple"])
        stock.execute("insert into stock values (4, 'kiwi', 7, 'a')")
        await opened.shows(["pear", "kiwi", "apple"])
        stock.execute("delete from stock where id = 2")
        await opened.shows(["kiwi", "apple"])
        await expect(opened.page.locator("article")).to_have_attribute("data-kind", "delta")
        await expect(opened.page.locator(".freshness .state")).to_have_text("live")


async def test_a_row_that_moves_glides_and_a_cell_that_changes_lights_up(
    url: str, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    async with tab(f"{url}#/stock?shelf=a") as opened:
        await opened.shows(["apple", "pear"])
        await opened.page.evaluate(
            """() => {
              window.seen = new Set()
              const rows = document.querySelector('.rows')
              rows.addEventListener('transitionrun', event => window.seen.add(event.propertyName))
              const animate = Element.prototype.animate
              Element.prototype.animate = function (...given) {
                window.seen.add(this.textContent)
                return animate.apply(this, given)
              }
            }"""
        )
        stock.execute("update stock set n = 9 where id = 2")
        await opened.shows(["pear", "apple"])
        await opened.becomes("window.seen.has('transform') && window.seen.has('9')")
        assert await opened.page.evaluate("window.seen.has('apple')") is False


async def test_controls_set_the_parameters_and_the_address_contains_the_topic(
    url: str, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    async with tab(f"{url}#/stock") as opened:
        page = opened.page
        await opened.shows(["apple", "pear"])  # a choice starts with its first value
        await page.get_by_label("shelf").select_option("b")
        await opened.shows(["fig"])
        await expect(page).to_have_url(f"{url}#/stock?shelf=b")
        await page.get_by_role("button", name="decrease limit").click()
        await expect(page).to_have_url(f"{url}#/stock?shelf=b&limit=9")
        await page.get_by_label("limit", exact=True).fill("0")
        await expect(page.get_by_label("limit", exact=True)).to_have_attribute("aria-invalid", "true")
        await page.get_by_label("limit", exact=True).fill("10")  # the address leaves defaults out
        await expect(page).to_have_url(f"{url}#/stock?shelf=b")
    async with tab(f"{url}#/stock?shelf=b&limit=1") as opened:
        await opened.shows(["fig"])
        await expect(opened.page.get_by_label("limit", exact=True)).to_have_value("1")


async def test_every_parameter_type_has_a_control(url: str, tab: Opens) -> None:
    async with tab(f"{url}#/since", timezone_id="Europe/Vienna") as opened:
        page = opened.page
        await expect(page.get_by_text("Set the parameters above")).to_be_visible()
        await page.get_by_label("at", exact=True).fill("2026-01-31T13:00:00")
        await page.get_by_label("name", exact=True).fill("a b&c")
        await page.get_by_label("yes").select_option("false")
        await opened.follows()
        await expect(page).to_have_url(f"{url}#/since?at=2026-01-31T12%3A00%3A00Z&name=a+b%26c&yes=false")
        await opened.shows(["a b&c"], column=1)
        await opened.shows(["2026-01-31"], column=2)


async def test_lists_and_optional_parameters_have_controls(
    url: str, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    async with tab(f"{url}#/lists") as opened:
        page = opened.page
        await opened.shows(["apple", "pear"])  # the default
        await page.get_by_label("shelves").select_option(["b", "a"])
        await opened.shows(["apple", "pear", "fig"])
        await expect(page).to_have_url(f"{url}#/lists?shelves=a&shelves=b")
        await page.get_by_label("of", exact=True).fill("3\n\n1\n")
        await opened.shows(["apple", "fig"])
        await expect(page).to_have_url(f"{url}#/lists?shelves=a&shelves=b&of=3&of=1")
        await page.get_by_label("of", exact=True).fill("3\nx")
        await expect(page.get_by_label("of", exact=True)).to_have_attribute("aria-invalid", "true")
        await page.get_by_label("of", exact=True).fill("")
        await page.get_by_label("least", exact=True).fill("5")
        await opened.shows(["apple"])
        await page.get_by_label("least", exact=True).fill("")
        await page.get_by_label("names").fill("pear\nfig")
        await opened.shows(["pear", "fig"])
        await page.get_by_label("names").fill("papaya")  # longer than max_length
        await expect(page.get_by_label("names")).to_have_attribute("aria-invalid", "true")
        await page.get_by_label("names").fill("")
        await page.get_by_label("shelves").select_option(["a"])
        await expect(page).to_have_url(f"{url}#/lists")  # defaults and absent values are left out
        await page.get_by_label("open").select_option("false")
        await opened.shows([])
        await expect(page).to_have_url(f"{url}#/lists?open=false")
        await page.get_by_label("open").select_option("")
        await page.get_by_label("size").select_option("m")
        await opened.shows(["apple", "pear"])
        await expect(page).to_have_url(f"{url}#/lists?size=m")
    async with tab(f"{url}#/lists?of=2&shelves=b&shelves=a&of=3") as opened:  # a link that was shared
        await opened.shows(["pear", "fig"])
        await expect(opened.page.get_by_label("of", exact=True)).to_have_value("2\n3")
        await opened.page.goto(f"{url}#/named")
        await expect(opened.page.get_by_text("Set the parameters above")).to_be_visible()  # the list is required
        await opened.page.get_by_label("names").fill("b c\na&b")
        await opened.shows(["a&b", "b c"], column=0)


async def test_the_shape_of_a_result_determines_its_chart(url: str, stock: psycopg.Connection[Any], tab: Opens) -> None:
    async with tab(f"{url}#/stock?shelf=a") as opened:
        page = opened.page
        await opened.follows()
        await page.get_by_role("link", name="Chart").click()
        await expect(page.locator(".plot canvas")).to_be_visible()
        await expect(page.locator(".plot .u-legend")).to_contain_text("id")
        await page.goto(f"{url}#/hours?~=chart")
        await expect(page.locator(".plot .u-legend")).to_contain_text("time")
        await page.goto(f"{url}#/beat?~=chart")
        await expect(page.get_by_text("Values since you opened this chart")).to_be_visible()
        await page.get_by_role("link", name="Table").click()
        await expect(page.get_by_role("columnheader", name="beat")).to_be_visible()


async def test_two_browsers_list_each_other_as_members(
    running: Cluster, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    one, two = (f"http://{running.gateway(number)}/#/stock?shelf=a" for number in (0, 1))
    async with tab(one) as alice, tab(two) as bob:
        await alice.page.get_by_label("You are").fill("Alice")
        await alice.page.get_by_label("You are").press("Enter")
        await expect(alice.page.locator(".people")).to_contain_text("Alice (you)")
        await expect(bob.page.locator(".people")).to_contain_text("Alice")
        await bob.page.get_by_label("You are").fill("Bob")
        await bob.page.get_by_label("You are").press("Enter")
        await expect(alice.page.locator(".people")).to_contain_text("Bob")
        await alice.picture("presence")
        await bob.page.goto("about:blank")
        await expect(alice.page.locator(".people li")).to_have_count(1)


async def test_the_page_explains_a_failed_query_and_an_unknown_one(url: str, tab: Opens) -> None:
    async with tab(f"{url}#/broken") as opened:
        await expect(opened.page.locator(".freshness[data-state=failed] .state")).to_have_text("failed")
        await expect(opened.page.locator(".freshness .why")).not_to_be_empty()
        await opened.page.goto(f"{url}#/nothing")
        await expect(opened.page.get_by_role("alert")).to_contain_text("nothing")
    async with tab(f"{url}#/stock?shelf=a&limit=1000") as opened:  # the control does not allow this value
        await expect(opened.page.get_by_label("limit", exact=True)).to_have_value("1000")
        await expect(opened.page.get_by_text("Set the parameters above")).to_be_visible()
        await expect(opened.page.locator("[data-link=live]")).to_be_visible()  # else leaving it is an error in its log


async def test_the_page_works_without_a_mouse(url: str, stock: psycopg.Connection[Any], tab: Opens) -> None:
    async with tab(f"{url}#/stock?shelf=a") as opened:
        page = opened.page
        await opened.follows()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the result")).to_be_focused()
        for _ in range(40):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.dataset.query") == "busy":
                break
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("A thousand rows that all change")
        await opened.follows()
        for _ in range(40):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.className") == "scroller":
                break
        await page.keyboard.press("End")
        await opened.becomes("document.querySelector('.scroller').scrollTop > 30000")
        await expect(page.get_by_role("table")).to_have_attribute("aria-rowcount", "1001")


async def test_a_thousand_changing_rows_leave_time_for_sixty_frames_a_second(url: str, tab: Opens) -> None:
    frames = """() => new Promise(done => {
      let frames = 0
      const ends = performance.now() + 3000
      const frame = now => { frames += 1; now < ends ? requestAnimationFrame(frame) : done(frames) }
      requestAnimationFrame(frame)
    })"""
    async with tab(f"{url}#/busy") as opened:
        await opened.follows()
        session = await opened.page.context.new_cdp_session(opened.page)
        await session.send("Performance.enable", {"timeDomain": "threadTicks"})

        async def busy() -> float:
            """Return the CPU seconds of the page's main thread, which do not depend on the load of the machine."""
            metrics = (await session.send("Performance.getMetrics"))["metrics"]
            return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))

        async def changes() -> int:
            return int(str(await opened.page.locator("article").get_attribute("data-version")).partition("-")[2])

        cpu, seen = await busy(), await changes()
        drawn = await opened.page.evaluate(frames)
        cpu, seen = await busy() - cpu, await changes() - seen
        assert await opened.page.locator(".rows .row").count() < 60
        print(f"{drawn / 3:.0f} frames per second; {cpu / seen * 1000:.1f} ms of CPU for each change")  # noqa: T201
        # Ten changes a second, six frames for each: at least half of the main thread's time stays free.
        assert cpu / seen < 0.05


async def test_the_page_fits_a_phone(url: str, stock: psycopg.Connection[Any], tab: Opens) -> None:
    phone: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    async with tab(f"{url}#/stock?shelf=a", **phone) as opened:
        await opened.follows()
        assert await opened.page.evaluate("document.documentElement.scrollWidth") == 360
        await opened.picture("phone")
        await opened.page.goto(f"{url}#/cluster/")
        await expect(opened.page.get_by_role("row", name="gateway-1")).to_be_visible()
        assert await opened.page.evaluate("document.documentElement.scrollWidth") == 360


async def test_both_colour_schemes_have_sufficient_contrast(url: str, tab: Opens) -> None:
    contrast = """() => {
      const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true})
      const luminance = colour => {
        canvas.fillStyle = colour
        canvas.fillRect(0, 0, 1, 1)
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
          .map(each => (each /= 255) <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
      }
      const ratio = (element, ground) => {
        const found = [element, ground].map(each => luminance(each)).sort((a, b) => b - a)
        return (found[0] + 0.05) / (found[1] + 0.05)
      }
      const ground = getComputedStyle(document.body).backgroundColor
      const pill = getComputedStyle(document.querySelector('.state'))
      return [ratio(getComputedStyle(document.body).color, ground), ratio(pill.color, pill.backgroundColor),
              ratio(getComputedStyle(document.querySelector('.age')).color, ground)]
    }"""
    grounds = set()
    for scheme in ("light", "dark"):
        async with tab(f"{url}#/beat", color_scheme=scheme) as opened:
            await opened.follows()
            assert min(await opened.page.evaluate(contrast)) >= 4.5
            grounds.add(await opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


async def test_the_cluster_view_shows_nodes_owners_and_load(
    url: str, stock: psycopg.Connection[Any], tab: Opens
) -> None:
    async with (
        tab(f"{url}#/stock?shelf=a") as one,
        tab(f"{url}#/stock?shelf=a") as two,
        tab(f"{url}#/cluster/") as opened,
    ):
        await one.follows()
        await two.follows()
        page = opened.page
        for name in ("coordinator-1", "gateway-1", "gateway-2", "poller-1", "poller-2"):
            await expect(page.get_by_role("row", name=name)).to_contain_text("ready")
        await expect(page.get_by_role("row", name="gateway-1")).to_contain_text("2 subscriptions")
        await expect(page.locator(".owners")).to_contain_text("stock?limit=10&shelf=a")
        await expect(page.locator(".number-card").first).to_contain_text("polls per second")
        await expect(page.locator(".number-card strong").first).not_to_have_text("…")
        line = re.compile(r"^[\d.,]+ polls/s, \d+ % without rows, [\d.,]+ K?B/s from the database$")
        await expect(page.locator(".savings")).to_have_text(line)
