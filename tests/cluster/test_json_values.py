"""The table of JSON values in docs/reference/catalogue.md, row by row, as every face of a real cluster gives them.

The same values are row keys as well: a delta changes, moves and deletes rows with these keys, and every client that
applies it has the rows that PostgreSQL returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import grpc.aio
import psycopg
import pytest

from pollcast.v1 import live_pb2, live_pb2_grpc
from pollcast_client import Change, Result, watch
from tests.support.cluster import Cluster, Served
from tests.support.json_values import CHANGES, KEYS_SQL, LINES, RESET, TABLES, catalogue, exact
from tests.support.node_js import running_script
from tests.support.phoenix_js import PhoenixJs
from tests.support.repository import ROOT

SERVED = Served(catalogue(), tables=TABLES, flags=("--gateways", "1", "--pollers", "1"))

SCRIPT = ROOT / "clients" / "js" / "test" / "values.mjs"

TOPICS = [f"live:{name}" for name in KEYS_SQL]

Rows = list[Any]

UNSAFE = {"bigint", "numeric", "double precision", "jsonb", "numeric[]"}
"""The types whose keys in the table include a number that JSON.parse rounds, or could have rounded."""


@pytest.fixture
def turns(running: Cluster) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the database of `running`, whose table `turns` is as at the start."""
    with psycopg.connect(running.database_url, autocommit=True) as connection:
        connection.execute(f"begin; {RESET} commit")
        yield connection


def expected(turns: psycopg.Connection[Any]) -> dict[str, Rows]:
    """Return the rows of each topic of `TOPICS`, as PostgreSQL has them now, with their numbers as texts."""
    found = {}
    for name, sql in KEYS_SQL.items():
        rows = turns.execute(f"select row_to_json(q)::text from ({sql}) q".encode()).fetchall()
        found[f"live:{name}"] = [exact(row) for (row,) in rows]
    return found


@contextlib.asynccontextmanager
async def live(running: Cluster) -> AsyncIterator[live_pb2_grpc.LiveQueryAsyncStub]:
    """Provide LiveQuery on the gateway."""
    async with grpc.aio.insecure_channel(running.grpc("gateway")) as channel:
        yield live_pb2_grpc.LiveQueryStub(channel)


async def wire(running: Cluster) -> bytes:
    """Return the JSON of the row with all values of the table."""
    async with live(running) as stub:
        [row] = (await stub.Get(live_pb2.GetRequest(topic="values"))).rows
        assert isinstance(row, bytes)
        return row


# --- what the wire has ------------------------------------------------------------------------------------------------


async def test_the_wire_has_the_json_of_the_table(running: Cluster) -> None:
    row = await wire(running)
    expected_row = ",".join(f'"c{at}":{line.json}' for at, line in enumerate(LINES))
    assert row.decode() == f"{{{expected_row}}}"
    assert get(running, "/live/values").endswith(b'"rows":[' + row + b"]}")
    async with contextlib.aclosing(server_sent(running, "values")) as events:
        assert (await anext(events)).encode().endswith(b'"rows":[' + row + b"]}")


async def test_server_sent_events_have_no_character_that_ends_a_line_for_some_clients(running: Cluster) -> None:
    async with contextlib.aclosing(server_sent(running, "lines")) as events:
        data = await anext(events)
    assert json.loads(data)["rows"] == json.loads(get(running, "/live/lines"))["rows"]
    assert json.loads(data)["rows"] == [{"text": "a\u2028b\u2029c\u0085d\re\nf\vg", "json": {"a": "\u2028"}}]


