"""Origins of web pages, as POLLCAST_ORIGINS lists them (docs/reference/security.md#origins). Pure.

An origin is a scheme, a host and perhaps a port, in lower case, without the port that its scheme has by default:
`https://app.example.org`. A pattern is an origin, or `https://*.example.org` for every host below `example.org`.
"""

from __future__ import annotations

import re
from typing import Final

from pollcast.services.process.addresses import split_host_port

DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
"""Ports by scheme, as an Origin or a Host may end with them."""

ANY_BELOW: Final = "*."
"""Beginning of the host in a pattern that allows every host below the rest."""

_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@\s]+)")

_LABELS: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def normal(origin: str) -> str:
    """Return an Origin, of a header or of a setting, in the form in which origins are compared."""
    origin = origin.strip().lower().removesuffix("/")
    return origin.removesuffix(DEFAULT_PORTS.get(origin.partition("://")[0], ""))


def checked(text: str) -> str:
    """Return the pattern that a setting spells. Raises ValueError, which says what would be right."""
    found = _ORIGIN.fullmatch(text.strip().lower().removesuffix("/"))
    if found is None:
        if "*" in text:
            raise _misplaced(text)
        raise ValueError(f"{text!r} is not an origin: write https://example.org, with a port if it has one")
    authority = found[2]
    host = authority.removeprefix(ANY_BELOW)
    if "*" in host or ("." not in host and host != authority):
        raise _misplaced(text)
    if not text.isascii():
        raise ValueError(f"{text!r} never matches: write the host as browsers send it, in punycode (xn--…)")
    if ":" in host:
        try:
            split_host_port(host if not host.endswith("]") else f"{host}:0")
        except ValueError:
            raise ValueError(f"{text!r} is not an origin: {host!r} is not host:port") from None
    return normal(text)


def matches(origin: str, pattern: str) -> bool:
    """Return whether an origin, in the form of `normal`, fits a pattern."""
    before, star, below = pattern.partition(f"//{ANY_BELOW}")
    if not star:
        return origin == pattern
    start, end = f"{before}//", f".{below}"
    return origin.startswith(start) and origin.endswith(end) and bool(_LABELS.fullmatch(origin[len(start) : -len(end)]))


def _misplaced(text: str) -> ValueError:
    return ValueError(
        f"{text!r} is not allowed: * stands for the hosts below one, as in https://*.example.org; "
        "list every other origin by itself"
    )
