"""The limit of a gateway's connections: POLLCAST_MAX_CONNECTIONS (docs/reference/security.md#limits).

It counts sockets, event streams, requests that wait for a result and gRPC streams alike. A client beyond it is refused
at once, which costs the others nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from pollcast.services.errors import TooManyConnections


class Admission:
    """The count of a gateway's connections, and its limit.

    `sockets` returns the number of WebSockets; all other connections are counted by their `seat`.
    """

    def __init__(self, most: int, sockets: Callable[[], int]) -> None:
        self._most = most
        self._sockets = sockets
        self._seated = 0

    @property
    def taken(self) -> int:
        """The number of connections now."""
        return self._sockets() + self._seated

    def check(self) -> None:
        """Raise TooManyConnections when the limit is reached."""
        if self.taken >= self._most:
            raise TooManyConnections(f"this gateway has its {self._most} connections: try another, or later")

    @contextlib.contextmanager
    def seat(self) -> Iterator[None]:
        """Count one connection inside the scope. Raises TooManyConnections when the limit is reached."""
        self.check()
        self._seated += 1
        try:
            yield
        finally:
            self._seated -= 1
