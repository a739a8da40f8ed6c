"""Compact copies of orjson's output. orjson (3.13) returns the buffer that it wrote to, which has at least 4 KiB."""

from __future__ import annotations


def compact(encoded: bytes) -> bytes:
    """Return the same bytes in memory of exactly their size. Use it for bytes that are kept, not for bytes that are
    written at once and dropped."""
    return b"%b" % encoded
