"""List and optional parameters and settings on a real database: topics polled together have the results they have
alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from pollcast.poller.postgresql.kind import POSTGRESQL
from pollcast.poller.postgresql.statement import batch_statement, single_statement
from pollcast.poller.sources.answer import Outcome
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.statement import Statement, Values
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.values import TYPES, Value
from tests.support.poller_database import both_ways, ids, outcome, poll_error, query, round_of, rows, setup
from tests.support.waiting import eventually

pytest_plugins = ("tests.support.poller_database_fixture",)

LISTS: dict[str, list[tuple[str, ...]]] = {
    "text": [("", "NULL", "a"), ('O\'Brien, {"a"} \\', "a,b", "{}", "漢\n\t"), ("x",)],
    "int": [("-5", "0", "7"), ("2147483647",), ("1", "9007199254740993"), ("-9223372036854775808",)],
    "float": [("-0.5", "1e-07", "1e+300"), ("0.0",)],
    "numeric": [("0.1", "12345678901234567890.5"), ("-7",)],
    "bool": [("false", "true"), ("true",)],
    "date": [("0001-01-01", "2026-01-31", "9999-12-31")],
    "timestamptz": [("2026-01-31T12:00:00.123456Z", "2026-01-31T12:00:00Z")],
    "uuid": [("5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab", "6d7e5c1e-7a4b-4f4b-9b1e-0123456789ab")],
}
"""Lists of each type, in canonical texts."""

PG_NAMES = {"int": "integer", "float": "double precision", "bool": "boolean", "timestamptz": "timestamp with time zone"}


def rows_of(result: Outcome) -> list[Any]:
    """Return the rows of a result, as a client reads them."""
    assert not isinstance(result, PollError), result.cause
    return [json.loads(row) for _, row in result]


@pytest.mark.parametrize("kind", TYPES)
async def test_lists_of_every_type_are_bound_the_same_alone_and_together(db: Database, kind: str) -> None:
    q = query(
        "select pg_typeof(%(p)s)::text as type, cardinality(%(p)s) as n, %(p)s::text[] as texts, e as element"
        " from unnest(%(p)s) with ordinality as u(e, at) order by at",
        params=f'p = {{ type = "{kind}[]", default = [] }}',
    )
    for value in LISTS[kind]:
        first, second, empty = await both_ways(db, q, {"p": value}, {"p": value}, {"p": ()})
        assert first == second
        assert rows_of(empty) == []
        found = rows_of(first)
        assert len(found) == found[0]["n"] == len(value)
        large = kind == "int" and any(abs(int(each)) > 2**31 for each in value)
        assert found[0]["type"] == ("bigint" if large else PG_NAMES.get(kind, kind)) + "[]"
        if kind in ("text", "int", "numeric", "date", "uuid"):
            assert found[0]["texts"] == list(value)


@pytest.mark.parametrize("kind", TYPES)
async def test_a_list_finds_the_rows_with_one_of_its_values(database: str, db: Database, kind: str) -> None:
    values = LISTS[kind][0]
    setup(
        database,
        f"create table things (id int, v {'float8' if kind == 'float' else 'int8' if kind == 'int' else kind})",
    )
    with psycopg.connect(database, autocommit=True) as connection:
        for number, value in enumerate(values):
            connection.execute("insert into things values (%s, %s)", (number, value))
    q = query(
        "select id from things where v = any(%(p)s) order by id", params=f'p = {{ type = "{kind}[]", default = [] }}'
    )
    chosen: list[tuple[str, ...]] = [(), values, *((value,) for value in values)]
    outcomes = await both_ways(db, q, *({"p": value} for value in chosen))
    assert [ids(each) for each in outcomes] == [[], list(range(len(values))), *([n] for n in range(len(values)))]


@pytest.mark.parametrize("kind", TYPES)
async def test_optional_parameters_of_every_type_are_null_when_they_are_absent(db: Database, kind: str) -> None:
    q = query(
        "select pg_typeof(%(p)s)::text as type, %(p)s is null as absent, coalesce(%(p)s::text, '-') as text",
        params=f'p = {{ type = "{kind}", optional = true }}',
    )
    value = LISTS[kind][0][-1]
    given, absent = map(rows_of, await both_ways(db, q, {"p": value}, {"p": None}))
    name = PG_NAMES.get(kind, kind)
    assert absent == [{"type": name, "absent": True, "text": "-"}]
    assert (given[0]["type"], given[0]["absent"]) == (name, False)


async def test_an_absent_optional_parameter_leaves_a_restriction_out(db: Database) -> None:
    q = query(
        "select g as id from generate_series(1, 6) g where (%(n)s is null or g %% %(n)s = 0)"
        " and (%(of)s = '{}' or g = any(%(of)s)) order by g",
        params='n = { type = "int", optional = true }\nof = { type = "int[]", default = [] }',
    )
    topics: list[dict[str, Value]] = [
        {"n": None, "of": ()},
        {"n": "2", "of": ()},
        {"n": None, "of": ("1", "6")},
        {"n": "3", "of": ("1", "6")},
    ]
    outcomes = await both_ways(db, q, *topics)
    assert [ids(each) for each in outcomes] == [[1, 2, 3, 4, 5, 6], [2, 4, 6], [1, 6], [6]]


async def test_lists_that_are_absent_and_long_share_a_round(db: Database) -> None:
    q = query(
        "select coalesce(sum(e), 0) as id from unnest(%(p)s) e",
        params='p = { type = "int[]", default = [], max_items = 999 }',
    )
    lists = [tuple(str(n) for n in range(length)) for length in (0, 1, 5, 999)] + [("5000000000",)]
    outcomes, faults, sizes = await round_of(db, q, *({"p": value} for value in lists))
    assert [ids(each) for each in outcomes] == [[0], [0], [10], [998 * 999 // 2], [5000000000]]
    assert not any(faults)
    assert sorted(sizes) == [1, 4]  # int8 has a statement of its own


ELEMENTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.text(
    "\\\"{},'\n NULnul$%", max_size=6
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(topics=st.lists(st.lists(ELEMENTS, max_size=5), min_size=1, max_size=5))
def test_any_texts_are_the_elements_of_a_list_alone_and_together(database: str, topics: list[list[str]]) -> None:
    q = query(
        "select %(p)s::text[] as texts, %(n)s as n",
        params='p = { type = "text[]", default = [] }\nn = { type = "text", optional = true }',
    )
    values: list[Values] = [{"p": tuple(texts), "n": next(iter(texts), None)} for texts in topics]
    expected = [{"texts": texts, "n": next(iter(texts), None)} for texts in topics]
    with psycopg.connect(database, cursor_factory=psycopg.RawCursor) as connection:

        def polled(statement: Statement) -> list[Any]:
            answer = connection.execute(statement.sql.encode(), statement.params)
            return [json.loads(row) for _, _, row in answer]

        assert polled(batch_statement(q, values)) == expected
        assert [row for each in values for row in polled(single_statement(q, each))] == expected


# --- settings -----------------------------------------------------------------------------------------------------

INVOICES = """
create table invoices (id int, tenant text, region text);
insert into invoices values (1, 'acme', 'north'), (2, 'umbrella', 'north'), (3, 'acme', 'south'), (4, 'o''"x', 'north');
alter table invoices enable row level security;
create policy own on invoices using (tenant = current_setting('app.tenant'));
grant select on invoices to public
"""


@pytest.fixture
async def reader(database: str) -> AsyncIterator[Database]:
    """A poller's database, connected as a role to which the policy for the rows of the table `invoices` applies."""
    name = f"reader_{database.rpartition('/')[2]}"
    setup(database, INVOICES, f"create role {name} login")
    url = make_conninfo(database, user=name)
    async with Database.open(POSTGRESQL.driver, url, 2, "poller-1") as opened:
        await eventually(lambda: connected(opened))
        yield opened
    setup(database, f"drop owned by {name}", f"drop role {name}")


