"""Traces: one per change, with the same id in every process, and no import of OpenTelemetry without a collector."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pollcast.services.process import tracing
from tests.support.client import Client
from tests.support.waiting import eventually
from tests.support.world import start_world

Span = tuple[str, bytes, bytes, bytes]
"""A span: its name, and the ids of its trace, of itself and of its parent."""


class Collector(ThreadingHTTPServer):
    """An OTLP collector that keeps the spans it receives."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CollectorRequest)
        self.spans: dict[str, list[Span]] = {}  # by service.name

    def of(self, role: str, name: str) -> dict[bytes, tuple[bytes, bytes]]:
        """Return the ids of the span and its parent, by trace id, for all spans of this name that the role sent."""
        spans = self.spans.get(f"pollcast-{role}", [])
        return {trace: (span, parent) for found, trace, span, parent in spans if found == name}

    def names(self, role: str) -> set[str]:
        """Return the names of the spans that the role sent."""
        return {name for name, *_ in self.spans.get(f"pollcast-{role}", [])}


class CollectorRequest(BaseHTTPRequestHandler):
    """One request to the collector."""

    server: Collector

    def do_POST(self) -> None:
        """Store the spans in the request."""
        import gzip

        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            for scope in resource.scope_spans:
                spans = [(span.name, span.trace_id, span.span_id, span.parent_span_id) for span in scope.spans]
                self.server.spans.setdefault(named["service.name"], []).extend(spans)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that is listening."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_a_change_is_one_trace_from_the_poll_to_the_socket(
    collector: Collector,
    tmp_path: Path,
    etcd_endpoint: str,
    namespace: str,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    async with start_world(tmp_path, [etcd_endpoint], database, namespace) as world:
        await world.start_all(pollers=1, gateways=1)
        async with Client.open(await world.http("gateway-1")) as client:
            await client.join("tick?n=1")
            await eventually(lambda: collector.of("gateway", "socket").keys() & collector.of("poller", "poll").keys())
            await eventually(lambda: collector.names("poller") >= {"poll", "diff", "feed"})
        polls = collector.of("poller", "poll")
        for name, role in (("diff", "poller"), ("feed", "poller"), ("socket", "gateway")):
            for trace, (_, parent) in collector.of(role, name).items():
                assert trace not in polls or parent == polls[trace][0]
        assert collector.names("poller") == {"poll", "diff", "feed"}


def test_the_spans_of_a_change_share_one_trace_and_hold_no_parameter() -> None:
    kept = InMemorySpanExporter()
    tracing.start_with(SimpleSpanProcessor(kept), "poller", "poller-1", 1.0)
    try:
        tracing.polled("orders", "orders?tenant=secret", 7, 3, (10, 20, 30, 40))
        tracing.pushed("orders", "orders?tenant=secret", 7, 3, (50, 60), 12)
    finally:
        tracing.stop()
    poll, diff, feed, socket = kept.get_finished_spans()
    assert [span.name for span in (poll, diff, feed, socket)] == ["poll", "diff", "feed", "socket"]
    assert poll.context is not None
    assert poll.context.trace_id == tracing.trace_id("orders?tenant=secret", 7, 3)
    assert poll.parent is None
    for span in (diff, feed, socket):
        assert span.parent is not None
        assert span.parent.span_id == poll.context.span_id
    assert (poll.start_time, poll.end_time, socket.end_time) == (10_000, 20_000, 60_000)
    assert "secret" not in "".join(span.to_json() for span in (poll, diff, feed, socket))
    assert not tracing.on


@given(st.text(), st.integers(0), st.integers(0), st.floats(0, 1), st.floats(0, 1))
def test_a_trace_sampled_at_a_ratio_is_sampled_at_every_higher_ratio(
    topic: str, epoch: int, seq: int, some: float, more: float
) -> None:
    trace = tracing.trace_id(topic, epoch, seq)
    some, more = sorted((some, more))
    assert not tracing.is_sampled(trace, some) or tracing.is_sampled(trace, more)
    assert tracing.is_sampled(trace, 1.0)
    assert not tracing.is_sampled(trace, 0.0)
    assert 0 < trace < 1 << 128
    assert 0 < tracing.root_span(trace) < 1 << 64


def test_opentelemetry_is_imported_only_if_the_environment_names_a_collector() -> None:
    code = (
        "import sys, pollcast.services.cli.main, pollcast.gateway.service, pollcast.poller.service\n"
        "from pollcast.services.process import tracing\n"
        "tracing.start('gateway', 'g')\n"
        "assert not tracing.on\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
