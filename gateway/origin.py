"""Which web pages may talk to this gateway (CONTRACT.md §10, ORIGINS). Pure.

A browser tells by `Origin` whose page asks. A page that gets its own name to point at this machine (DNS rebinding) is
of the same origin as what it asks, and only the Host header gives it away: a gateway that nobody has decided on, which
is bound to loopback and asks for no tokens, therefore lets pages in by names of this machine only. What sends no Origin
is no page.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from pollcast.services.errors import Forbidden
from pollcast.services.process.settings import GatewaySettings

DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """`origins` in lower case, as `https://example.org`; `*` allows all; empty: only the gateway's own host. `names`
    are the hosts that it answers to besides addresses and those that are no DNS names; None: to any."""

    origins: tuple[str, ...] = ()
    names: frozenset[str] | None = None

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        if settings.auth == "none" or settings.tokens_required:
            return cls(settings.origins)
        named = {_hostname(urlsplit(origin).netloc) for origin in settings.origins}
        return cls(settings.origins, frozenset(named | {(settings.advertise or "").lower()}))

    def check(self, origin: str | None, host: str) -> None:
        """`origin` as the browser sent it (None: not a browser); `host` is the Host header. Raises Forbidden."""
        if origin is not None and not self.allow_host(host):
            raise Forbidden("this gateway is for this machine only, and does not go by that name: see POLLCAST_AUTH")
        if not self.allow_origin(origin, host):
            raise Forbidden("pages of this Origin are not allowed: name it in POLLCAST_ORIGINS")

    def allow_origin(self, origin: str | None, host: str) -> bool:
        if origin is None:
            return True
        origin = origin.strip().rstrip("/").lower()
        scheme, _, authority = origin.partition("://")
        standard = DEFAULT_PORTS.get(scheme, "")
        if self.origins:
            return "*" in self.origins or origin in self.origins or origin.removesuffix(standard) in self.origins
        own = host.strip().lower().removesuffix(standard)
        return bool(standard and own) and authority.removesuffix(standard) == own

    def allow_host(self, host: str) -> bool:
        if self.names is None or not host:
            return True
        name = _hostname(host)
        # Nobody can own a name without a dot.
        if "." not in name.rstrip(".") or name.endswith(".localhost") or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _hostname(authority: str) -> str:
    """`Example.org:80` → `example.org`, `[::1]:80` → `::1`."""
    authority = authority.strip().lower()
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]
