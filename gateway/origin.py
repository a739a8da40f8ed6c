"""Which web pages may talk to this gateway (CONTRACT.md §10, ORIGINS). Pure."""

from __future__ import annotations

from urllib.parse import urlsplit


def origin_allowed(origin: str | None, host: str, allowed: tuple[str, ...]) -> bool:
    """`origin` as the browser sent it (None: not a browser); `host` is the Host header, the gateway's own name.

    `allowed` are origins in lower case, as `https://example.org`; `*` allows all; empty: only the gateway's own host.
    """
    if origin is None:
        return True
    origin = origin.strip().rstrip("/").lower()
    if allowed:
        return "*" in allowed or origin in allowed
    parts = urlsplit(origin)
    return bool(parts.netloc) and parts.netloc == host.lower()
