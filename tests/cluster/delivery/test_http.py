"""Results over HTTP: JSON snapshots, server-sent events, the public catalogue, and errors."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import http.client
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import orjson
import psycopg
import pytest
from jsonschema import Draft202012Validator

from tests.support.cluster import Cluster
from tests.support.waiting import eventually_sync


def get(running: Cluster, path: str, **headers: str) -> tuple[int, Any]:
    """Return the status and the JSON body of a GET from the first gateway."""
    connection = http.client.HTTPConnection(running.gateway(0), timeout=20)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, orjson.loads(response.read())
    finally:
        connection.close()


def test_a_request_for_json_gets_one_snapshot(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    status, snapshot = get(running, "/live/stock?shelf=b")
    assert status == 200
    assert set(snapshot) == {"version", "polled_at", "key", "rows"}
    assert snapshot["key"] == ["id"]
    assert snapshot["rows"] == [{"id": 3, "name": "fig", "n": 1}]


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/live/nothing", 404, "unknown_query"),
        ("/live/", 404, "unknown_query"),
        ("/live/stock/", 404, "unknown_query"),
        ("/live/stock/a/b?shelf=a", 404, "unknown_query"),
        ("/live/stock", 400, "invalid_params"),
        ("/live/total?", 400, "invalid_params"),
        ("/live/total?&", 400, "invalid_params"),
        ("/live/sales", 403, "forbidden"),
        ("/live/mine", 403, "forbidden"),
    ],
)
def test_http_errors_are_json_with_reason_and_detail(running: Cluster, path: str, status: int, reason: str) -> None:
    answered, body = get(running, path)
    assert (answered, body["reason"]) == (status, reason)
    assert body["detail"]


@pytest.mark.parametrize("path", ["/live/stock?shelf=b", "/api/queries", "/healthz", "/"])
def test_another_method_is_refused_with_the_allowed_ones(running: Cluster, path: str) -> None:
    connection = http.client.HTTPConnection(running.gateway(0), timeout=20)
    connection.request("POST", path, body=b"{}")
    response = connection.getresponse()
    assert (response.status, orjson.loads(response.read())["reason"]) == (405, "method_not_allowed")
    assert "GET" in response.headers["allow"]
    connection.close()


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
def test_a_head_request_ends_and_leaves_the_connection_usable(running: Cluster, accept: str) -> None:
    connection = http.client.HTTPConnection(running.gateway(0), timeout=20)
    for method, path in (("HEAD", "/live/stock?shelf=b"), ("GET", "/healthz")):
        connection.request(method, path, headers={"Accept": accept} if method == "HEAD" else {})
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        if method == "HEAD":
            assert response.headers["content-type"].startswith(accept)
    connection.close()


@pytest.mark.parametrize("accept", ["Text/Event-Stream", "text/html, text/event-stream;q=0.5"])
def test_a_media_type_is_recognised_in_any_case_and_position(running: Cluster, accept: str) -> None:
    connection = http.client.HTTPConnection(running.gateway(0), timeout=20)
    connection.putrequest("GET", "/live/stock?shelf=b")
    connection.putheader("Accept", "application/json")
    connection.putheader("Accept", accept)
    connection.endheaders()
    assert connection.getresponse().headers["content-type"].startswith("text/event-stream")
    connection.close()


def test_the_public_catalogue_holds_no_sql_and_no_claim(running: Cluster) -> None:
    status, body = get(running, "/api/queries")
    assert status == 200
    queries = {query["name"]: query for query in body["queries"]}
    assert queries["stock"]["interval_ms"] == 100
    assert [param["name"] for param in queries["stock"]["params"]] == ["shelf", "limit"]
    assert queries["mine"]["params"] == []
    assert "select" not in str(body)
    assert get(running, "/healthz")[0] == get(running, "/readyz")[0] == 200

    status, described = get(running, "/openapi.json")
    assert (status, described["servers"]) == (200, [{"url": "/"}])
    assert {path.removeprefix("/live/") for path in described["paths"] if path.startswith("/live/")} == set(queries)
    tag = fetch(running, "/openapi.json", {})[1]["etag"]
    assert fetch(running, "/openapi.json", {"If-None-Match": f'"x", W/{tag}'})[0] == 304


def test_the_rows_of_each_query_are_described_without_a_topic_of_it(
    running: Cluster, stock: psycopg.Connection[Any]
) -> None:
    def described() -> dict[str, Any]:
        paths = get(running, "/openapi.json")[1]["paths"]
        content = {
            path.removeprefix("/live/"): paths[path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            for path in paths
            if path.startswith("/live/")
        }
        return {name: schema["properties"]["rows"]["items"] for name, schema in content.items()}

    eventually_sync(lambda: all(row["additionalProperties"] is False for row in described().values()))
    row = described()["stock"]
    assert row == {
        "type": "object",
        "properties": {
            "id": {"type": "integer", "format": "int32", "description": "A column of the key."},
            "name": {"type": ["string", "null"]},
            "n": {"type": ["integer", "null"], "format": "int32"},
        },
        "required": ["id", "name", "n"],
        "additionalProperties": False,
    }
    rows = eventually_sync(lambda: get(running, "/live/stock?shelf=b")[1]["rows"])
    assert all(Draft202012Validator(row).is_valid(each) for each in rows)


def fetch(running: Cluster, path: str, headers: dict[str, str]) -> tuple[int, http.client.HTTPMessage, bytes, float]:
    """Return status, headers and body of a GET from the first gateway, and the seconds that it took."""
    connection = http.client.HTTPConnection(running.gateway(0), timeout=20)
    try:
        began = time.monotonic()
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read(), time.monotonic() - began
    finally:
        connection.close()


def test_a_result_that_the_client_has_is_not_sent_again(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    path = "/live/stock?shelf=b&limit=7"
    status, first, body, _ = fetch(running, path, {})
    assert status == 200
    assert first["etag"] == f'"{orjson.loads(body)["version"]}"'
    assert first["cache-control"] == "no-cache"
    for known in (first["etag"], f"W/{first['etag']}", f'"1-1", {first["etag"]}', "*"):
        status, again, body, _ = fetch(running, path, {"If-None-Match": known})
        assert (status, again["etag"], body) == (304, first["etag"], b"")
    as_csv = {"Accept": "text/csv"}
    status, headers, text, _ = fetch(running, path, as_csv)
    assert (status, headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert (headers["etag"], headers["vary"]) == (first["etag"][:-1] + '.csv"', "Accept, Authorization, Origin")
    assert [line.split(",")[0] for line in text.decode().split("\r\n")] == ["id", "3", ""]
    assert fetch(running, path, as_csv | {"If-None-Match": headers["etag"]})[0] == 304
    assert fetch(running, path, as_csv | {"If-None-Match": first["etag"]})[0] == 200
    stock.execute("update stock set n = n + 1 where id = 3")
    status, changed, body, _ = fetch(running, path, {"If-None-Match": first["etag"], "Prefer": "wait=15"})
    assert (status, changed["preference-applied"]) == (200, "wait=15")
    assert orjson.loads(body)["rows"][0]["n"] == 2
    assert changed["etag"] != first["etag"]


def test_a_request_waits_as_long_as_it_prefers(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    path = "/live/stock?shelf=b&limit=6"
    _, first, _, _ = fetch(running, path, {})
    status, same, _, seconds = fetch(running, path, {"If-None-Match": first["etag"], "Prefer": "wait=1"})
    assert (status, same["preference-applied"]) == (304, "wait=1")
    assert seconds >= 1
    with concurrent.futures.ThreadPoolExecutor() as threads:
        waiting = threads.submit(fetch, running, path, {"If-None-Match": first["etag"], "Prefer": "wait=60"})
        stock.execute("update stock set n = n + 1 where id = 3")
        status, _, body, _ = waiting.result(timeout=15)
    assert (status, orjson.loads(body)["rows"][0]["n"]) == (200, 2)


async def test_an_event_stream_for_http_1_0_is_not_chunked(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    host, _, port = running.gateway(0).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with contextlib.closing(writer):
        writer.write(b"GET /live/stock?shelf=b&limit=5 HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n")
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"chunked" not in head.lower()
            assert (await reader.readline()).startswith(b"retry: ")
            assert await reader.readline() == b"\n"
            lines = [await reader.readline() for _ in range(4)]
            while lines[0] != b"event: snapshot\n":  # a slow first result is reported as stale
                lines = [*lines[lines.index(b"\n") + 1 :], await reader.readline()]
            while len(lines) < 4:
                lines.append(await reader.readline())
            stock.execute("update stock set n = n + 1 where id = 3")
            assert await reader.readline() == b"event: delta\n"


def test_a_request_for_a_query_that_fails_is_answered_at_once(running: Cluster) -> None:
    status, body = get(running, "/live/broken")
    assert (status, body["reason"]) == (500, "failed")
    assert "division" in body["detail"]


async def test_server_sent_events_carry_ids_and_resume(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    async with server_sent(running, "/live/stock?shelf=a&limit=8") as events:
        name, version, payload = await anext(events)
        assert (name, payload["version"]) == ("snapshot", version)
        stock.execute("update stock set n = n + 1 where id = 1")
        name, newer, payload = await anext(events)
        assert (name, payload["version"], payload["base"]) == ("delta", newer, version)
        async with server_sent(running, "/live/stock?shelf=a&limit=8", version) as others:
            name, again, payload = await anext(others)
            assert (name, again, payload["base"]) == ("delta", newer, version)


@contextlib.asynccontextmanager
async def server_sent(
    running: Cluster, path: str, last: str | None = None
) -> AsyncIterator[AsyncIterator[tuple[str, str, Any]]]:
    """Yield (name, id, data) of each event but `status`, by which a slow first result is reported as stale."""
    host, _, port = running.gateway(0).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    resume = f"Last-Event-ID: {last}\r\n" if last is not None else ""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{resume}\r\n".encode())

    async def events() -> AsyncGenerator[tuple[str, str, Any], None]:
        fields: dict[str, str] = {}
        async for line in reader:
            name, colon, value = line.decode().rstrip("\r\n").partition(": ")
            if colon and name in ("event", "id", "data"):
                fields[name] = value
            elif not line.strip() and "data" in fields:
                if fields["event"] != "status":
                    yield fields["event"], fields["id"], orjson.loads(fields["data"])
                fields = {}

    try:
        async with asyncio.timeout(20), contextlib.aclosing(events()) as found:
            yield found
    finally:
        writer.close()
