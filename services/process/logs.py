"""Structured logs: one event per line on stderr, coloured on a terminal and JSON elsewhere.

Events are short phrases in lower case; what varies goes into fields (`topic`, `epoch`, `node`, …) named as CONTRACT.md
§1 does. Never log a token, a password, SQL, or a payload; process.redaction hides what slips through, and what a
topic holds of a token's claims, as the catalogue says once a service has given it to `hide_claims_of`.

Logging never ends a service: a line that stderr does not take (its reader is gone, the disk is full) is lost.
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
    """From now on topics of these queries are logged without the values of their claim-bound parameters only; until
    then, and of other queries, without any value."""
    global _redaction
    _redaction = Redaction.of(catalog)


def _hide(_: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {name: _redaction.value(value) for name, value in event.items()}


class Lines:
    """A stream that loses what it can't write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _losing(self._stream):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _losing(self._stream):
            self._stream.flush()


@functools.cache
def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


@contextlib.contextmanager
def _losing(stream: TextIO) -> Iterator[None]:
    """What the body can't write is lost: there is nowhere left to say so."""
    try:
        yield
    except BrokenPipeError:  # for good, as nobody can read the other end any more; also for what is still buffered
        os.dup2(_nowhere().fileno(), stream.fileno())
    except OSError:  # a full disk, or a terminal that has gone: perhaps the next line
        return


def configure(*, level: int = logging.INFO, **bound: str) -> None:
    """Call once per process. `bound` fields (role, node) stand on every line."""
    stderr = sys.stderr if sys.stderr is not None else _nowhere()  # it was closed when we were started
    tty = stderr.isatty()
    lines = Lines(stderr)
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
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, lines)),
    )
    structlog.contextvars.bind_contextvars(**bound)
    # Libraries log through the standard library: warnings and worse, in the same form.
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[*shared, structlog.processors.format_exc_info, _hide],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """`name` is the module's concern in one word; it stands on every line as `component`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return logger
