"""The sources of a poller as catalogues come and go, and their URLs, without a server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pollcast.poller.checking import report
from pollcast.poller.postgresql.dialect import PostgresqlDialect
from pollcast.poller.row_typing import row_types
from pollcast.poller.source_kinds import KindMissing, source_kind
from pollcast.poller.source_urls import SourceUrls
from pollcast.poller.sources.outcome import Outcome, Trip, Unreachable
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.row_type import RowType
from pollcast.poller.sources.source import SourceKind
from pollcast.poller.sources.sources import Sources
from pollcast.poller.sources.statement import Statement
from pollcast.poller.statement_runner import StatementRunner
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import CatalogInvalid, PollStale
from tests.support.waiting import eventually


class QuietSession:
    """A session that answers every trip with nothing."""

    opened_at = 0.0
    usable = True

    def look(self) -> None:
        """Read nothing."""

    async def run(self, trip: Trip) -> list[Outcome]:
        """Return the answers without rows."""
        return list(trip.answers)

    async def describe(self, query: Query, seconds: float) -> RowType:
        """Describe rows without columns."""
        return RowType(())

    async def close(self) -> None:
        """Close nothing."""


@dataclass
class RecordingDriver:
    """A driver that records its URLs, and reaches those that do not begin with `down`."""

    urls: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    """Event that connections wait for."""

    def check_url(self, url: str) -> None:
        """Accept any URL."""

    async def connect(self, url: str, node: str) -> QuietSession:
        """Open a session."""
        self.urls.append(url)
        if self.gate is not None:
            await self.gate.wait()
        if url.startswith("down"):
            raise Unreachable("no route")
        return QuietSession()


def parse(sources: dict[str, str], queries: dict[str, str]) -> Catalog:
    """Return a catalogue with these sources, each with its fields, and these queries, each with its source."""
    tables = [f"[sources.{name}]\n{fields}" for name, fields in sources.items()]
    tables += [f'[queries.{name}]\nsql = "select 1"\nsource = "{source}"' for name, source in queries.items()]
    return catalogue.parse("\n".join(tables), "test.toml")


@pytest.fixture
def driver() -> RecordingDriver:
    """A driver that records its URLs."""
    return RecordingDriver()


def opening(driver: RecordingDriver, catalog: Catalog, down: tuple[str, ...] = ()) -> Sources:
    """Return sources whose URLs are their variables; those of the variables in `down` are not reached."""
    kind = SourceKind(PostgresqlDialect(), driver)
    return Sources(
        lambda name: kind, lambda entry: lambda: ("down " if entry.url_env in down else "") + entry.url_env, 7, "node-1"
    )


async def test_sources_are_opened_and_closed_as_catalogues_use_them(driver: RecordingDriver) -> None:
    shop, other = "url_env = 'SHOP'", "url_env = 'OTHER'\npool = 2\nstatements_per_minute = 60"
    catalog = parse({"shop": shop, "idle": shop}, {"a": "default", "b": "shop"})
    sources = opening(driver, catalog)
    await sources.open_used(catalog)
    await eventually(lambda: set(driver.urls) == {"POLLCAST_DATABASE_URL", "SHOP"})
    assert (sources["default"].database.width, sources["shop"].database.width) == (6, 3)
    assert sources["shop"].budget.per_minute is None
    kept, changed, database = sources["default"], sources["shop"], sources["shop"].database

    later = parse({"shop": other}, {"b": "shop"})
    await sources.open_used(later)
    assert set(sources) == {"default", "shop"}  # topics of the former catalogue still use it
    await sources.close_unused(later)
    assert set(sources) == {"shop"}
    assert kept.database.reached
    assert sources["shop"] is changed
    assert changed.database is not database
    assert (changed.database.width, changed.budget.per_minute) == (1, 60)
    await eventually(lambda: driver.urls[-1] == "OTHER")
    await sources.close_unused(Catalog({}))
    assert not sources


async def test_another_bound_or_name_of_a_source_keeps_what_was_sent_within_the_minute(driver: RecordingDriver) -> None:
    def declared(name: str, per_minute: int, *others: str) -> Catalog:
        each = dict.fromkeys((name, *others), f"url_env = 'SHOP'\nstatements_per_minute = {per_minute}")
        return parse(each, {f"q_{at}": at for at in each})

    sources = opening(driver, declared("shop", 600))
    for catalog, alike in (
        (declared("shop", 600), False),
        (declared("shop", 60), True),
        (declared("market", 6), True),
        (declared("market", 6, "shop"), False),  # beside it, not in its place
    ):
        ledger = sources["shop" if "shop" in sources else "market"].budget.ledger if sources else None
        await sources.open_used(catalog)
        await sources.close_unused(catalog)
        newest = sources[list(sources)[-1]].budget
        assert (newest.ledger is ledger) == alike
        assert newest.per_minute == catalog.used_sources[-1].statements_per_minute
    await sources.close_unused(Catalog({}))


async def test_statements_that_wait_for_a_connection_go_on_with_those_of_the_next_catalogue(
    driver: RecordingDriver,
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Standing(QuietSession):
        async def run(self, trip: Trip) -> list[Outcome]:
            begun.set()
            await go_on.wait()
            return list(trip.answers)

    class Driver(RecordingDriver):
        async def connect(self, url: str, node: str) -> QuietSession:
            self.urls.append(url)
            return Standing() if url == "SLOW" else QuietSession()

    first, second, third = (
        parse({"shop": f"url_env = '{url}'\npool = 1"}, {"a": "shop"}) for url in ("SLOW", "QUICK", "OTHER")
    )
    sources = opening(Driver(), first)
    await sources.open_used(first)
    runner = StatementRunner(Query("a", "select 1", timeout=60.0), sources["shop"])
    statements = [asyncio.create_task(runner.run(Statement("select 1", ()))) for _ in range(3)]
    await begun.wait()
    await sources.open_used(second)
    await asyncio.wait(statements[1:], timeout=20)
    assert not statements[0].done()  # it runs where it has begun
    go_on.set()
    assert not [each for each in await asyncio.gather(*statements) if isinstance(each, PollError)]

    await sources.open_used(third)
    await sources.close_unused(Catalog({}))
    last = await runner.run(Statement("select 1", ()))
    assert isinstance(last, PollError)  # a query that has outlived its source
    assert last.cause.detail == "the database can't be reached"


async def test_polls_go_on_with_the_former_connections_until_new_ones_are_open_of_all_changed_sources_at_a_time(
    driver: RecordingDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pollcast.poller.sources.sources.REPLACE_SECONDS", 60.0)
    queries = {"a": "shop", "b": "market", "c": "stock"}
    first, wider = (
        parse(dict.fromkeys(queries.values(), f"url_env = 'SHOP'\npool = {pool}"), queries) for pool in (2, 3)
    )
    sources = opening(driver, first)
    await sources.open_used(first)
    await eventually(lambda: not sources.unreached)
    before = sources["shop"].database
    driver.gate = asyncio.Event()
    replacing = asyncio.create_task(sources.open_used(wider))
    await eventually(lambda: len(driver.urls) == 6)
    assert sources["shop"].database is before
    assert not sources.unreached
    driver.gate.set()
    await replacing
    replaced = sources["shop"].database
    assert replaced is not before
    assert replaced.state == "ok"
    limited = parse({"shop": "url_env = 'SHOP'\npool = 3\nstatements_per_minute = 60"}, {"a": "shop"})
    await sources.open_used(limited)
    assert (sources["shop"].database, sources["shop"].budget.per_minute) == (replaced, 60)
    await sources.close_unused(Catalog({}))
    assert not sources.unreached


async def test_a_source_of_another_kind_is_another_source(driver: RecordingDriver) -> None:
    first, second = (
        parse({"shop": f"url_env = 'SHOP'\nkind = '{kind}'"}, {"a": "shop"}) for kind in ("mysql", "duckdb")
    )
    sources = opening(driver, first)
    await sources.open_used(first)
    before = sources["shop"]
    await sources.open_used(second)
    assert sources["shop"] is not before
    await sources.close_unused(Catalog({}))


async def test_one_source_that_is_reached_makes_the_poller_ready_and_the_others_are_named(
    driver: RecordingDriver,
) -> None:
    catalog = parse({"shop": "url_env = 'SHOP'"}, {"a": "default", "b": "shop"})
    sources = opening(driver, catalog, down=("SHOP", "POLLCAST_DATABASE_URL"))
    await sources.open_used(catalog)
    await eventually(lambda: sources.state == "default: no route; shop: no route")
    assert not sources.reached
    await sources.close_unused(Catalog({}))

    sources = opening(driver, catalog, down=("SHOP",))
    await sources.open_used(catalog)
    await asyncio.wait_for(sources.wait_reached(), 5)
    await eventually(lambda: sources.states == {"default": "ok", "shop": "no route"})
    assert sources.state == "shop: no route"
    up, stretch = sources.gauges()
    assert [(sample.labels["source"], sample.value) for sample in up.samples] == [("default", 1.0), ("shop", 0.0)]
    assert {sample.value for sample in stretch.samples} == {1.0}
    await sources.close_unused(Catalog({}))


# --- URLs and kinds ---------------------------------------------------------------------------------------------------


def faults(fields: str, environment: dict[str, str]) -> list[tuple[str, str]]:
    """Return the field and the reason of each problem of a catalogue whose source `shop` has these fields."""
    urls = SourceUrls(lambda: "postgresql://me@localhost/shop", environment)
    with pytest.raises(CatalogInvalid) as raised:
        urls.check(parse({"shop": fields}, {"a": "shop"}), "test.toml")
    assert all(problem.file == "test.toml" for problem in raised.value.problems)
    return [(problem.field, problem.reason) for problem in raised.value.problems]


def test_a_missing_or_wrong_url_is_refused_with_its_source_and_is_not_repeated(tmp_path: Path) -> None:
    shop = "url_env = 'SHOP_URL'"
    ((field, reason),) = faults(shop, {})
    assert field == "sources.shop.url_env"
    assert reason == "names the environment variable SHOP_URL, which is not set here: set it, or SHOP_URL_FILE"
    ((field, reason),) = faults(shop, {"SHOP_URL": "postgresql://me:secret@[/shop"})
    assert field == "sources.shop.url_env"
    assert "secret" not in reason
    ((_, reason),) = faults(shop, {"SHOP_URL": "x", "SHOP_URL_FILE": "y"})
    assert "exclude each other" in reason
    ((_, reason),) = faults(shop, {"SHOP_URL_FILE": str(tmp_path / "none")})
    assert "cannot be read" in reason


def test_a_url_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://me@localhost/shop\n")
    urls = SourceUrls(lambda: " postgresql://me@localhost/all\n", {"SHOP_URL_FILE": str(file)})
    catalog = parse({"shop": "url_env = 'SHOP_URL'"}, {"a": "shop", "b": "default"})
    urls.check(catalog, "test.toml")
    assert urls.of(catalog.sources["shop"])() == "postgresql://me@localhost/shop"
    assert urls.of(catalog.sources["default"])() == "postgresql://me@localhost/all"


def test_the_default_url_is_required_exactly_when_a_query_uses_it() -> None:
    urls, shop = SourceUrls(None, {"SHOP_URL": "postgresql://me@localhost/shop"}), "url_env = 'SHOP_URL'"
    for default in ({}, {"default": "pool = 2"}, {"default": "kind = 'mysql'"}):
        catalog = parse({"shop": shop, **default}, {"a": "shop"})
        urls.check(catalog, "test.toml")
        assert not catalog.polls_default_url
        with pytest.raises(CatalogInvalid) as raised:
            urls.check(parse({"shop": shop, **default}, {"a": "shop", "b": "default"}), "test.toml")
        assert str(raised.value) == (
            "test.toml: POLLCAST_DATABASE_URL: is required by the source default, of b: "
            "set it, or POLLCAST_DATABASE_URL_FILE"
        )
    urls.check(parse({"default": shop}, {"a": "default"}), "test.toml")
    with pytest.raises(CatalogInvalid) as raised:
        SourceUrls(lambda: "postgresql://me:secret@[/shop", {}).check(parse({}, {"a": "default"}), "test.toml")
    assert "POLLCAST_DATABASE_URL: is not a PostgreSQL connection string" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_without_a_query_on_the_default_source_no_url_is_asked_for() -> None:
    catalog = parse({"shop": "url_env = 'SHOP_URL'"}, {"a": "shop"})
    with pytest.raises(CatalogInvalid, match="names the environment variable SHOP_URL, which is not set here"):
        row_types(catalog, "test.toml", None, {})
    (note,) = report(catalog, "test.toml", None, {}).notes["a"]
    assert note.startswith("it was not tried: url_env of its source shop names the environment variable SHOP_URL")
    assert report(parse({}, {"a": "default"}), "test.toml", None, {}).notes == {"a": []}
    nowhere = {"SHOP_URL": "postgresql://me@127.0.0.1:1/shop"}
    with pytest.raises(PollStale, match="the source shop: "):
        report(catalog, "test.toml", None, nowhere)
    with pytest.raises(CatalogInvalid, match=r"^test\.toml: sources\.shop: the database can't be reached"):
        row_types(catalog, "test.toml", None, nowhere)


@pytest.mark.parametrize("kind", ["postgresql", "postgresql-plain", "mysql", "duckdb"])
def test_a_wrong_url_is_refused_by_its_variable_where_types_are_written(kind: str) -> None:
    pytest.importorskip({"mysql": "asyncmy"}.get(kind, kind if kind == "duckdb" else "psycopg"))
    environment = {"SHOP_URL": f"{kind}://me:secret@[/shop"}
    catalog = parse({"shop": f"url_env = 'SHOP_URL'\nkind = '{kind}'"}, {"a": "shop"})
    with pytest.raises(CatalogInvalid, match=r"sources\.shop\.url_env: is not a ") as raised:
        row_types(catalog, "test.toml", None, environment)
    assert "secret" not in str(raised.value)


def test_a_kind_that_is_not_installed_is_named() -> None:
    with pytest.raises(KindMissing, match="kind abacus"):
        source_kind("abacus")
    assert source_kind("postgresql").dialect.kind == "postgresql"
