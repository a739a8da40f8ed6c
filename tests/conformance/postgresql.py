"""PostgreSQL as a subject of the conformance suite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pollcast.poller.postgresql.kind import POSTGRESQL
from pollcast.poller.sources.poll_error import Scope
from pollcast.services.local.postgres_server import PostgresServer
from tests.conformance.subject import Fault, Sample, Subject
from tests.support.databases import new_database

SAMPLES = [
    Sample("(-32768)::smallint", "-32768"),
    Sample("2147483647", "2147483647"),
    Sample("(-9223372036854775808)::bigint", "-9223372036854775808"),
    Sample("12345678901234567890.12345678901234567890::numeric", "12345678901234567890.12345678901234567890"),
    Sample("1.50::numeric(10,2)", "1.50"),
    Sample("'NaN'::numeric", '"NaN"'),
    Sample("0.1::float8", "0.1"),
    Sample("1e15::float8", "1e+15"),
    Sample("0.1::float4", "0.1"),
    Sample("'-Infinity'::float8", '"-Infinity"'),
    Sample("true", "true"),
    Sample("false", "false"),
    Sample("''::text", '""'),
    Sample(
        "E'quote \" backslash \\\\ tab \\t line \\n end \\x01'", r'"quote \" backslash \\ tab \t line \n end \u0001"'
    ),
    Sample("'Ω 漢字 🎈'::varchar(20)", '"Ω 漢字 🎈"'),
    Sample("'ab'::char(4)", '"ab  "'),
    Sample("date '2026-01-31'", '"2026-01-31"'),
    Sample("date 'infinity'", '"infinity"'),
    Sample("time '12:00:00.5'", '"12:00:00.5"'),
    Sample("timestamp '2026-01-31 12:00:00.123456'", '"2026-01-31T12:00:00.123456"'),
    Sample("timestamptz '2026-06-30 12:00:00+05:30'", '"2026-06-30T06:30:00+00:00"'),
    Sample("interval '1 day 02:03:04'", '"1 day 02:03:04"'),
    Sample("'5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab'::uuid", '"5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab"'),
    Sample(r"'\x00ff'::bytea", r'"\\x00ff"'),
    Sample("""'{"b": [1, null], "a": "x"}'::jsonb""", '{"a": "x", "b": [1, null]}'),
    Sample("""'{"b":1}'::json""", '{"b":1}'),
    Sample("array[1, null, 3]", "[1,null,3]"),
    Sample("array[array['a', 'b']]", '[["a","b"]]'),
    Sample("row(1, 'x')", '{"f1":1,"f2":"x"}'),
    Sample("inet '10.0.0.1'", '"10.0.0.1"'),
    Sample("int4range(1, 5)", '"[1,5)"'),
]

FAULTS = [
    Fault("select nothing from numbers", "failed", Scope.STATEMENT, "undefined_column (42703)"),
    Fault("select n from nowhere", "failed", Scope.STATEMENT, "undefined_table (42P01)"),
    Fault("select n from", "failed", Scope.STATEMENT, "syntax_error (42601)"),
    Fault("select n from secret", "failed", Scope.STATEMENT, "insufficient_privilege (42501)"),
    Fault("select 1 / (n - n) as x from numbers", "failed", Scope.TOPIC, "division_by_zero (22012)"),
    Fault("select raise('40001') as x", "stale", Scope.STATEMENT, "serialization_failure (40001)"),
    Fault("select raise('53200') as x", "stale", Scope.TOPIC_OR_SIZE, "out_of_memory (53200)"),
    Fault("select raise('57P01') as x", "stale", Scope.TOPIC, "admin_shutdown (57P01)"),
    Fault("select raise('57014') as x", "stale", Scope.TOPIC, "query_canceled (57014)"),
]

PREPARE = [
    "create table secret (n int)",
    "create function raise(code text) returns int language plpgsql as"
    " $$ begin raise exception 'broken' using errcode = code; end $$",
    "create function log_it() returns int language sql as $$ insert into log (text) values ('written') returning 1 $$",
    "create sequence counter",
    "grant select on all tables in schema public to conformant",
    "grant insert on log to conformant",
    "grant usage on sequence counter to conformant",
    "revoke select on secret from conformant",
    "alter default privileges in schema public grant select on tables to conformant",
]

PARAMETERS: Mapping[str, Sequence[tuple[str | None, str]]] = {
    "text": [("x", '"x"'), ("' \" \\ %% %(n)s ; -- /* \n🎈", r'''"' \" \\ %% %(n)s ; -- /* \n🎈"'''), (None, "null")],
    "int": [("5", "5"), ("-9223372036854775808", "-9223372036854775808")],
    "float": [("0.1", "0.1"), ("1e+300", "1e+300")],
    "numeric": [("12345678901234567890.5", "12345678901234567890.5")],
    "bool": [("true", "true"), ("false", "false")],
    "date": [("2026-01-31", '"2026-01-31"')],
    "timestamptz": [("2026-01-31T12:00:00.5Z", '"2026-01-31T12:00:00.5+00:00"')],
    "uuid": [("5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab", '"5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab"')],
}

POLLERS = "from pg_stat_activity where application_name like 'pollcast %' and datname = current_database()"


@contextlib.contextmanager
def start(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Provide a database on the PostgreSQL that all tests share, with a role that may read it."""
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with new_database(server) as owner:
        execute(server.url, "do $$ begin create role conformant login; exception when duplicate_object then end $$")
        parts = conninfo_to_dict(owner)
        address = f"{parts['host']}:{parts['port']}"
        name = str(parts["dbname"])
        try:
            yield Subject(
                kind=POSTGRESQL,
                url=make_conninfo(owner, user="conformant"),
                execute=lambda sql: execute(owner, sql),
                samples=SAMPLES,
                slow="select 1 as id, pg_sleep(60)::text as x",
                writes=["select log_it() as id", "select nextval('counter') as id"],
                faults=FAULTS,
                one_value="select 10 / %(n)s as x, n as m from numbers where n = 1",
                prepare=PREPARE,
                parameters=PARAMETERS,
                running=lambda: number(owner, f"select count(*) {POLLERS} and state = 'active'"),
                disconnect=lambda: execute(owner, f"select pg_terminate_backend(pid) {POLLERS}"),
                through=lambda at: f"postgresql://conformant@{at}/{name}?sslmode=disable&gssencmode=disable",
                address=address,
            )
        finally:
            execute(owner, "drop owned by conformant")


def execute(url: str, sql: str) -> None:
    """Run one statement."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())


def number(url: str, sql: str) -> int:
    """Return the first value that a statement gives."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(sql.encode()).fetchone()
        assert row is not None
        return int(row[0])
