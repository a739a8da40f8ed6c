"""Batchable queries: judged by their text, by PostgreSQL, and by `pollcast check`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from pollcast.poller import checking
from pollcast.poller.postgresql import catalog_check
from pollcast.poller.postgresql.batchable import unbatchable_reason
from pollcast.services.catalogue import catalog
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import CatalogInvalid, PollStale

TOGETHER = [
    "select count(*) from t where a = %(n)s",
    "select sum(a * %(n)s) from t",
    "select sum(%(n)s) over () from t",
    "select sum(%(n)s) over (partition by a) from t",
    "select count(%(n)s) filter (where a > 1) from t",
    "select string_agg(b, %(n)s::text order by a) from t",
    'select max("A b" + %(n)s) from t',
    "select percentile_cont(0.1 * %(n)s) within group (order by a) from t",
    "select greatest(%(n)s, a), max from t",
    "select sum((select %(n)s + t.a)) from t",
    "with c as (select a, count(*) from t group by a) select * from c where a <> %(n)s",
    "select a + %(n)s, count(*) from t group by a + %(n)s",
    "select %(n)s as n, count(*) from t",
    "select (select count(*) from t where a > %(n)s) as c",
]

ONE_BY_ONE = {
    "select count(%(n)s) from t": "count",
    "select a, sum(%(n)s::int) from t group by a": "sum",
    "select MAX ( coalesce(%(n)s, 0) ) from t": "max",
    "select count(distinct %(n)s) from t": "count",
    "select array_agg(case when %(n)s > 1 then 'x' else 'y' end order by %(n)s desc) from t": "array_agg",
    "select count(*) filter (where %(n)s > 3) from t": "count",
    "select sum(1) filter (where %(n)s between 1 and 3) from t": "sum",
    "select sum(cast(%(n)s as numeric)) from t": "sum",
}


def query(sql: str) -> Query:
    return catalog.parse(f"[queries.q]\nsql = {json.dumps(sql)}\nparams.n = 'int'", "test.toml").query("q")


@pytest.fixture
def table(database: str) -> str:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute('create table t (a int, b text, max int, "A b" int)')
    return database


@pytest.mark.parametrize("sql", TOGETHER)
def test_a_query_batchable_by_its_text_is_accepted_by_postgresql(table: str, sql: str) -> None:
    assert unbatchable_reason(query(sql)) is None
    assert checking.check(catalog.Catalog({"q": query(sql)}), "test.toml", table) == {"q": None}


@pytest.mark.parametrize("sql", ONE_BY_ONE)
def test_an_aggregate_of_parameters_alone_is_polled_one_by_one(table: str, sql: str) -> None:
    why = unbatchable_reason(query(sql))
    assert why == f"{ONE_BY_ONE[sql]}() is given %(n)s and no column, so the topics can't share a statement"
    with psycopg.connect(table, autocommit=True) as connection:
        refused = catalog_check.batch_refusal(connection, query(sql), "test.toml")
    assert refused is not None
    assert "42803" in refused


def test_an_unknown_aggregate_is_found_by_the_database(table: str) -> None:
    with psycopg.connect(table, autocommit=True) as connection:
        connection.execute("create aggregate total(int) (sfunc = int4pl, stype = int, initcond = '0')")
    q = query("select total(%(n)s) from t")
    assert unbatchable_reason(q) is None
    why = checking.check(catalog.Catalog({"q": q}), "test.toml", table)["q"]
    assert why is not None
    assert why.startswith("PostgreSQL refuses to take its topics together: aggregate functions are not allowed")


def test_a_query_without_parameters_has_one_topic() -> None:
    q = catalog.parse("[queries.q]\nsql = 'select count(1)'", "test.toml").query("q")
    assert unbatchable_reason(q) == "it has no parameters, so there is one topic"


# --- checked on the database --------------------------------------------------------------------------------------

WRONG = """
[queries.gone]
sql = "select * from not_there where a = %(n)s"
params.n = "int"

[queries.misspelt]
sql = "select aa from t"

[queries.keyless]
sql = "select a from t"
key = ["id"]

[queries.probed]
sql = "select a from t"
probe = "select max(updated_at) from t"

[queries.secret]
sql = "select * from secrets"

[queries.mistyped]
sql = "select a from t where b = %(n)s"
params.n = "int"

[queries.fine]
sql = "select 10 / %(n)s as a from t where b like '%%'"
params = { n = { type = "int", max = 0 } }
"""


def test_every_refused_query_is_reported_with_its_field_and_the_servers_message(table: str) -> None:
    with psycopg.connect(table, autocommit=True) as connection:
        connection.execute("create table secrets (a int)")
        connection.execute("drop role if exists checker")
        connection.execute("create role checker login")
        connection.execute("grant select on t to checker")
    wrong = catalog.parse(WRONG, "wrong.toml")
    with pytest.raises(CatalogInvalid) as raised:
        checking.check(wrong, "wrong.toml", table.replace("postgres@", "checker@"))
    with psycopg.connect(table, autocommit=True) as connection:
        connection.execute("drop owned by checker")
        connection.execute("drop role checker")
    problems = {(p.query, p.field): p.reason for p in raised.value.problems}
    assert problems == {
        ("gone", "sql"): 'relation "not_there" does not exist (undefined_table, 42P01)',
        ("misspelt", "sql"): 'column "aa" does not exist (undefined_column, 42703)',
        ("keyless", "key"): "the result has no column id, which its key names",
        ("probed", "probe"): 'column "updated_at" does not exist (undefined_column, 42703)',
        ("secret", "sql"): "permission denied for table secrets (insufficient_privilege, 42501)",
        ("mistyped", "sql"): "operator does not exist: text = integer (undefined_function, 42883)",
    }


def test_checking_a_query_does_not_run_it(table: str) -> None:
    slow = query("select pg_sleep(30), 10 / (%(n)s - a) from t")
    assert checking.check(catalog.Catalog({"q": slow}), "test.toml", table) == {"q": None}


def test_an_unreachable_database_is_no_error_of_the_catalogue() -> None:
    with pytest.raises(PollStale):
        checking.check(catalog.Catalog({"q": query("select %(n)s")}), "test.toml", "postgresql://x@127.0.0.1:1/x")


def test_the_command_lists_queries_polled_one_by_one_and_exits_with_2_on_a_refusal(table: str, tmp_path: Path) -> None:
    fine, wrong = tmp_path / "fine.toml", tmp_path / "wrong.toml"
    fine.write_text("[queries.a]\nsql = 'select count(%(n)s) from t'\nparams.n = 'int'")
    wrong.write_text(WRONG)

    def check(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pollcast", "check", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env={**os.environ})

    done = check(str(fine), "--database-url", table)
    assert done.returncode == 0, done.stderr
    assert "polled one by one: count() is given %(n)s" in done.stdout
    (listed,) = json.loads(check(str(fine), "--json").stdout)["queries"]
    assert listed["multiplexed"] is False
    done = check(str(wrong), "--database-url", table)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{wrong}: query misspelt: sql: column" in done.stderr
    assert check(str(wrong)).returncode == 0
