"""The page in a real browser during the failure of a gateway, a poller and the database, and after the recovery."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import psycopg
import pytest
from playwright.async_api import expect

from pollcast.services.local.postgres_server import PostgresServer
from tests.browser.conftest import Opens
from tests.support.balancer import Balancer
from tests.support.client import PATIENCE_SECONDS
from tests.support.cluster import Cluster, cluster
from tests.support.waiting import stood_still

CATALOG = """
[queries.counters]
title = "Counters"
sql = "select id, n from counters order by n desc, id"
key = ["id"]
interval = "100ms"
timeout = "1s"
"""


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer.start(tmp_path_factory.mktemp("pg") / "data", fsync=False) as server:
        with psycopg.connect(server.url, autocommit=True) as database:
            database.execute("create table counters (id int primary key, n int)")
        yield server


@pytest.fixture
def breakable(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer
) -> Iterator[Cluster]:
    """A cluster for one test, on the database `postgres`, that the test may break: so many gateways and pollers."""
    gateways, pollers = request.param
    folder = tmp_path_factory.mktemp("faults")
    catalog = folder / "catalog.toml"
    catalog.write_text(CATALOG)
    flags = ["--catalog", str(catalog), "--database-url", postgres.url, "--lease-ttl", "2"]
    flags += ["--gateways", str(gateways), "--pollers", str(pollers)]
    with psycopg.connect(postgres.url, autocommit=True) as database:
        database.execute("truncate counters")
        database.execute("insert into counters values (1, 10), (2, 5)")
    with cluster(folder / "data", *flags) as up:
        yield up


def count(postgres: PostgresServer, number: int, n: int) -> None:
    """Set a counter in the database."""
    with psycopg.connect(postgres.url, autocommit=True) as database:
        database.execute("update counters set n = %s where id = %s", (n, number))


@pytest.mark.parametrize("breakable", [(2, 1)], indirect=True)
async def test_the_page_resumes_at_another_gateway_when_its_own_is_killed(
    breakable: Cluster, postgres: PostgresServer, tab: Opens
) -> None:
    async with (
        Balancer.start([breakable.gateway(0), breakable.gateway(1)]) as balancer,
        tab(f"{balancer.url}/#/counters", calm=False) as opened,
        tab(f"http://{breakable.gateway(1)}/#/counters") as other,
    ):
        await opened.shows(["10", "5"])
        await other.shows(["10", "5"])  # the other gateway needs the version from which the page resumes
        breakable.nodes("gateway")[0].kill()
        count(postgres, 2, 20)
        await opened.shows(["20", "10"])
        await opened.follows()
        await expect(opened.page.locator("article")).to_have_attribute("data-kind", "delta")


@pytest.mark.parametrize("breakable", [(1, 2)], indirect=True)
async def test_a_killed_poller_is_visible_in_the_cluster_view_only(
    breakable: Cluster, postgres: PostgresServer, tab: Opens
) -> None:
    url = f"http://{breakable.gateway(0)}/"
    async with tab(f"{url}#/counters") as opened, tab(f"{url}#/cluster/") as watching:
        await opened.shows(["10", "5"])
        card = watching.page.locator(".owners .card", has_text="counters")
        await card.wait_for()
        owner = await card.get_attribute("data-owner")
        await opened.page.evaluate(
            """() => {
              window.states = []
              new MutationObserver(() => window.states.push(document.querySelector('.freshness').dataset.state))
                .observe(document.querySelector('.freshness'), {attributes: true})
            }"""
        )
        killed_at = time.monotonic()
        next(node for node in breakable.nodes("poller") if node.name == owner).kill()
        count(postgres, 2, 20)
        await opened.shows(["20", "10"])
        await expect(opened.page.locator("article")).to_have_attribute("data-kind", "delta")
        states = set(await opened.page.evaluate("window.states"))
        assert states <= {"live"} or stood_still(killed_at) > PATIENCE_SECONDS
        await expect(watching.page.locator(".timeline")).to_contain_text(f"counters {owner} →")
        await expect(watching.page.get_by_role("row", name=str(owner))).to_have_count(0)


@pytest.mark.parametrize("breakable", [(1, 1)], indirect=True)
async def test_the_page_shows_at_once_that_the_database_stopped_and_that_it_returned(
    breakable: Cluster, postgres: PostgresServer, tab: Opens
) -> None:
    async with tab(f"http://{breakable.gateway(0)}/#/counters") as opened:
        await opened.shows(["10", "5"])
        postgres.process.send(signal.SIGINT)
        await expect(opened.page.locator(".freshness[data-state=stale] .state")).to_have_text("stale")
        await expect(opened.page.locator(".freshness .why")).not_to_be_empty()
        await expect(opened.page.locator(".freshness .age")).to_contain_text("or older")
        await opened.picture("stale")
        await opened.shows(["10", "5"])  # the last rows stay
        postgres.process.wait(10)
        postgres.restart()
        count(postgres, 1, 3)
        await opened.shows(["5", "3"])
        await opened.follows()
