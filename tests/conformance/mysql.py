"""MariaDB as a subject of the conformance suite."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence

import pytest
from asyncmy.errors import MySQLError

from pollcast.poller.mysql.kind import MYSQL
from pollcast.poller.sources.poll_error import Scope
from pollcast.services.local.mariadb_server import MariadbServer, installed
from tests.conformance.subject import Fault, Sample, Spelling, Subject
from tests.support.mariadb import execute_now

SAMPLES = [
    Sample("-2147483648", "-2147483648"),
    Sample("cast(18446744073709551615 as unsigned)", "18446744073709551615"),
    Sample("-9223372036854775808", "-9223372036854775808"),
    Sample("12345678901234567890.12345678901234567890", "12345678901234567890.12345678901234567890"),
    Sample("cast(1.5 as decimal(10,2))", "1.50"),
    Sample("1e-1", "0.1"),
    Sample("1e300", "1e300"),
    Sample("1.7976931348623157e308", "1.7976931348623157e308"),
    Sample("true", "1"),
    Sample("''", '""'),
    Sample(
        r"'quote \" backslash \\ tab \t line \n end " + "\x01'", r'"quote \" backslash \\ tab \t line \n end \u0001"'
    ),
    Sample("'Ω 漢字 🎈'", '"Ω 漢字 🎈"'),
    Sample("date'2026-01-31'", '"2026-01-31"'),
    Sample("date'0000-00-00'", '"0000-00-00"'),
    Sample("time'12:00:00.5'", '"12:00:00.5"'),
    Sample("time'-838:59:59'", '"-838:59:59"'),
    Sample("timestamp'2026-01-31 12:00:00.123456'", '"2026-01-31T12:00:00.123456"'),
    Sample("from_unixtime(0)", '"1970-01-01T00:00:00"'),
    Sample("x'00ff'", r'"\\x00ff"'),
    Sample("json_object('b', json_array(1, null), 'a', 'x')", '{"b": [1, null], "a": "x"}'),
    Sample("json_extract('[1.50]', '$[0]')", "1.50"),
    Sample("cast('5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab' as uuid)", '"5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab"'),
    Sample("point(1, 2)", r'"\\x000000000101000000000000000000f03f0000000000000040"'),
]

FAULTS = [
    Fault("select nothing from numbers", "failed", Scope.STATEMENT, "bad_field_error (1054)"),
    Fault("select n from nowhere", "failed", Scope.STATEMENT, "no_such_table (1146)"),
    Fault("select n from", "failed", Scope.STATEMENT, "parse_error (1064)"),
    Fault("select 18446744073709551615 + n as x from numbers", "failed", Scope.TOPIC, "data_out_of_range (1690)"),
    Fault("select (select n from numbers) as x", "failed", Scope.TOPIC, "subquery_no_1_row (1242)"),
    Fault("select raising(1213) as x", "stale", Scope.STATEMENT, "lock_deadlock (1213)"),
    Fault("select raising(1205) as x", "stale", Scope.STATEMENT, "locked"),
    Fault("select raising(1114) as x", "stale", Scope.TOPIC_OR_SIZE, "record_file_full (1114)"),
    Fault("select raising(1053) as x", "stale", Scope.TOPIC, "server_shutdown (1053)"),
    Fault("select raising(1317) as x", "stale", Scope.TOPIC, "query_interrupted (1317)"),
    Fault("select raising(1644) as x", "failed", Scope.TOPIC, "error (1644)"),
]

PREPARE = [
    "create function raising(code int) returns int begin signal sqlstate '45000' set mysql_errno = code; return 1; end",
    "create function writing() returns int begin insert into log values ('written'); return 1; end",
    "create sequence counter",
]

PARAMETERS: Mapping[str, Sequence[tuple[str | None, str]]] = {
    "text": [("x", '"x"'), ("' \" \\ %% %(n)s ; -- /* \n🎈", r'''"' \" \\ %% %(n)s ; -- /* \n🎈"'''), (None, "null")],
    "int": [("5", "5"), ("-9223372036854775808", "-9223372036854775808")],
    "float": [("0.1", "0.1"), ("1e+300", "1e300")],
    "numeric": [("12345678901234567890.5", "12345678901234567890.5")],
    "bool": [("true", "1"), ("false", "0")],
    "date": [("2026-01-31", '"2026-01-31"')],
    "timestamptz": [("2026-01-31T12:00:00.5Z", '"2026-01-31T12:00:00.5"')],
    "uuid": [("5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab", '"5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab"')],
}

POLLERS = "from information_schema.processlist where user = 'conformant'"


@contextlib.contextmanager
def start(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Provide a database on the MariaDB that all tests share, with a role that may read it."""
    if installed() is None:
        pytest.skip("there is no MariaDB (Debian: apt install mariadb-server-core)")
    server: MariadbServer = request.getfixturevalue("mariadb_server")
    name = f"t_{uuid.uuid4().hex[:12]}"
    owner = server.url_of(name)

    def ask(*statements: str) -> list[tuple[bytes | None, ...]]:
        return execute_now(owner, "set names utf8mb4", *statements)

    def run(sql: str) -> None:
        ask(sql)

    def disconnect() -> None:
        for (id,) in ask(f"select id {POLLERS}"):
            with contextlib.suppress(MySQLError):  # it may have ended meanwhile
                ask(f"kill {int(id or 0)}")

    hidden = f"{name}_hidden"
    execute_now(
        server.url_of(),
        *(f"create database {each}" for each in (name, hidden)),
        f"create table {hidden}.secret (n int)",
        "create or replace user conformant@'127.0.0.1'",
        f"grant select, execute, insert on {name}.* to conformant@'127.0.0.1'",
    )
    denied = Fault(f"select n from {hidden}.secret", "failed", Scope.STATEMENT, "tableaccess_denied_error (1142)")
    yield Subject(
        kind=MYSQL,
        url=owner.replace("root@", "conformant@"),
        execute=run,
        samples=SAMPLES,
        slow="select 1 as id, sleep(60) as x",
        writes=["select writing() as id", "select nextval(counter) as id"],
        faults=[*FAULTS, denied],
        one_value="select 18446744073709551615 + (%(n)s = 0) as x, n as m from numbers where n = 1",
        spelling=Spelling(member=lambda column, name: f"{column} in (%({name})s)"),
        prepare=PREPARE,
        parameters=PARAMETERS,
        running=lambda: len(ask(f"select id {POLLERS} and command = 'Query'")),
        disconnect=disconnect,
        through=lambda at: f"mysql://conformant@{at}/{name}",
        address=f"127.0.0.1:{server.port}",
    )
    execute_now(server.url_of(), f"drop database {name}", f"drop database {hidden}")
