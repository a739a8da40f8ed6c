"""Every type of MySQL on its way to a client, and every parameter on its way to the server.

`make test` leaves out what needs MariaDB where that is not installed (Debian: apt install mariadb-server-core).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pollcast.poller.mysql.wire import Wire
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.services.catalogue.mysql_text import tokens
from pollcast.services.catalogue.values import ParamType, canonical
from tests.support.mariadb import connection, execute, outcomes, polling, query, rows, run
from tests.support.outcomes import texts

pytest_plugins = ("tests.support.mariadb_fixture",)

TYPES = {
    "tinyint": [("-128", "-128")],
    "tinyint unsigned": [("255", "255")],
    "bool": [("true", "1"), ("false", "0")],
    "smallint": [("-32768", "-32768")],
    "mediumint": [("8388607", "8388607")],
    "int": [("-2147483648", "-2147483648")],
    "int(6) zerofill": [("42", "42"), ("0", "0")],
    "bigint": [("-9223372036854775808", "-9223372036854775808")],
    "bigint unsigned": [("18446744073709551615", "18446744073709551615")],
    "decimal(65,30)": [("1.5", "1.500000000000000000000000000000"), ("-0.1", "-0.100000000000000000000000000000")],
    "decimal(6,2) zerofill": [("1.5", "1.50"), ("0.05", "0.05")],
    "double": [("0.1", "0.1"), ("1e300", "1e300"), ("-0.1e0", "-0.1"), ("1e0/3", "0.3333333333333333")],
    "float": [("0.1", "0.1"), ("3.1415927", "3.14159")],
    "bit(10)": [("b'101'", '"0000000101"')],
    "bit(1)": [("1", '"1"')],
    "year": [("2026", "2026"), ("0", "0")],
    "date": [("'2026-01-31'", '"2026-01-31"'), ("'0000-00-00'", '"0000-00-00"'), ("'2026-00-00'", '"2026-00-00"')],
    "datetime": [("'2026-01-31 12:00:00'", '"2026-01-31T12:00:00"'), ("'0000-00-00'", '"0000-00-00T00:00:00"')],
    "datetime(6)": [("'2026-01-31 12:00:00.25'", '"2026-01-31T12:00:00.25"')],
    "timestamp null": [("'2026-01-31 12:00:00'", '"2026-01-31T12:00:00+00:00"')],
    "timestamp(3) null": [("'2026-01-31 12:00:00.100'", '"2026-01-31T12:00:00.1+00:00"')],
    "time": [("'-838:59:59'", '"-838:59:59"'), ("'12:00'", '"12:00:00"')],
    "time(2)": [("'30:00:00.5'", '"30:00:00.5"')],
    "char(5)": [("'a'", '"a"')],
    "varchar(20)": [("'é\"\\\\\\n'", '"é\\"\\\\\\n"'), ("''", '""')],
    "varchar(20) character set latin1": [("'é'", '"é"')],
    "text": [("'😀'", '"😀"')],
    "enum('a','b')": [("'b'", '"b"')],
    "set('a','b')": [("'b,a'", '"a,b"')],
    "binary(3)": [("x'00ff'", '"\\\\x00ff00"')],
    "varbinary(3)": [("x'00ff'", '"\\\\x00ff"')],
    "blob": [("x''", '"\\\\x"'), ("'a'", '"\\\\x61"')],
    "json": [('\'{"a": [1, 2.50, "é"]}\'', '{"a": [1, 2.50, "é"]}'), ("'null'", "null")],
    "point": [("point(1, 2)", '"\\\\x000000000101000000000000000000f03f0000000000000040"')],
    "uuid": [("'123e4567-e89b-12d3-a456-426655440000'", '"123e4567-e89b-12d3-a456-426655440000"')],
    "inet6": [("'::1'", '"::1"')],
}


async def test_every_type_becomes_the_json_that_the_manual_says(shop: str, shop_db: Database) -> None:
    columns = ", ".join(f"c{at} {type}{'' if 'null' in type else ' null'}" for at, type in enumerate(TYPES))
    async with connection(shop) as wire:
        await run(wire, "set names utf8mb4", "set sql_mode=''", "set time_zone='+00:00'")
        await run(wire, f"create or replace table types (id int primary key, {columns})")
        await run(wire, "insert into types (id) values (0)")
        for number in (1, 2, 3, 4):
            some = {at: values[number - 1] for at, values in enumerate(TYPES.values()) if len(values) >= number}
            names, literals = ", ".join(f"c{at}" for at in some), ", ".join(value for value, _ in some.values())
            await run(wire, f"insert into types (id, {names}) values ({number}, {literals})")
    (found,) = await outcomes(shop_db, query("select * from types order by id", key=["id"]), {})
    for number, row in enumerate(texts(found)):
        assert json.loads(row)["id"] == number
        for at, (type, values) in enumerate(TYPES.items()):
            expected = values[number - 1][1] if 0 < number <= len(values) else "null"
            assert f'"c{at}":{expected}' in row, type
    bits = f"c{list(TYPES).index('bit(10)')}"  # MariaDB writes bits that it has computed in another way
    (found,) = await outcomes(shop_db, query(f"select max({bits}) as m from types"), {})
    assert texts(found) == ['{"m":"0000000101"}']


async def test_expressions_have_the_type_of_their_value(shop_db: Database) -> None:
    sql = (
        "select 1 = 1 as b, 1.50 + 1 as d, 1 / 3 as q, null as n, json_object('a', 1) as j,"
        " json_extract('[{}]', '$[0]') as e, concat('[', 1, ']') as t, cast(x'00' as char) as c, unhex('ff') as x,"
        " 2e0 as f, count(*) as k, sum(1.10) as s,"
        " timestamp'2026-01-31 00:00:00' as m, @@session.time_zone as z, cast(3.1415927410125732 as double) as p"
    )
    (found,) = await outcomes(shop_db, query(sql), {})
    assert texts(found) == [
        '{"b":1,"d":2.50,"q":0.3333,"n":null,"j":{"a": 1},"e":{},"t":"[1]","c":"\\u0000","x":"\\\\xff","f":2,"k":1,'
        '"s":1.10,"m":"2026-01-31T00:00:00","z":"+00:00","p":3.1415927410125732}'
    ]


SAMPLES: dict[ParamType, st.SearchStrategy[str]] = {
    "text": st.text(max_size=40) | st.text("'\"\\`%;\n\x1a#-/* ä😀", max_size=10),
    "int": st.integers(-(2**63), 2**63 - 1).map(str),
    "float": st.floats(allow_nan=False, allow_infinity=False).map(repr),
    "numeric": st.decimals(-(10**34), 10**34, allow_nan=False, places=30).map(lambda value: format(value, "f")),
    "bool": st.sampled_from(["true", "false"]),
    "date": st.dates().map(lambda value: value.isoformat()),
    "timestamptz": st.datetimes().map(lambda value: f"{value.isoformat()}Z"),
    "uuid": st.uuids().map(str),
}
PARAMS = "\n".join(f'p_{type} = {{ type = "{type}", optional = true }}' for type in SAMPLES)
ECHO = ", ".join(f"%(p_{type})s as p_{type}" for type in SAMPLES)


def valid(type: ParamType, text: str) -> str | None:
    """Return the canonical text of the value; None for one that the catalogue does not accept."""
    try:
        return canonical(type, text)
    except ValueError:
        return None


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """An event loop for tests that generate their examples."""
    with asyncio.Runner() as runner:
        yield runner


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(topics=st.lists(st.fixed_dictionaries(SAMPLES), min_size=1, max_size=8))
def test_any_value_of_a_parameter_reaches_the_server_as_it_is(
    loop: asyncio.Runner, looped: Database, topics: list[dict[ParamType, str]]
) -> None:
    q = query(f"select {ECHO}, length(%(p_text)s) as size", params=PARAMS)
    values = [{f"p_{type}": valid(type, text) for type, text in each.items()} for each in topics]

    async def poll() -> list[str]:
        return [text for each in await outcomes(looped, q, *values) for text in texts(each)]

    for sent, row in zip(values, loop.run(poll()), strict=True):
        found = json.loads(row, parse_int=str, parse_float=str)
        text = sent["p_text"]
        assert found["p_text"] == text
        assert found["size"] == (None if text is None else str(len(text.encode())))
        assert found["p_uuid"] == sent["p_uuid"]
        assert found["p_int"] == sent["p_int"]
        assert float(found["p_float"]) == float(sent["p_float"] or 0)
        assert valid("numeric", found["p_numeric"]) == sent["p_numeric"]
        assert found["p_bool"] == {"true": "1", "false": "0"}[sent["p_bool"] or ""]
        assert found["p_date"] == sent["p_date"]
        assert valid("timestamptz", f"{found['p_timestamptz']}Z") == sent["p_timestamptz"]


async def test_lists_and_absent_values_select_rows(shop: str, shop_db: Database) -> None:
    await execute(shop, "create or replace table n (id int primary key, t varchar(9))")
    await execute(shop, "insert into n values (1, 'a'), (2, 'b\\'c'), (3, null)")
    params = 'ids = { type = "int[]", default = [] }\nt = { type = "text", optional = true }\nmost = "int"'
    sql = "select id from n where %(t)s is null and id {} (%(ids)s) or t = %(t)s order by id desc limit %(most)s"
    for operator, ids, t, most, expected in (
        ("in", ("1", "3"), None, "9", [3, 1]),
        ("in", (), None, "9", []),
        ("not in", (), None, "9", [3, 2, 1]),
        ("not in", ("2",), None, "1", [3]),
        ("in", (), "b'c", "9", [2]),
    ):
        found = await rows(shop_db, query(sql.format(operator), params=params), {"ids": ids, "t": t, "most": most})
        assert [row["id"] for row in found] == expected


PIECES = st.sampled_from(
    ["'", '"', "`", "\\", "/*", "*/", "#", "--", "-- ", "\n", "\r", " ", "a", "1", ";", "é", "*", "''"]
)


def one_string_or_comment(text: str) -> str | None:
    """Return `string` or `space` if the text is one string, or nothing but comments and spaces."""
    try:
        kinds = {token.kind for token in tokens(text)}
    except ValueError:
        return None
    return next(iter(kinds)) if kinds == {"space"} or (kinds == {"string"} and len(list(tokens(text))) == 1) else None


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@given(
    text=st.builds(
        lambda around, inner: f"{around[0]}{''.join(inner)}{around[1]}",
        st.sampled_from([("'", "'"), ('"', '"'), ("/*", "*/"), ("#", "\n"), ("-- ", "\n"), ("", "")]),
        st.lists(PIECES, max_size=6),
    )
)
def test_the_server_agrees_where_strings_and_comments_end(text: str, loop: asyncio.Runner, echo: Wire) -> None:
    kind = one_string_or_comment(text)
    assume(kind is not None)
    sql = f"select 1 as a, {text} as b, 2 as c" if kind == "string" else f"select 1 as a, {text}\n7 as b, 2 as c"
    ((first, middle, last),) = loop.run(run(echo, sql))
    assert (first, last) == (b"1", b"2")
    assert kind == "string" or middle == b"7"


@pytest.fixture(scope="module")
def looped(shop: str, loop: asyncio.Runner) -> Iterator[Database]:
    """A connected database in this event loop."""
    opened = polling(shop)
    yield loop.run(opened.__aenter__())
    loop.run(opened.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def echo(shop: str, loop: asyncio.Runner) -> Iterator[Wire]:
    """A connection with the modes that sessions have."""
    opened = connection(shop)
    wire = loop.run(opened.__aenter__())
    loop.run(run(wire, "set names utf8mb4"))
    yield wire
    loop.run(opened.__aexit__(None, None, None))


async def test_a_server_with_other_modes_reads_texts_in_the_same_way(shop: str) -> None:
    await execute(shop, "set global sql_mode='ANSI,NO_BACKSLASH_ESCAPES,ORACLE'", "set global time_zone='+05:00'")
    try:
        async with polling(shop) as db:
            q = query(
                r"""select "a\"b" as a, 'c\'d' as b, `q`.`c`, @@session.time_zone as z from (select 1 as c) as q"""
            )
            assert await rows(db, q) == [{"a": 'a"b', "b": "c'd", "c": 1, "z": "+00:00"}]
    finally:
        await execute(shop, "set global sql_mode=default", "set global time_zone='+00:00'")


async def test_json_of_mariadb_that_is_no_json_is_a_string(shop: str, shop_db: Database) -> None:
    await execute(shop, "create or replace table j (id int primary key, j json)")
    async with connection(shop) as wire:
        await run(wire, "set names utf8mb4", "set check_constraint_checks=0")
        await run(wire, "insert into j values (1, '{'), (2, '[1,\\n2]'), (3, null), (4, '\"é\"')")
    assert [row["j"] for row in await rows(shop_db, query("select * from j order by id"))] == ["{", [1, 2], None, "é"]


async def test_a_date_that_does_not_exist_fails_its_own_topic(shop_db: Database) -> None:
    q = query("select cast(%(d)s as date) as d", params='d = "text"')
    assert (await rows(shop_db, q, {"d": "2026-01-31"}))[0] == {"d": "2026-01-31"}
    found = await outcomes(shop_db, query("select 10 div (%(n)s - 1) as n", params='n = "int"'), {"n": "1"}, {"n": "2"})
    assert not any(isinstance(each, PollError) for each in found)