async def connected(db: Database) -> bool:
    return not isinstance(await outcome(db, query("select 1", timeout="1s")), PollError)


def of_a_tenant(sql: str, params: str = "") -> Query:
    """Return a query that relies on row-level security for the tenant of its topic."""
    tenant = 'tenant = { type = "text", claim = "tenant" }'
    return query(sql, params=f"{tenant}\n{params}", settings={"app.tenant": "tenant"})


async def test_row_level_security_sees_the_settings_of_the_topic(reader: Database) -> None:
    q = of_a_tenant("select id from invoices order by id")
    tenants = ["acme", "umbrella", "acme", "nobody", "o'\"x", ""]
    for _ in range(2):  # the settings of one topic do not outlast its statement
        for tenant, expected in zip(tenants, [[1, 3], [2], [1, 3], [], [4], []], strict=True):
            assert ids(await outcome(reader, q, {"tenant": tenant})) == expected
        assert [row["t"] for row in await rows(reader, query("select current_setting('app.tenant', true) as t"))] in (
            [""],
            [None],
        )


async def test_topics_share_a_statement_only_if_their_settings_agree(reader: Database) -> None:
    q = of_a_tenant("select id from invoices where region = %(region)s order by id", 'region = "text"')
    topics = [{"tenant": tenant, "region": region} for tenant in ("acme", "umbrella") for region in ("north", "south")]
    outcomes, faults, sizes = await round_of(reader, q, *topics)
    assert [ids(each) for each in outcomes] == [[1], [3], [2], []]
    assert sizes == [2, 2]
    assert not any(faults)


