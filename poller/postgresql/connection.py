"""A connection to a PostgreSQL server by psycopg, as every connection of a poller is opened."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus

CONNECT_SECONDS = 3
"""Default timeout for opening a connection, in seconds."""

KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 3000,
}
"""Settings of TCP that a database URL may override: probes after 10 s of silence, at most 3 s without an
acknowledgement (in milliseconds, on Linux)."""

CANCEL_SECONDS = 1.0
"""Maximum time that the server has to take the request to cancel a statement, in seconds."""


CANCEL_SECONDS = 1.0
"""Maximum time that the server has to take the request to cancel a statement, in seconds."""


class Connection(AsyncConnection[Any]):
    """One connection to the database."""

    @property
    def broken(self) -> bool:
        """Whether the connection cannot be used any more, as far as is known without asking the server."""
        return self.closed or self.pgconn.status != ConnStatus.OK

    @property
    def occupied(self) -> bool:
        """Whether the connection is within a transaction or a pipeline."""
        pgconn = self.pgconn
        return pgconn.transaction_status != TransactionStatus.IDLE or pgconn.pipeline_status != PipelineStatus.OFF

    def heard_from_server(self) -> None:
        """Read what the server has sent while the connection was idle, such as the reason why it has closed it."""
        with contextlib.suppress(psycopg.Error):
            self.pgconn.consume_input()  # the reason
            self.pgconn.consume_input()  # the end

    async def cancel_safe(self, *, timeout: float = CANCEL_SECONDS) -> None:
        """Cancel the statement that runs. Raises psycopg.Error when the server does not take the request.

        The connection is broken then: psycopg, which cancels the statement of a task that is cancelled, would wait for
        its end, and a frozen server never answers. It would also give the request 5 s.
        """
        try:
            await super().cancel_safe(timeout=min(timeout, CANCEL_SECONDS))
        except psycopg.Error:
            self.cut()
            raise

    def cut(self) -> None:
        """End the connection for whoever waits for the server. Harmless when it is closed."""
        if not self.closed:
            with socket.socket(fileno=os.dup(self.fileno())) as copy, contextlib.suppress(OSError):
                copy.shutdown(socket.SHUT_RDWR)


def connection_options(url: str, application_name: str) -> dict[str, Any]:
    """Return the options of psycopg for every connection of a poller. Raises psycopg.ProgrammingError when libpq does
    not accept `url`."""
    given = conninfo_to_dict(url)
    return {
        "autocommit": True,
        "prepare_threshold": None,
        "client_encoding": "utf8",
        "application_name": application_name,
        "connect_timeout": given.get("connect_timeout") or CONNECT_SECONDS,
        **{name: value for name, value in KEEPALIVE.items() if given.get(name) is None},
    }
