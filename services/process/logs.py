"""Structured logs: one event per line on stderr, coloured on a terminal and JSON elsewhere.

Events are short phrases in lower case. Variable parts go into fields (`topic`, `epoch`, `node`, …) that are named as in
docs/reference/README.md#vocabulary. Never log a token, a password, SQL, or a payload: process.redaction hides those
that slip through, and the values of claims in topics, once a service has passed its catalogue to `hide_claims_of`.

Logging never ends a service: a line that stderr does not accept (its reader is gone, the disk is full) is lost.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, cast

import structlog

from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.process.redaction import Redaction

_redaction = Redaction({})


def hide_claims_of(catalog: Catalog) -> None:
    """Show all values in logged topics of these queries but those of claim-bound parameters.

    Before this call, and for any other query, every value in a logged topic is hidden.
    """
    global _redaction
    _redaction = Redaction.of(catalog)


def _hide(_: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Redact every field of a line: a processor for structlog."""
    return {name: _redaction.value(value) for name, value in event.items()}


class LossyStream:
    """A text stream that drops text it cannot write instead of raising an error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text or drop it; return its length."""
        with _dropping(self._stream):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream or drop its buffer."""
        with _dropping(self._stream):
            self._stream.flush()


@functools.cache
def _null_stream() -> TextIO:
    """Return a stream to the null device, the same at each call."""
    return Path(os.devnull).open("w")


@contextlib.contextmanager
def _dropping(stream: TextIO) -> Iterator[None]:
    """Ignore errors of writing in the body: there is no other place to report them."""
    try:
        yield
    except BrokenPipeError:  # the reader is gone for good: discard the buffer and all later lines
        os.dup2(_null_stream().fileno(), stream.fileno())
    except OSError:  # a full disk or a closed terminal: discard the buffer; the next line may succeed
        _discard_buffer(stream)


def _discard_buffer(stream: TextIO) -> None:
    """Empty the stream's buffer: what stays in it would fail the flush at exit, and so change the exit status."""
    descriptor = stream.fileno()
    kept = os.dup(descriptor)
    try:
        os.dup2(_null_stream().fileno(), descriptor)
        stream.flush()
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def configure(*, level: int = logging.INFO, **bound: str) -> None:
    """Set up logging; call it once per process. The fields in `bound` (role, node) are added to every line."""
    stderr = sys.stderr if sys.stderr is not None else _null_stream()  # None: the process was started without stderr
    tty = stderr.isatty()
    stream = LossyStream(stderr)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if tty
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, _hide, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, stream)),
    )
    structlog.contextvars.bind_contextvars(**bound)
    # Libraries log through the standard library: their warnings and errors take the same form.
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[*shared, structlog.processors.format_exc_info, _hide],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return a logger that adds `name`, the module's concern in one word, to every line as `component`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return logger
