"""Addresses as settings have them: `host:port`, the endpoints of etcd, and the host by which others reach a node. Pure.

Errors say what would be right, because they are shown to whoever wrote the setting
(docs/reference/settings.md#addresses).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Final

HostPort = str
"""An address as `host:port`. Port 0 lets the system choose a free one."""

NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?")
"""A name of a host, or an IPv4 address."""

SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
"""The beginning of a URL."""


OWN_PATHS: Final = frozenset(
    {"api", "assets", "healthz", "icon.svg", "live", "metrics", "openapi.json", "poke", "readyz", "socket"}
)
"""First segments of the paths that a gateway serves."""


def split_host_port(address: str) -> tuple[str, int]:
    """Split an address: `"[::1]:80"` → `("::1", 80)`. Raises ValueError for anything else than `host:port`."""
    address = address.strip()
    if SCHEME.match(address):
        raise ValueError(f"{address!r} is not host:port: write it without a scheme")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port")
    if not host:
        raise ValueError(f"{address!r} is not host:port: write 127.0.0.1:{port}, or [::]:{port} for every address")
    if _is_ipv6(host):
        raise ValueError(f"{address!r} is not host:port: write an IPv6 address in brackets, as in [::1]:2379")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not (_is_ipv6(bare) if bracketed else NAME.fullmatch(host)):
        raise ValueError(f"{address!r} is not host:port: {host!r} is neither a name nor an address of a host")
    return bare, int(port)


def join_host_port(host: str, port: int) -> HostPort:
    """Join a host and a port to an address: `("::1", 80)` → `"[::1]:80"`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def endpoint_of(text: str) -> HostPort:
    """Return the address in an endpoint of etcd: `http://10.0.0.1:2379/` and `10.0.0.1:2379` give `10.0.0.1:2379`.

    Raises ValueError when the endpoint is neither a URL nor `host:port`, or holds a user.
    """
    bare = re.sub(r"^https?://", "", text.strip(), flags=re.IGNORECASE).rstrip("/")
    if "@" in bare:  # not quoted: it holds a password
        raise ValueError(
            "an endpoint must hold no user and password: set POLLCAST_ETCD_USER and POLLCAST_ETCD_PASSWORD instead"
        )
    if SCHEME.match(bare):
        raise ValueError(f"{text.strip()!r} is no endpoint: write host:port, http://host:port or https://host:port")
    host, port = split_host_port(bare)
    if port == 0:
        raise ValueError(f"{text.strip()!r} has no port: write the one that it listens on, such as {host}:2379")
    return bare


def reachable_host(text: str) -> str:
    """Return the host by which others reach a node.

    Raises ValueError when it has a scheme, a path or a port, is no host, or stands for every address of a machine.
    """
    host = text.strip()
    if SCHEME.match(host) or "/" in host:
        raise ValueError(f"{host!r} is a URL: write the host alone, such as {_example(host)}")
    if host.startswith("["):
        raise ValueError(f"{host!r} is not a host: write an IPv6 address without brackets, and no port")
    if host.count(":") == 1:
        raise ValueError(f"{host!r} has a port: write the host alone, such as {_example(host)}")
    if not (_is_ipv6(host) if ":" in host else NAME.fullmatch(host)):
        raise ValueError(f"{host!r} is neither a name nor an address of a host")
    if is_unspecified(host):
        raise ValueError(f"{host} reaches no host from others: write this host's name or address")
    return host


def path_prefix_of(text: str) -> str | None:
    """Return the path below which a gateway is published, without a slash at its end; None for the root.

    Raises ValueError when it is no plain path, or one that the gateway itself serves.
    """
    path = text.strip().rstrip("/")
    if not path:
        return None
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path) or not {".", ".."}.isdisjoint(path.split("/")):
        raise ValueError(
            f"{text!r} is not a path such as /pollcast: begin with '/', and write letters, digits, '.', '_', '~', '-'"
        )
    if path.split("/")[1] in OWN_PATHS:
        raise ValueError(
            f"{text!r} begins with a path that the gateway itself serves: write another, such as /pollcast"
        )
    return path


def is_unspecified(host: str) -> bool:
    """Return whether a host stands for every address of the machine, as `0.0.0.0` and `::` do."""
    if ":" in host:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            return False
        return address.is_unspecified or (address.ipv4_mapped is not None and address.ipv4_mapped.is_unspecified)
    try:
        return not any(socket.inet_aton(host))  # takes `0` and `0x0` too, as the system does
    except OSError:
        return False


def is_loopback(address: object) -> bool:
    """Return whether an address is reachable from this machine only. Also True for an invalid one, whose fault is
    reported elsewhere."""
    try:
        host, _ = split_host_port(str(address))
    except ValueError:
        return True
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _example(text: str) -> str:
    """Return the host that the author of a URL, or of an address with a port, may have meant."""
    bare = text.rpartition("//")[2].partition("/")[0].partition("@")[0 if "@" not in text else 2]
    host = bare.rpartition(":")[0] if bare.count(":") == 1 else bare
    return host if NAME.fullmatch(host) else "poller-1.internal"
