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
from pollcast.services.process.origins import DEFAULT_PORTS, matches, normal
from pollcast.services.process.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """The web pages that may use a gateway.

    `origins` are patterns of services/process/origins.py; pages of the gateway's own host are allowed beside them.
    `names` are the host names that pages may reach it by, besides IP addresses and names that nobody can register; None
    allows all. `local` allows the pages of every port of this machine as well.
    """

    origins: tuple[str, ...] = ()
    names: frozenset[str] | None = None
    local: bool = False

    @classmethod
    def of(cls, settings: GatewaySettings, *, local: bool = False) -> Self:
        """Return the policy that the settings describe, with or without all pages of this machine."""
        if settings.auth == "none" or settings.tokens_required:
            return cls(settings.origins, local=local)
        named = {_hostname(urlsplit(origin).netloc) for origin in settings.origins}
        return cls(settings.origins, frozenset(named | {(settings.advertise or "").lower()}), local)

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
        origin = normal(origin)
        scheme, _, authority = origin.partition("://")
        standard = DEFAULT_PORTS.get(scheme, "")
        own = host.strip().lower().removesuffix(standard)
        if standard and own and authority == own:
            return True
        if self.local and standard and is_local(_hostname(authority)):
            return True
        return any(matches(origin, pattern) for pattern in self.origins)

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


def is_local(name: str) -> bool:
    """Return whether a name or an address of a host means this machine, wherever it is used."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _hostname(authority: str) -> str:
    """Return the host of an authority: `Example.org:80` → `example.org`, `[::1]:80` → `::1`."""
    authority = authority.strip().lower()
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]
