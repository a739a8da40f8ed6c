"""Wall-clock times: microseconds since the Unix epoch inside the process, RFC 3339 in UTC outside of it.

Durations and deadlines are measured with the monotonic clock instead.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_us() -> int:
    """Return the current time in microseconds since the Unix epoch."""
    return time.time_ns() // 1000


def rfc3339(us: int) -> str:
    """Format a time in microseconds since the Unix epoch: `1767225600123456` → `"2026-01-01T00:00:00.123456Z"`."""
    seconds, microseconds = divmod(us, 1_000_000)
    return f"{_second(seconds)}.{microseconds:06d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    """Format whole seconds since the Unix epoch, without a zone. Most calls meet one of the last few seconds."""
    return (EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def now_rfc3339() -> str:
    """Return the current time as RFC 3339."""
    return rfc3339(now_us())
