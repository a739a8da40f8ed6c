"""How many clients a gateway takes (CONTRACT.md §10, MAX_CONNECTIONS): sockets, event streams, requests that wait for a
result, and gRPC streams alike. Who comes on top is refused at once, which costs those there nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from pollcast.services.errors import TooManyConnections


class Admission:
    """`sockets` tells how many WebSockets there are; all others are counted by their `seat`."""

    def __init__(self, most: int, sockets: Callable[[], int]) -> None:
        self._most = most
        self._sockets = sockets
        self._seated = 0

    @property
    def taken(self) -> int:
        return self._sockets() + self._seated

    def check(self) -> None:
        """Raises TooManyConnections."""
        if self.taken >= self._most:
            raise TooManyConnections(f"this gateway has its {self._most} connections: try another, or later")

    @contextlib.contextmanager
    def seat(self) -> Iterator[None]:
        """Counts as one connection inside. Raises TooManyConnections."""
        self.check()
        self._seated += 1
        try:
            yield
        finally:
            self._seated -= 1
