"""Rows of a result with the key `id` and one value."""

from __future__ import annotations

from pollcast.services.delta import Row


def row(key: int, value: int) -> Row:
    """Return one row."""
    return b"[%d]" % key, b'{"id":%d,"v":%d}' % (key, value)


def rows(*pairs: tuple[int, int]) -> list[Row]:
    """Return a row for each pair of key and value."""
    return [row(key, value) for key, value in pairs]