async def test_topics_that_differ_only_in_settings_are_polled_alone(reader: Database) -> None:
    q = of_a_tenant("select id from invoices order by id")
    outcomes, _, sizes = await round_of(reader, q, {"tenant": "acme"}, {"tenant": "umbrella"})
    assert [ids(each) for each in outcomes] == [[1, 3], [2]]
    assert sizes == [1, 1]


async def test_settings_have_the_texts_of_lists_and_the_default_for_an_absent_value(db: Database) -> None:
    q = query(
        "select current_setting('app.list')::text[] as list, current_setting('app.level', true) as level,"
        " current_setting('TimeZone') as zone, current_setting('app.at') as at",
        params='list = { type = "text[]", default = [] }\nlevel = { type = "int", optional = true }\n'
        'zone = { type = "text", optional = true }\nat = "timestamptz"',
        settings={"app.list": "list", "app.level": "level", "TimeZone": "zone", "app.at": "at"},
    )
    at = "2026-01-31T12:00:00.5Z"
    default = (await rows(db, query("select current_setting('TimeZone') as zone")))[0]["zone"]
    odd = ("", 'a"b', "c\\d", "e,f", "{}")
    for _ in range(2):
        empty = await rows(db, q, {"list": (), "level": None, "zone": None, "at": at})
        full = await rows(db, q, {"list": odd, "level": "7", "zone": "Asia/Tokyo", "at": at})
        assert full == [{"list": list(odd), "level": "7", "zone": "Asia/Tokyo", "at": at}]
        assert empty == [{"list": [], "level": "", "zone": default, "at": at}]


async def test_a_setting_without_such_a_value_is_an_error_of_its_topics_alone(db: Database) -> None:
    q = query(
        "select current_setting('TimeZone') as id, %(n)s as n",
        params='zone = "text"\nn = "int"',
        settings={"TimeZone": "zone"},
    )
    topics = [{"zone": zone, "n": str(n)} for zone in ("Asia/Tokyo", "Nowhere/Land", "UTC") for n in range(3)]
    outcomes, faults, _ = await round_of(db, q, *topics)
    assert [ids(each) for each in (*outcomes[:3], *outcomes[6:])] == [["Asia/Tokyo"]] * 3 + [["UTC"]] * 3
    assert faults == [False] * 3 + [True] * 3 + [False] * 3
    error = await poll_error(db, q, topics[3])
    assert (error.state, error.cause.detail) == ("failed", "the query failed: invalid_parameter_value (22023)")
