"""Traces of changes on their way: poll → diff → feed → socket. They need the extra `tracing` and a collector.

`start` enables them for the process when OpenTelemetry's OTEL_EXPORTER_OTLP_ENDPOINT (or its …_TRACES_ENDPOINT) is set;
otherwise nothing is imported and `on`, the only thing that polling and fan-out read, stays False. A trace is one change
of one topic. Its id is computed from topic, epoch and seq, which poller and gateways know anyway: the Feed carries no
trace ids, and all processes agree which traces are sampled (OTEL_TRACES_SAMPLER_ARG, a ratio; default 0.01). Spans are
exported in the background; an unreachable collector delays nothing. No span holds a topic's parameters.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from pollcast.services.process import logs

log = logs.get_logger("tracing")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Environment variables that name a collector; either of them enables tracing."""

RATIO = "OTEL_TRACES_SAMPLER_ARG"
"""Environment variable with the ratio of traces that are sampled."""

DEFAULT_RATIO = 0.01

on = False
"""True while tracing is enabled in this process."""

_spans: Any = None  # a Spans while tracing is enabled


def trace_id(topic: str, epoch: int, seq: int) -> int:
    """Return the trace id of one change, the same in every process. It is never 0."""
    digest = hashlib.blake2b(f"{topic} {epoch}-{seq}".encode(), digest_size=16).digest()
    return int.from_bytes(digest, "big") or 1


def root_span(trace: int) -> int:
    """Return the id of a trace's root span, the poll: the upper half of the trace id. It is never 0."""
    return trace >> 64 or 1


def is_sampled(trace: int, ratio: float) -> bool:
    """Return whether a trace is sampled, by the lower half of its id, as OpenTelemetry's TraceIdRatioBased does."""
    return (trace & (1 << 64) - 1) < ratio * (1 << 64)


def start(role: str, node: str) -> None:
    """Enable tracing for this process if the environment names a collector."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("tracing is off: install pollcast[tracing]")
        return
    try:
        ratio = float(os.environ.get(RATIO) or DEFAULT_RATIO)
    except ValueError:
        log.warning("not a number, using the default", variable=RATIO, default=DEFAULT_RATIO)
        ratio = DEFAULT_RATIO
    start_with(BatchSpanProcessor(OTLPSpanExporter()), role, node, ratio)
    log.info("tracing", ratio=ratio)


def start_with(processor: Any, role: str, node: str, ratio: float) -> None:
    """Enable tracing with any SpanProcessor of the OpenTelemetry SDK."""
    global on, _spans
    _spans = Spans(processor, role, node, ratio)
    on = True


def stop() -> None:
    """Export the remaining spans and disable tracing."""
    global on, _spans
    if _spans is not None:
        _spans.provider.shutdown()
    on, _spans = False, None


def polled(query: str, topic: str, epoch: int, seq: int, times: tuple[int, int, int, int]) -> None:
    """Record the poll that found a change. Call it only while `on`.

    `times` are in microseconds since the Unix epoch: the poll's start, the database's answer, the end of computing the
    delta, and the end of passing it to the feeds.
    """
    trace = trace_id(topic, epoch, seq)
    if is_sampled(trace, _spans.ratio):
        began, answered, compared, fed = times
        attributes = {"pollcast.query": query, "pollcast.epoch": epoch, "pollcast.seq": seq}
        _spans.root(trace, "poll", began, answered, attributes)
        _spans.child(trace, "diff", answered, compared, attributes)
        _spans.child(trace, "feed", compared, fed, attributes)


def pushed(query: str, topic: str, epoch: int, seq: int, times: tuple[int, int], clients: int) -> None:
    """Record that a gateway wrote a change to so many clients. Call it only while `on`.

    `times` are in microseconds since the Unix epoch: the arrival of the change and the end of writing it.
    """
    trace = trace_id(topic, epoch, seq)
    if is_sampled(trace, _spans.ratio):
        attributes = {
            "pollcast.query": query,
            "pollcast.epoch": epoch,
            "pollcast.seq": seq,
            "pollcast.clients": clients,
        }
        _spans.child(trace, "socket", *times, attributes)


class Spans:
    """A maker of spans whose times and ids are known already."""

    def __init__(self, processor: Any, role: str, node: str, ratio: float) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        class TraceIds(RandomIdGenerator):
            """A generator that gives the ids of `root` to the root span, and random ids to all others."""

            root = 0
            """The trace id while its root span is being made, else 0."""

            def generate_trace_id(self) -> int:
                return self.root or super().generate_trace_id()

            def generate_span_id(self) -> int:
                return root_span(self.root) if self.root else super().generate_span_id()

        self.ratio = ratio
        self._api = trace
        self._ids = TraceIds()
        self.provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({"service.name": f"pollcast-{role}", "service.instance.id": node}),
            id_generator=self._ids,
        )
        self.provider.add_span_processor(processor)
        self._tracer = self.provider.get_tracer("pollcast")

    def root(self, trace: int, name: str, began: int, ended: int, attributes: dict[str, Any]) -> None:
        """Record the root span of a trace. Times are in microseconds since the Unix epoch."""
        self._ids.root = trace
        try:
            empty = self._api.set_span_in_context(self._api.INVALID_SPAN)
            span = self._tracer.start_span(name, context=empty, attributes=attributes, start_time=began * 1000)
        finally:
            self._ids.root = 0
        span.end(ended * 1000)

    def child(self, trace: int, name: str, began: int, ended: int, attributes: dict[str, Any]) -> None:
        """Record a span below the root span, which another process may have recorded."""
        flags = self._api.TraceFlags(self._api.TraceFlags.SAMPLED)
        parent = self._api.SpanContext(trace, root_span(trace), is_remote=True, trace_flags=flags)
        context = self._api.set_span_in_context(self._api.NonRecordingSpan(parent))
        span = self._tracer.start_span(name, context=context, attributes=attributes, start_time=began * 1000)
        span.end(ended * 1000)
