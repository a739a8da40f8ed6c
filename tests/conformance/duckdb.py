"""DuckDB as a subject of the conformance suite: a file whose successors are written beside it, and take its place."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from pollcast.poller.sources.poll_error import Scope
from tests.conformance.subject import Fault, Sample, Spelling, Subject

SAMPLES = [
    Sample("(-128)::tinyint", "-128"),
    Sample("2147483647", "2147483647"),
    Sample("(-9223372036854775808)::bigint", "-9223372036854775808"),
    Sample("18446744073709551615::ubigint", "18446744073709551615"),
    Sample("170141183460469231731687303715884105727::hugeint", "170141183460469231731687303715884105727"),
    Sample("1234567890123456789012345678901234567890123::bignum", "1234567890123456789012345678901234567890123"),
    Sample("12.50::decimal(10, 2)", "12.50"),
    Sample("(-0.00000000000000000001)::decimal(38, 20)", "-0.00000000000000000001"),
    Sample("0.1::double", "0.1"),
    Sample("3.0::double", "3"),
    Sample("1e15::double", "1e+15"),
    Sample("0.1::float", "0.1"),
    Sample("'nan'::double", '"NaN"'),
    Sample("'-inf'::float", '"-Infinity"'),
    Sample("true", "true"),
    Sample("''", '""'),
    Sample("'a \"b\" \\ ä 漢 🎈' || chr(10) || chr(1)", r'"a \"b\" \\ ä 漢 🎈\n\u0001"'),
    Sample("date '2026-01-31'", '"2026-01-31"'),
    Sample("'infinity'::date", '"infinity"'),
    Sample("'0044-03-15 (BC)'::date", '"0044-03-15 BC"'),
    Sample("timestamp '2026-01-31 12:00:00.5'", '"2026-01-31T12:00:00.5"'),
    Sample("timestamp '0044-03-15 (BC) 12:00:00'", '"0044-03-15T12:00:00 BC"'),
    Sample("timestamp_ns '2026-01-31 12:00:00.123456789'", '"2026-01-31T12:00:00.123456789"'),
    Sample("timestamp_s '2026-01-31 12:00:00'", '"2026-01-31T12:00:00"'),
    Sample("timestamptz '2026-01-31 12:00:00+02'", '"2026-01-31T10:00:00+00:00"'),
    Sample("'-infinity'::timestamptz", '"-infinity"'),
    Sample("time '12:00:00.50'", '"12:00:00.5"'),
    Sample("timetz '12:00:00+02'", '"12:00:00+02"'),
    Sample("interval '14 months -3 days 4 hours'", '"1 year 2 months -3 days 04:00:00"'),
    Sample("'\\x00\\xFF'::blob", r'"\\x00ff"'),
    Sample("'101'::bit", '"101"'),
    Sample("'00000000-0000-0000-0000-000000000001'::uuid", '"00000000-0000-0000-0000-000000000001"'),
    Sample("'x'::enum('x', 'y')", '"x"'),
    Sample("'{\"a\": [1.50, null]}'::json", '{"a": [1.50, null]}'),
    Sample("'[1, NaN,]'::json", '"[1, NaN,]"'),
    Sample("'2026-01-31 12:00:00.000000001+02'::timestamptz_ns", '"2026-01-31T10:00:00.000000001+00:00"'),
    Sample("(select empty_struct from test_all_types() limit 1)", "{}"),
    Sample("[1, null, 3]", "[1,null,3]"),
    Sample("[]::varchar[]", "[]"),
    Sample("[[date '2026-01-31'], []]", '[["2026-01-31"],[]]'),
    Sample("[0.1, 0.2]::float[2]", "[0.1,0.2]"),
    Sample(
        "{'a': 1.50::decimal(5, 2), 'b \"': ['x'], 'c': null::int, 'd': {'e': timestamp '2026-01-31 12:00:00'}}",
        r'{"a":1.50,"b \"":["x"],"c":null,"d":{"e":"2026-01-31T12:00:00"}}',
    ),
    Sample("map {'k': 1.50, 'l': null}", '{"k":1.50,"l":null}'),
    Sample("map {date '2026-01-31': [interval '1 month']}", '{"2026-01-31":["1 month"]}'),
    Sample("[{'a': [map {1: 'x'}]}]", '[{"a":[{"1":"x"}]}]'),
    Sample("{'a': 1, 'b': [2]}::variant", '{"a":1,"b":[2]}'),
    Sample("union_value(num := 2)", '"2"'),
    Sample("row(1, 'x')", '"(1, x)"'),
    Sample("'POINT(1 2)'::geometry", '"POINT (1 2)"'),
]

FAULTS = [
    Fault("select nothing from numbers", "failed", Scope.STATEMENT, "binder error"),
    Fault("select n from nowhere", "failed", Scope.STATEMENT, "catalog error"),
    Fault("select n from", "failed", Scope.STATEMENT, "parser error"),
    Fault("select * from read_text('/etc/passwd')", "failed", Scope.STATEMENT, "permission error"),
    Fault("select cast(n - 9 as utinyint) as x from numbers", "failed", Scope.TOPIC, "conversion error"),
    Fault("select error('broken') as x from numbers", "failed", Scope.TOPIC, "invalid input error"),
    Fault("select list(repeat('x', 10000) || n) as x from numbers, range(100)", "stale", Scope.TOPIC_OR_SIZE, "memory"),
]

PARAMETERS: Mapping[str, Sequence[tuple[str | None, str]]] = {
    "text": [("x", '"x"'), ("' \" \\ %% %(n)s ; -- /* \n🎈", r'''"' \" \\ %% %(n)s ; -- /* \n🎈"'''), (None, "null")],
    "int": [("5", "5"), ("-9223372036854775808", "-9223372036854775808")],
    "float": [("0.1", "0.1"), ("1e+300", "1e+300")],
    "numeric": [("12345678901234567890.5", "12345678901234567890.5"), ("-0.001", "-0.001"), ("0", "0")],
    "bool": [("true", "true"), ("false", "false")],
    "date": [("2026-01-31", '"2026-01-31"')],
    "timestamptz": [("2026-01-31T12:00:00.5Z", '"2026-01-31T12:00:00.5+00:00"')],
    "uuid": [("5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab", '"5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab"')],
}


class Files:
    """A database that its owner keeps in memory, and writes to a file for pollers after each statement."""

    def __init__(self, folder: Path) -> None:
        import duckdb

        self.path = folder / "shop.duckdb"
        """The file that pollers read."""
        self._next = folder / "next.duckdb"
        self._own = duckdb.connect(":memory:")
        self.execute("select 1")

    def execute(self, sql: str) -> None:
        """Run one statement, and give pollers another file."""
        self._own.execute(sql)
        self._own.execute(f"attach '{self._next}' as next")
        self._own.execute("copy from database memory to next")
        self._own.execute("detach next")
        self._next.replace(self.path)

    def close(self) -> None:
        """Forget the database."""
        self._own.close()


@contextlib.contextmanager
def start(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Provide a database in a folder of its own."""
    pytest.importorskip("duckdb", reason="the package duckdb is missing: pip install 'pollcast[duckdb]'")
    from pollcast.poller.duckdb.kind import DUCKDB

    folder = tempfile.mkdtemp(prefix="duckdb-", dir=request.getfixturevalue("session_folder"))
    with contextlib.closing(Files(Path(folder))) as files:
        yield Subject(
            kind=DUCKDB,
            url=f"duckdb://{files.path}?threads=2&memory_limit=200MB",
            execute=files.execute,
            samples=SAMPLES,
            slow="select count(*) as id from range(100000000) a(i), range(100000) b(j) where i + j = -1",
            writes=["select nextval('counter') as id"],
            faults=FAULTS,
            one_value="select cast(%(n)s - 1 as utinyint) as x, n as m from numbers where n = 1",
            spelling=Spelling(),
            prepare=["create sequence counter"],
            parameters=PARAMETERS,
        )
