"""File descriptors: the process's limit, and how many of them are for connections (docs/reference/security.md#limits).

A server that has none left accepts connections only to break them, and cannot reach etcd or its peers either. So a part
of the descriptors is reserved for what the process opens itself, and the rest is the limit of what it accepts.
"""

from __future__ import annotations

import resource
from typing import Final, NamedTuple

from pollcast.services.process import logs

log = logs.get_logger("descriptors")

RESERVE: Final = (64, 1024)
"""Bounds of the number of descriptors that are reserved for the process's own files and connections."""

LOBBY: Final = 256
"""Number of connections beside those of clients that a server holds at least, where the descriptors suffice."""


class Room(NamedTuple):
    """The number of `clients` that a server admits, of all its open HTTP `connections`, which is larger, and of the
    `grpc` connections that it accepts beside those."""

    clients: int
    connections: int
    grpc: int


def raise_limit() -> int:
    """Raise this process's soft limit of open files to the hard one, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # macOS has a hard limit that it does not grant
        log.warning("the limit of open files stays as it is", limit=soft, error=str(error))
        return soft
    return hard


def limit() -> int:
    """Return this process's soft limit of open files."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connections_within(files: int) -> int:
    """Return the number of connections that a process with this limit of open files may accept, at least 2.

    A quarter of the files is reserved, within the bounds of RESERVE. The limit may be `resource.RLIM_INFINITY`.
    """
    files = _number(files)
    least, most = RESERVE
    return max(2, files - min(max(files // 4, least), most))


def half_within(files: int) -> int:
    """Return the number of connections that each of a service's two servers, of HTTP and of gRPC, may accept."""
    return connections_within(files) // 2


def room(files: int, wanted: int) -> Room:
    """Return how many clients, at most `wanted`, and connections a process with this limit of open files can hold.

    There are always more connections than clients: LOBBY or a quarter of the clients, whichever is more, and an eighth
    of all connections, 16 at most, where the descriptors do not suffice for that. Connections of gRPC, each of which
    may carry many clients, get what is left, at most `wanted`, but at least a quarter of the reserve.
    """
    within = connections_within(files)
    connections = min(wanted + max(LOBBY, wanted // 4), within)
    grpc = max(1, min(wanted, within - connections), (_number(files) - within) // 4)
    return Room(max(1, min(wanted, connections - max(1, min(16, connections // 8)))), connections, grpc)


def _number(files: int) -> int:
    return 2**30 if files == resource.RLIM_INFINITY else files