def get(running: Cluster, path: str) -> bytes:
    """Return the body of a GET request."""
    connection = http.client.HTTPConnection(running.gateway(), timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read()


async def server_sent(running: Cluster, query: str) -> AsyncGenerator[str, None]:
    """Yield the data of each event but `status`, as a client reads it that ends lines as `str.splitlines` does."""
    host, _, port = running.gateway().rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**20)
    writer.write(f"GET /live/{query} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
    with contextlib.closing(writer):
        data: list[str] = []
        name = ""
        async for line in reader:
            for part in line.decode().splitlines():
                field, _, value = part.partition(": ")
                if field == "data":
                    data.append(value)
                elif field == "event":
                    name = value
                elif not part and data:
                    if name != "status":
                        yield "\n".join(data)
                    data = []


# --- what clients give ------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def javascript(running: Cluster, options: str, *topics: str) -> AsyncIterator[AsyncIterator[Any]]:
    """Run the JavaScript client with these options, and provide the changes that it prints."""

    async def changes(output: asyncio.StreamReader) -> AsyncIterator[Any]:
        async for line in output:
            yield json.loads(line)

    async with running_script(SCRIPT, f"http://{running.gateway()}", options, *topics) as script, asyncio.timeout(40):
        yield changes(script.output)


JS_TYPES = {bool: "boolean", float: "number", str: "string", list: "array", dict: "object", type(None): "null"}


def js_type(value: Any) -> str:
    """Return the JavaScript type of a value that values.mjs printed."""
    if isinstance(value, dict) and "$bigint" in value:
        return "bigint"
    if isinstance(value, dict) and "$number" in value:
        return "number"
    return JS_TYPES[type(value)]


def js_value(value: Any) -> Any:
    """Return the value of a bigint as an int, and all others as they are, numbers as doubles."""
    if isinstance(value, dict):
        if "$bigint" in value:
            return int(value["$bigint"])
        if "$number" in value:
            return float(value["$number"])
        return {name: js_value(each) for name, each in value.items()}
    return [js_value(each) for each in value] if isinstance(value, list) else value


async def js_row(running: Cluster, options: str) -> dict[str, Any]:
    async with javascript(running, options, "live:values") as changes:
        async for change in changes:
            if change["kind"] == "snapshot":
                [row] = json.loads(json.dumps(change["rows"]), parse_int=float)
                assert isinstance(row, dict)
                return row
    raise AssertionError("no snapshot")


def js_expected(line_json: str, *, exact_integers: bool = True) -> Any:
    """Return the value that JavaScript has for a JSON text: integers that a double does not hold are ints."""

    def integer(text: str) -> int | float:
        return int(text) if exact_integers and abs(int(text)) >= 2**53 else float(text)

    return json.loads(line_json, parse_int=integer)


async def test_the_javascript_client_gives_the_values_of_the_table(running: Cluster) -> None:
    row = await js_row(running, "{}")
    for at, line in enumerate(LINES):
        value = row[f"c{at}"]
        assert js_type(value) == line.js.partition(",")[0].strip("`"), line
        assert repr(js_value(value)) == repr(js_expected(line.json)), line


async def test_the_javascript_client_gives_large_integers_as_strings_or_rounded(running: Cluster) -> None:
    text, rounded = [await js_row(running, json.dumps({"integers": kind})) for kind in ("string", "number")]
    for at, line in enumerate(LINES):
        if line.js == "bigint":
            assert text[f"c{at}"] == line.json
            assert rounded[f"c{at}"] == float(line.json)
        else:
            assert js_type(text[f"c{at}"]) == js_type(rounded[f"c{at}"]) == line.js.partition(",")[0].strip("`")


async def test_phoenix_js_alone_rounds_the_values_of_the_table(running: Cluster) -> None:
    async with PhoenixJs.start() as phoenix:
        phoenix.do("connect", socket="a", url=f"ws://{running.gateway()}/socket", version="1.8")
        phoenix.do("join", socket="a", topic="live:values")
        await phoenix.wait_for(lambda event: event.get("event") == "snapshot")
        [row] = json.loads(json.dumps(phoenix.of("a", "live:values", "snapshot")[0]["rows"]), parse_int=float)
    for at, line in enumerate(LINES):
        assert row[f"c{at}"] == js_expected(line.json, exact_integers=False), line


async def test_the_python_client_gives_the_values_of_the_table(running: Cluster) -> None:
    row = (await first(running, "live:values")).rows[0]
    exactly = (await first(running, "live:values", parse_float=Decimal)).rows[0]
    for at, line in enumerate(LINES):
        value = row[f"c{at}"]
        names = {kind.__name__ for kind in type(value).__mro__} if value is not None else {"None"}
        assert line.python.partition(",")[0].strip("`") in names, line
        assert value == json.loads(line.json), line
        assert exactly[f"c{at}"] == json.loads(line.json, parse_float=Decimal), line


async def first(running: Cluster, topic: str, **options: Any) -> Change:
    """Return the first change with a result."""
    async with asyncio.timeout(30), watch(topic, url=f"http://{running.gateway()}", **options) as watching:
        async for change in watching:
            if change.result is not None:
                return change
    raise AssertionError("the watch ended")


# --- the values as row keys -------------------------------------------------------------------------------------------


async def test_the_python_client_follows_rows_with_these_keys(running: Cluster, turns: psycopg.Connection[Any]) -> None:
    await follow_in_python(running, turns)


async def test_the_python_client_follows_rows_with_exact_decimals_in_keys(
    running: Cluster, turns: psycopg.Connection[Any]
) -> None:
    await follow_in_python(running, turns, parse_float=Decimal)


async def follow_in_python(running: Cluster, turns: psycopg.Connection[Any], **options: Any) -> None:
    """Watch every topic through the changes, and compare each result with PostgreSQL's rows."""

    def read(rows: Rows) -> Rows:
        parse = options.get("parse_float", float)
        return [json.loads(as_json(row), parse_float=parse) for row in rows]

    wanted = {topic: read(rows) for topic, rows in expected(turns).items()}
    kinds: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    changed = False
    current = set[str]()
    async with asyncio.timeout(40), watch(*TOPICS, url=f"http://{running.gateway()}", **options) as watching:
        async for change in watching:
            if change.kind in ("snapshot", "delta") and changed:
                kinds[change.topic].append(change.kind)
            if change.result is not None and list(change.rows) == wanted[change.topic]:
                current.add(change.topic)
            if current == set(TOPICS):
                if changed:
                    break
                turns.execute(f"begin; {CHANGES} commit")
                wanted = {topic: read(rows) for topic, rows in expected(turns).items()}
                current, changed = set(), True
    assert kinds == {topic: ["delta"] for topic in TOPICS}


def as_json(value: Any) -> str:
    """Return the JSON text of a value that `exact` returned."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{as_json(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(as_json, value))}]"
    return value[1:] if isinstance(value, str) and value.startswith("#") else json.dumps(value)


@pytest.mark.parametrize("integers", ["bigint", "string", "number"])
async def test_the_javascript_client_follows_rows_with_these_keys(
    running: Cluster, turns: psycopg.Connection[Any], integers: str
) -> None:
    current = set[str]()
    changed = False
    kinds: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    wanted = places(expected(turns))
    async with javascript(running, json.dumps({"integers": integers}), *TOPICS) as changes:
        async for change in changes:
            topic = change["topic"]
            assert change["status"]["state"] == "live", change
            if change["kind"] in ("snapshot", "delta"):
                if changed:
                    kinds[topic].append(change["kind"])
                assert len(set(change["keys"])) == len(change["rows"])
                if [(row["part"], row["n"]) for row in change["rows"]] == wanted[topic]:
                    current.add(topic)
            if current == set(TOPICS):
                if changed:
                    break
                turns.execute(f"begin; {CHANGES} commit")
                wanted, current, changed = places(expected(turns)), set(), True
    assert kinds == {topic: ["delta"] for topic in TOPICS}


def places(rows: dict[str, Rows]) -> dict[str, list[tuple[int, int]]]:
    """Return the columns `part` and `n` of each topic's rows, which tell the rows of one value apart."""
    return {topic: [(int(row["part"][1:]), int(row["n"][1:])) for row in each] for topic, each in rows.items()}


async def test_a_plain_socket_of_phoenix_js_ends_with_one_clear_error_where_keys_are_rounded(
    running: Cluster, turns: psycopg.Connection[Any]
) -> None:
    failed: dict[str, str] = {}
    shown = set[str]()
    wanted = {topic for topic, rows in expected(turns).items() if rounds(rows)}
    assert len(wanted) == len(UNSAFE)
    async with javascript(running, "plain", *TOPICS) as changes:
        async for change in changes:
            assert change["topic"] not in failed, "the error is final"
            if change["status"]["state"] == "failed":
                failed[change["topic"]] = change["status"]["reason"]
            else:
                shown.add(change["topic"])
            if failed.keys() | shown == set(TOPICS):
                break
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                async for change in changes:
                    assert change["topic"] not in failed, "the error is final"
    assert failed.keys() == wanted
    assert all("select it as text" in reason for reason in failed.values())


def rounds(rows: Rows) -> bool:
    """Return whether a key of these rows has an integer beyond 2^53 once it is a double."""

    def unsafe(value: Any) -> bool:
        if isinstance(value, list):
            return any(map(unsafe, value))
        if isinstance(value, dict):
            return any(map(unsafe, value.values()))
        if not (isinstance(value, str) and value.startswith("#")):
            return False
        number = float(value[1:])
        return number.is_integer() and abs(number) >= 2**53

    return any(unsafe(row["k"]) for row in rows)


async def test_server_sent_events_and_grpc_carry_deltas_with_these_keys(
    running: Cluster, turns: psycopg.Connection[Any]
) -> None:
    async with asyncio.timeout(40), live(running) as stub, contextlib.AsyncExitStack() as stack:
        streams = {name: server_sent(running, name) for name in KEYS_SQL}
        for stream in streams.values():
            stack.push_async_callback(stream.aclose)
        calls = {name: stub.Watch(live_pb2.WatchRequest(topic=name)) for name in KEYS_SQL}
        before = expected(turns)
        results = {
            name: await caught_up(Result.of_snapshot(decimals(await anext(stream))), stream, before[f"live:{name}"])
            for name, stream in streams.items()
        }
        for name, call in calls.items():
            assert (await changed(call)).WhichOneof("event") == "snapshot", name
        turns.execute(f"begin; {CHANGES} commit")
        after = expected(turns)
        for name, stream in streams.items():
            await caught_up(results[name], stream, after[f"live:{name}"])
            delta = (await changed(calls[name])).delta
            while json.loads(delta.deletes[0]) != [None, 2]:  # the table was filled anew before
                delta = (await changed(calls[name])).delta
            assert (len(delta.deletes), len(delta.upserts)) == (1, 3), name
            calls[name].cancel()


def decimals(text: str) -> Any:
    """Return a JSON value with exact decimals."""
    return json.loads(text, parse_float=Decimal)


async def caught_up(result: Result, stream: AsyncIterator[str], rows: Rows) -> Result:
    """Apply the deltas of an event stream until the result has these rows."""
    wanted = [decimals(as_json(row)) for row in rows]
    while result.rows != wanted:
        result, _ = result.after(decimals(await anext(stream)))
    return result


async def changed(call: Any) -> Any:
    """Return the next response that is not a status."""
    while (response := await call.read()).WhichOneof("event") == "status":
        pass
    return response
