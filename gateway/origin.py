"""The web pages that may use a gateway: POLLCAST_ORIGINS (docs/reference/security.md#origins). Pure.

Browsers send a page's origin in the `Origin` header. A page that gets its own name to point at this machine (DNS
rebinding) has the same origin as its target, and only the Host header gives it away. So a gateway that is bound to
loopback, asks for no tokens and has no explicit POLLCAST_AUTH lets pages in only by names of this machine. A client
that sends no `Origin` is no web page, and is allowed.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from pollcast.services.errors import Forbidden
from pollcast.services.process.settings import GatewaySettings

DEFAULT_PORTS = {"http": ":80", "https": ":443"}
"""Ports by scheme, as an Origin or a Host may end with them."""


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """The web pages that may use a gateway.

    `origins` are the allowed Origins in lower case, such as `https://example.org`; `*` allows all, and an empty tuple
    only the gateway's own host. `names` are the host names that pages may reach it by, besides IP addresses and names
    that nobody can register; None allows all.
    """

    origins: tuple[str, ...] = ()
    names: frozenset[str] | None = None

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        """Return the policy that the settings describe."""
        if settings.auth == "none" or settings.tokens_required:
            return cls(settings.origins)
        named = {_hostname(urlsplit(origin).netloc) for origin in settings.origins}
        return cls(settings.origins, frozenset(named | {(settings.advertise or "").lower()}))

    def check(self, origin: str | None, host: str) -> None:
        """Raise Forbidden for a page that may not use this gateway.

        `origin` and `host` are the request's headers; without an Origin, the client is no browser.
        """
        if origin is not None and not self.allow_host(host):
            raise Forbidden("this gateway is for this machine only, and does not go by that name: see POLLCAST_AUTH")
        if not self.allow_origin(origin, host):
            raise Forbidden("pages of this Origin are not allowed: name it in POLLCAST_ORIGINS")

    def allow_origin(self, origin: str | None, host: str) -> bool:
        """Return whether pages of this Origin are allowed."""
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
        """Return whether pages may reach the gateway by this host name."""
        if self.names is None or not host:
            return True
        name = _hostname(host)
        # Nobody can register a name without a dot.
        if "." not in name.rstrip(".") or name.endswith(".localhost") or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _hostname(authority: str) -> str:
    """Return the host of an authority: `Example.org:80` → `example.org`, `[::1]:80` → `::1`."""
    authority = authority.strip().lower()
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]
