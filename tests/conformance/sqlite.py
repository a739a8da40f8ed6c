"""SQLite as a subject of the conformance suite: the example of docs/howto/new-source.md. No catalogue can name it."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import pytest

from pollcast.poller.sources.poll_error import Scope
from tests.conformance.sqlite_kind import SQLITE
from tests.conformance.subject import Fault, Sample, Spelling, Subject

SAMPLES = [
    Sample("9223372036854775807", "9223372036854775807"),
    Sample("-1", "-1"),
    Sample("0.1", "0.1"),
    Sample("1e15", "1e+15"),
    Sample("''", '""'),
    Sample("'a \"b\" \\ ä 漢 🎈' || char(10) || char(1)", r'"a \"b\" \\ ä 漢 🎈\n\u0001"'),
    Sample("x'00ff'", r'"\\x00ff"'),
]

FAULTS = [
    Fault("select nothing from numbers", "failed", Scope.STATEMENT, "sqlite_error"),
    Fault("select n from nowhere", "failed", Scope.STATEMENT, "sqlite_error"),
    Fault("select n from from numbers", "failed", Scope.STATEMENT, "sqlite_error"),
    Fault("select abs(-9223372036854775807 - n) as x from numbers", "failed", Scope.TOPIC, "sqlite_error"),
]

PARAMETERS: Mapping[str, Sequence[tuple[str | None, str]]] = {
    "text": [("x", '"x"'), ("' \" \\ %% %(n)s ; -- /* \n🎈", r'''"' \" \\ %% %(n)s ; -- /* \n🎈"'''), (None, "null")],
    "int": [("5", "5"), ("-9223372036854775808", "-9223372036854775808")],
    "float": [("0.1", "0.1"), ("1e+300", "1e+300")],
    "numeric": [("12345.5", "12345.5")],
    "bool": [("true", "1"), ("false", "0")],
    "date": [("2026-01-31", '"2026-01-31"')],
    "timestamptz": [("2026-01-31T12:00:00.5Z", '"2026-01-31T12:00:00.5Z"')],
    "uuid": [("5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab", '"5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab"')],
}


@contextlib.contextmanager
def start(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Provide a file in a folder of its own."""
    path = f"{tempfile.mkdtemp(prefix='sqlite-', dir=request.getfixturevalue('session_folder'))}/shop.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as owner:
        owner.execute("pragma journal_mode = wal")

        def execute(sql: str) -> None:
            owner.execute(sql)

        yield Subject(
            kind=SQLITE,
            url=f"sqlite://{path}",
            execute=execute,
            samples=SAMPLES,
            slow="with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) as id from c",
            writes=["insert into log (text) values ('written') returning text"],
            faults=FAULTS,
            one_value="select abs(-9223372036854775807 - (%(n)s = 0)) as x, n as m from numbers where n = 1",
            spelling=Spelling(
                member=lambda column, name: f"{column} in (select value from json_each(%({name})s))",
                union="{} union all {}",
            ),
            parameters=PARAMETERS,
        )
