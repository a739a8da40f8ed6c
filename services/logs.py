"""Structured logs: one event per line on stderr, coloured on a terminal and JSON elsewhere.

Events are short phrases in lower case; what varies goes into fields (`topic`, `epoch`, `node`, …) named as CONTRACT.md
§1 does. Never log a token, a password, SQL, or a payload; services.redaction hides what slips through, and what a
topic holds of a token's claims, as the catalogue says once a service has given it to `hide_claims_of`.
"""

from __future__ import annotations

import logging
import sys

import structlog

from services.catalog import Catalog
from services.redaction import Redaction

_redaction = Redaction({})


def hide_claims_of(catalog: Catalog) -> None:
    """From now on topics of these queries are logged without the values of their claim-bound parameters only; until
    then, and of other queries, without any value."""
    global _redaction
    _redaction = Redaction.of(catalog)


def _hide(_: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {name: _redaction.value(value) for name, value in event.items()}


def configure(*, level: int = logging.INFO, **bound: str) -> None:
    """Call once per process. `bound` fields (role, node) stand on every line."""
    tty = sys.stderr.isatty()
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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(**bound)
    # Libraries log through the standard library: warnings and worse, in the same form.
    handler = logging.StreamHandler(sys.stderr)
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
