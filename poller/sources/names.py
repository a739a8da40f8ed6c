"""The name that a connection shows to its server."""

from __future__ import annotations


def application_name(node: str, query: str = "") -> str:
    """Return the name of a connection, in at most 63 bytes; the node is shortened before the query."""
    tail = f" {query}" if query else ""
    return f"pollcast {node}"[: max(12, 63 - len(tail))] + tail
