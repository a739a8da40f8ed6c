"""The spelling of a topic in a request's URL: what follows `?` in it reads as on a socket."""

from __future__ import annotations

import pytest

from pollcast.gateway.responses import topic_tail
from pollcast.services.catalogue.catalog import parse as parse_catalog
from pollcast.services.catalogue.topics import parse
from pollcast.services.errors import InvalidParams
from tests.support.door_server import Client, door_server

CATALOG = parse_catalog('[queries.x]\nsql = "select 1 as id"\n', "c.toml")


def test_a_question_mark_without_a_parameter_is_invalid_over_http_too() -> None:
    with door_server() as server, Client(server) as client:
        for path, valid in (("/hello", True), ("/hello#?", True), ("/hello?", False), ("/hello?&", False)):
            client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert client.head().startswith(b"HTTP/1.1 200")
            assert client.read(len("hello")) == b"hello"
            query = server.target.partition(b"?")[2].decode() if b"#" not in server.target else ""
            spelling = "x" + topic_tail(query, token=True, target=server.target)
            if valid:
                assert parse(spelling, CATALOG, {}).canonical == "x"
            else:
                with pytest.raises(InvalidParams, match="after '\\?' comes at least one"):
                    parse(spelling, CATALOG, {})


@pytest.mark.parametrize(
    ("query", "token", "tail"),
    [("", True, ""), ("a=1", True, "?a=1"), ("token=t", True, ""), ("token=t", False, "?token=t"), ("&", True, "?&")],
)
def test_the_token_is_not_part_of_the_topic_unless_the_query_has_a_parameter_of_that_name(
    query: str, token: bool, tail: str
) -> None:
    assert topic_tail(query, token=token, target=b"/live/x?" + query.encode() if query else b"/live/x") == tail
