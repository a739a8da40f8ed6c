"""The page of a gateway, its placeholder, and the parts of its cluster overview: node metrics and takeovers."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pollcast.gateway.node_metrics import read_totals, sum_samples
from pollcast.gateway.page import Page
from pollcast.gateway.takeovers import LAPSE_SECONDS, Takeovers
from pollcast.services.serving.web import serve_app

AT = "2026-01-01T00:00:00Z"


async def get(address: str, path: str, encoding: str = "identity") -> tuple[str, dict[str, str], bytes]:
    """Return the status line, the headers with lower-case names, and the body."""
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept-Encoding: {encoding}\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    status, *lines = head.decode().split("\r\n")
    return status, {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}, body


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder with a built page."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html><title>built</title>")
    (tmp_path / "assets" / "index-abc.js").write_text("let x = 1\n" * 1000)
    (tmp_path / "icon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return tmp_path


async def test_a_page_that_is_not_built_is_replaced_by_plain_html(tmp_path: Path) -> None:
    async with serve_app(Starlette(routes=list(Page.load(tmp_path).routes())), "127.0.0.1:0") as (host, port):
        status, headers, body = await get(f"{host}:{port}", "/")
    assert " 200 " in status
    assert headers["content-type"].startswith("text/html")
    assert b"make page" in body
    assert b"<script" not in body


async def test_the_built_page_has_a_strict_policy_and_its_assets_are_cached_forever(built: Path) -> None:
    async with serve_app(Starlette(routes=list(Page.load(built).routes())), "127.0.0.1:0") as (host, port):
        address = f"{host}:{port}"
        _, headers, body = await get(address, "/")
        assert b"built" in body
        assert headers["cache-control"] == "no-cache"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        _, headers, body = await get(address, "/assets/index-abc.js", "gzip")
        assert headers["content-type"].startswith("text/javascript")
        assert headers["content-encoding"] == "gzip"
        assert "immutable" in headers["cache-control"]
        assert gzip.decompress(body) == b"let x = 1\n" * 1000
        assert (await get(address, "/icon.svg"))[1]["content-type"] == "image/svg+xml"
        for path in ("/index.html", "/assets/../index.html", "/assets/other.js", "/../pyproject.toml"):
            assert " 404 " in (await get(address, path))[0]


def test_a_metric_is_summed_over_its_labels() -> None:
    text = '# HELP polls_total x\npolls_total{query="a b",outcome="x"} 2.0\npolls_total{query="c"} 3\npolls_created 7\n'
    assert sum_samples(text, "poller-1", ("polls_total", "sockets")) == {"polls_total": 5.0, "sockets": 0.0}


def test_a_sample_of_another_worker_is_not_counted() -> None:
    text = 'sockets{node="gateway.1"} 2\nsockets{node="gateway.10"} 3\nsockets{node="gateway.2",kind="x"} 4\n'
    assert sum_samples(text, "gateway.1", ("sockets",)) == {"sockets": 2.0}
    assert sum_samples(text, "gateway.2", ("sockets",)) == {"sockets": 4.0}


async def test_a_node_that_does_not_answer_or_answers_an_error_has_no_metrics() -> None:
    async def broken(_: Request) -> Response:
        return Response("sockets 1\n", status_code=500)

    async with serve_app(Starlette(routes=[Route("/metrics", broken)]), "127.0.0.1:0") as (host, port):
        assert await read_totals(f"{host}:{port}", "gateway-1", ("sockets",)) is None
    assert await read_totals(f"{host}:{port}", "gateway-1", ("sockets",)) is None


def seen(takeovers: Takeovers) -> list[tuple[str, str, str, float]]:
    """Return (topic, before, after, gap) of the latest takeovers."""
    return [(each.topic, each.before, each.after, each.gap) for each in takeovers.latest()]


def test_a_hand_over_has_no_gap_and_a_takeover_after_a_death_has_one() -> None:
    takeovers = Takeovers()
    takeovers.owned("a", "one", 0.0, AT)
    takeovers.owned("a", "two", 1.0, AT)
    takeovers.owned("a", None, 2.0, AT)
    takeovers.owned("a", "one", 2.5, AT)
    assert seen(takeovers) == [("a", "two", "one", 0.5), ("a", "one", "two", 0.0)]


def test_a_new_topic_a_returning_owner_and_a_long_released_topic_are_no_takeovers() -> None:
    takeovers = Takeovers()
    takeovers.owned("a", None, 0.0, AT)
    takeovers.owned("a", "one", 0.0, AT)
    takeovers.owned("a", "one", 0.5, AT)  # an operator's delete that was missed: another key with the same owner
    takeovers.owned("a", None, 1.0, AT)
    takeovers.owned("a", "one", 1.1, AT)
    takeovers.owned("a", None, 2.0, AT)
    takeovers.owned("b", "one", 3.0, AT)
    takeovers.owned("b", None, 3.0 + LAPSE_SECONDS, AT)
    takeovers.owned("a", "two", 3.0 + LAPSE_SECONDS, AT)
    assert seen(takeovers) == []


async def test_a_second_page_has_an_address_without_suffix_and_may_show_images_of_its_style_sheet(built: Path) -> None:
    (built / "api").mkdir()
    (built / "api" / "docs.html").write_text("<!doctype html><title>interface</title>")
    async with serve_app(Starlette(routes=list(Page.load(built).routes())), "127.0.0.1:0") as (host, port):
        _, headers, body = await get(f"{host}:{port}", "/api/docs")
        assert b"interface" in body
        assert headers["content-type"].startswith("text/html")
        assert "img-src 'self' data:;" in headers["content-security-policy"]
        assert "script-src 'self';" in headers["content-security-policy"]
        _, headers, _ = await get(f"{host}:{port}", "/")
        assert "data:" not in headers["content-security-policy"]
