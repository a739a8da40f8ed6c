"""Traces of changes, poll → diff → feed → socket, for who installs the extra `tracing` and names a collector.

`start` switches them on for the process when OpenTelemetry's own OTEL_EXPORTER_OTLP_ENDPOINT (or its …_TRACES_ENDPOINT)
is set; without that nothing is imported and `on` stays False, which is all that the way of a row looks at. A trace is
one change of one topic. Its number is made from topic, epoch and seq, which poller and gateways know anyway: nothing
travels with the updates, and all agree which traces are kept (OTEL_TRACES_SAMPLER_ARG, a ratio; default 0.01). Spans
are sent in the background; a collector that is not there costs nobody anything. No span holds a topic's parameters.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from pollcast.services.process import logs

log = logs.get_logger("tracing")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

RATIO = "OTEL_TRACES_SAMPLER_ARG"

KEPT_RATIO = 0.01

on = False
_spans: Any = None  # a Spans, once started


def trace_id(topic: str, epoch: int, seq: int) -> int:
    """Of one change, the same wherever it is asked for. Never 0."""
    digest = hashlib.blake2b(f"{topic} {epoch}-{seq}".encode(), digest_size=16).digest()
    return int.from_bytes(digest, "big") or 1


def root_span(trace: int) -> int:
    """The span of the poll, which all others hang on: the upper half of the trace's number. Never 0."""
    return trace >> 64 or 1


def is_kept(trace: int, ratio: float) -> bool:
    """By the lower half, as OpenTelemetry's TraceIdRatioBased does."""
    return (trace & (1 << 64) - 1) < ratio * (1 << 64)


def start(role: str, node: str) -> None:
    """Switches tracing on for this process, when it was asked for."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("no traces: install pollcast[tracing]")
        return
    try:
        ratio = float(os.environ.get(RATIO) or KEPT_RATIO)
    except ValueError:
        log.warning("not a number", variable=RATIO)
        ratio = KEPT_RATIO
    start_with(BatchSpanProcessor(OTLPSpanExporter()), role, node, ratio)
    log.info("tracing", ratio=ratio)


def start_with(processor: Any, role: str, node: str, ratio: float) -> None:
    """With any SpanProcessor of the SDK."""
    global on, _spans
    _spans = Spans(processor, role, node, ratio)
    on = True


def stop() -> None:
    """Sends what is left, and switches off."""
    global on, _spans
    if _spans is not None:
        _spans.provider.shutdown()
    on, _spans = False, None


def polled(query: str, topic: str, epoch: int, seq: int, times: tuple[int, int, int, int]) -> None:
    """A poll found a change. `times` in microseconds since the Unix epoch: its start, its answer, when the difference
    was made, and when it was handed to the feeds. Call only while `on`."""
    trace = trace_id(topic, epoch, seq)
    if is_kept(trace, _spans.ratio):
        began, answered, compared, fed = times
        what = {"pollcast.query": query, "pollcast.epoch": epoch, "pollcast.seq": seq}
        _spans.root(trace, "poll", began, answered, what)
        _spans.child(trace, "diff", answered, compared, what)
        _spans.child(trace, "feed", compared, fed, what)


def pushed(query: str, topic: str, epoch: int, seq: int, times: tuple[int, int], clients: int) -> None:
    """A gateway got the change and wrote it to that many clients; `times` likewise. Call only while `on`."""
    trace = trace_id(topic, epoch, seq)
    if is_kept(trace, _spans.ratio):
        what = {"pollcast.query": query, "pollcast.epoch": epoch, "pollcast.seq": seq, "pollcast.clients": clients}
        _spans.child(trace, "socket", *times, what)


class Spans:
    """Makes spans whose times and numbers are known already."""

    def __init__(self, processor: Any, role: str, node: str, ratio: float) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        class Numbers(RandomIdGenerator):
            """Gives a root the numbers that were made for it."""

            root = 0  # the trace whose root is being made

            def generate_trace_id(self) -> int:
                return self.root or super().generate_trace_id()

            def generate_span_id(self) -> int:
                return root_span(self.root) if self.root else super().generate_span_id()

        self.ratio = ratio
        self._api = trace
        self._numbers = Numbers()
        self.provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({"service.name": f"pollcast-{role}", "service.instance.id": node}),
            id_generator=self._numbers,
        )
        self.provider.add_span_processor(processor)
        self._tracer = self.provider.get_tracer("pollcast")

    def root(self, trace: int, name: str, began: int, ended: int, what: dict[str, Any]) -> None:
        """The span that gives the trace its number."""
        self._numbers.root = trace
        try:
            empty = self._api.set_span_in_context(self._api.INVALID_SPAN)
            span = self._tracer.start_span(name, context=empty, attributes=what, start_time=began * 1000)
        finally:
            self._numbers.root = 0
        span.end(ended * 1000)

    def child(self, trace: int, name: str, began: int, ended: int, what: dict[str, Any]) -> None:
        """A span under the root, which may be made elsewhere."""
        flags = self._api.TraceFlags(self._api.TraceFlags.SAMPLED)
        parent = self._api.SpanContext(trace, root_span(trace), is_remote=True, trace_flags=flags)
        context = self._api.set_span_in_context(self._api.NonRecordingSpan(parent))
        span = self._tracer.start_span(name, context=context, attributes=what, start_time=began * 1000)
        span.end(ended * 1000)
