"""`poke` of the Python client: the request that it sends, and the errors that it raises."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pollcast_client import Client, Refused, Watch, poke, topic
from pollcast_client.poking import poke_path


class Gateway:
    """An HTTP server that answers each request with `status` and `body`, and keeps what was asked."""

    def __init__(self) -> None:
        self.status, self.body = 202, b'{"topics": 2}'
        self.asked: list[tuple[str, str | None]] = []
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                gateway.asked.append((self.path, self.headers["Authorization"]))
                self.send_response(gateway.status)
                self.end_headers()
                self.wfile.write(gateway.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A running server."""
    gateway = Gateway()
    thread = threading.Thread(target=gateway.server.serve_forever)
    thread.start()
    yield gateway
    gateway.server.shutdown()
    thread.join()
    gateway.server.server_close()


async def test_a_poke_names_its_topic_and_token_and_returns_the_number_of_topics(gateway: Gateway) -> None:
    async def fresh() -> str:
        return "t0k"

    assert await poke(topic("orders", region="a b"), url=gateway.url) == 2
    assert await poke("orders", url=f"{gateway.url}/below/socket", token=fresh) == 2
    async with Watch(url=gateway.url, token="own") as watching:
        assert await watching.poke("live:orders?a=1") == 2
    with Client(gateway.url) as client:
        assert await asyncio.to_thread(client.poke, "orders") == 2
    assert gateway.asked == [
        ("/poke/orders?region=a+b", None),
        ("/below/poke/orders", "Bearer t0k"),
        ("/poke/orders?a=1", "Bearer own"),
        ("/poke/orders", None),
    ]
    with pytest.raises(RuntimeError, match="closed"):
        client.poke("orders")


async def test_a_refusal_has_the_gateways_reason_and_other_answers_are_no_gateways(gateway: Gateway) -> None:
    gateway.status, gateway.body = 403, b'{"reason": "forbidden", "detail": "no role"}'
    with pytest.raises(Refused, match="orders: forbidden: no role") as refused:
        await poke("orders", url=gateway.url)
    assert (refused.value.reason, refused.value.detail, refused.value.topic) == ("forbidden", "no role", "orders")
    for gateway.status, gateway.body in ((502, b"<html>"), (202, b"[]"), (404, b"5"), (202, b'{"topics": "x"}')):
        with pytest.raises(ConnectionError, match=f"answered {gateway.status}"):
            await poke("orders", url=gateway.url)


async def test_a_gateway_that_is_not_there_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(OSError, match="timed out"):
            await poke("orders", url=f"127.0.0.1:{port}", timeout=0.05)
    with pytest.raises(OSError, match="refused"):
        await poke("orders", url=f"127.0.0.1:{port}")
    with pytest.raises(ValueError, match="address of a gateway"):
        await poke("orders", url="ftp://x")


@pytest.mark.parametrize(
    ("spelling", "path"),
    [
        ("live:orders?a=b%20c&d=e+f", "/poke/orders?a=b%20c&d=e+f"),
        ("../x y\r\n?a=\r\nHost: b", "/poke/..%2Fx%20y%0D%0A?a=%0D%0AHost:%20b"),
        ("orders?a=é", "/poke/orders?a=%C3%A9"),
    ],
)
def test_a_topic_becomes_a_path(spelling: str, path: str) -> None:
    assert poke_path(spelling) == path
