"""The page in a real browser, on the demo that `pollcast up` starts: live data, charts and takeovers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from playwright.async_api import expect

from pollcast_client import topic, watch
from tests.browser.conftest import Opens
from tests.support.cluster import Cluster, cluster


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster that `pollcast up` starts without any flags, with the demo workload."""
    with cluster(tmp_path_factory.mktemp("demo") / "data") as up:
        yield up


async def watch_for_ever(url: str, topics: list[str]) -> None:
    """Watch the topics on one connection until the task is cancelled."""
    async for _ in watch(*topics, url=url):
        pass


async def test_the_demo_shows_live_data_without_any_set_up(demo: Cluster, tab: Opens) -> None:
    async with tab(f"http://{demo.gateway()}/") as opened:
        page = opened.page
        await opened.follows()
        await page.get_by_role("link", name="The richest tellers").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("The richest tellers")
        await opened.follows()
        await page.evaluate(
            """() => {
              window.moved = 0
              document.querySelector('.rows').addEventListener('transitionrun', () => window.moved += 1)
            }"""
        )
        await opened.becomes("window.moved > 0")
        await opened.picture("table")


async def test_a_chart_updates_in_the_dark_colour_scheme(demo: Cluster, tab: Opens) -> None:
    async with tab(f"http://{demo.gateway()}/#/branches?~=chart", color_scheme="dark") as opened:
        await opened.follows()
        await expect(opened.page.locator(".plot canvas")).to_be_visible()
        version = await opened.page.locator("article").get_attribute("data-version")
        await expect(opened.page.locator("article")).not_to_have_attribute("data-version", str(version))
        await opened.picture("chart")


async def test_the_cluster_view_shows_the_takeover_of_a_killed_pollers_topics(demo: Cluster, tab: Opens) -> None:
    topics = [topic("account", number=number) for number in range(1, 7)]
    topics += [topic("richest_tellers"), topic("branches"), topic("tps"), topic("transactions", teller=3)]
    urls = [f"http://{demo.gateway(number)}" for number in (0, 1)]
    async with (
        tab(f"{urls[0]}/#/cluster/", viewport={"width": 1280, "height": 900}) as opened,
        asyncio.TaskGroup() as tasks,
    ):
        watching = [tasks.create_task(watch_for_ever(url, topics)) for url in urls * 10]
        page = opened.page
        await expect(page.locator(".number-card", has_text="subscriptions served")).to_contain_text("200")
        await expect(page.locator(".owners li")).to_have_count(len(topics))
        busy = demo.nodes("poller")[0]
        # Pollers may have taken over topics before, or do so now: one with many more topics hands some over.
        moved = await page.locator(f'[data-owner="{busy.name}"] li').all_text_contents()
        assert moved
        busy.kill()
        for each in moved:
            takeover = page.locator(".timeline li", has_text=f"{each} {busy.name} → poller-2")
            await expect(takeover.first).to_be_visible()
        await expect(page.locator('[data-owner="poller-2"] li')).to_have_count(len(topics))
        await expect(page.locator(".timeline li").first).to_contain_text(f"{busy.name} → poller-2")
        await opened.picture("cluster")
        for task in watching:
            task.cancel()


async def test_the_openapi_document_is_browsed_and_tried_out(demo: Cluster, tab: Opens) -> None:
    async with tab(f"http://{demo.gateway()}/api/docs") as opened:
        page = opened.page
        operation = page.locator("#operations-live-live_richest_tellers")
        await operation.get_by_role("button", name="/live/richest_tellers").first.click()
        await expect(operation.get_by_role("row", name="limit")).to_contain_text("integer")
        await opened.picture("openapi")
        await operation.get_by_placeholder("limit").fill("3")
        await operation.get_by_role("button", name="Execute").click()
        answered = operation.locator(".live-responses-table .response .response-col_status")
        await expect(answered).to_contain_text("200")
        asked = f"http://{demo.gateway()}/live/richest_tellers?limit=3"
        assert asked in opened.requests
        await opened.picture("openapi-tried")
