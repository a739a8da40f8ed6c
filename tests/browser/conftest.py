"""A real browser, Chromium, driven by Playwright. With `POLLCAST_SCREENSHOTS=<folder>` tests save screenshots."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from tests.support.waiting import eventually

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

expect.set_options(timeout=20_000)


@pytest.fixture(scope="session")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """The running browser, which all tests share."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path is not None, "Chromium is missing: apt-get install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()


@dataclass
class Watched:
    """An open page, with its console errors and the addresses that it requested."""

    page: Page
    troubles: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def on_console(self, message: ConsoleMessage) -> None:
        """Record an error or a warning on the console."""
        if message.type in ("error", "warning"):
            self.troubles.append(message.text)

    async def follows(self) -> None:
        """Wait until the topic is live and has a result."""
        await self.page.locator(".freshness[data-state=live]").wait_for(timeout=20_000)

    async def column(self, number: int) -> list[str]:
        """Return the texts of a column (counted from 0) in the order in which they are shown."""
        cells: list[str] = await self.page.evaluate(
            """number => [...document.querySelectorAll('.rows .row:not(.leaving)')]
                 .sort((a, b) => a.ariaRowIndex - b.ariaRowIndex)
                 .map(row => row.children[number].textContent)""",
            number,
        )
        return cells

    async def shows(self, cells: list[str], column: int = 1) -> None:
        """Wait until a column (counted from 0) has these cells in this order."""

        async def same() -> bool:
            found = await self.column(column)
            assert found == cells
            return True

        await eventually(same, what=f"the page shows {cells}")

    async def becomes(self, expression: str) -> None:
        """Wait until the JavaScript expression is true on the page.

        The page's security policy forbids Playwright's own `wait_for_function`.
        """

        async def true() -> bool:
            return bool(await self.page.evaluate(expression))

        await eventually(true, what=expression)

    async def picture(self, name: str) -> None:
        """Save a screenshot if POLLCAST_SCREENSHOTS names a folder."""
        if folder := os.environ.get("POLLCAST_SCREENSHOTS"):
            await self.page.screenshot(path=Path(folder) / f"{name}.png", animations="allow")


class Opens(Protocol):
    """The type of the fixture `tab`: opens a page in a browser context of its own, with Playwright's options for it.

    Errors on the page fail the test at the end, unless `calm` is False.
    """

    def __call__(self, url: str, *, calm: bool = True, **options: Any) -> AbstractAsyncContextManager[Watched]: ...


@pytest.fixture
def tab(browser: Browser) -> Opens:
    """A function that opens a page; see `Opens`."""

    @asynccontextmanager
    async def opens(url: str, *, calm: bool = True, **options: Any) -> AsyncIterator[Watched]:
        options = {"viewport": {"width": 1280, "height": 800}} | options
        context = await browser.new_context(**options)
        page = await context.new_page()
        watched = Watched(page)
        page.on("console", watched.on_console)
        page.on("pageerror", lambda error: watched.troubles.append(str(error)))
        page.on("request", lambda request: watched.requests.append(request.url))
        try:
            await page.goto(url)
            yield watched
        finally:
            await context.close()
        if calm:
            assert watched.troubles == []

    return opens
