"""The driver of MySQL and MariaDB: it opens sessions by asyncmy."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from asyncmy.errors import MySQLError

from pollcast.poller.mysql.session import MysqlSession
from pollcast.poller.mysql.wire import Wire
from pollcast.poller.sources.names import application_name
from pollcast.poller.sources.outcome import Unreachable
from pollcast.services.process import logs
from pollcast.services.process.redaction import HIDDEN

log = logs.get_logger("database")

CONNECT_SECONDS: Final = 3.0
"""Default timeout for opening a connection, in seconds."""

MAX_CONNECT_SECONDS: Final = 3600.0
"""Maximum timeout for opening a connection, in seconds."""

KILL_SECONDS: Final = 1.0
"""Maximum time that ending a statement takes, in seconds."""

NO_URL: Final = "is not a URL such as mysql://user:password@host:3306/database?ssl-mode=VERIFY_IDENTITY&ssl-ca=FILE"

MODES: Final = ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")
"""Values of `ssl-mode`, with the meaning that they have for MySQL's own clients."""

OPTIONS: Final = ("ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "connect_timeout", "socket")


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a URL."""

    host: str
    port: int
    user: str
    password: str
    database: str
    options: dict[str, str]


class MysqlDriver:
    """The Driver (poller/sources/source.py) of MySQL and MariaDB."""

    def check_url(self, url: str) -> None:
        """Raise ValueError if the URL is none of MySQL."""
        address(url)

    async def connect(self, url: str, node: str) -> MysqlSession:
        """Open a connection. Raises Unreachable with the words of the server."""
        at = address(url)
        seconds = float(at.options.get("connect_timeout", CONNECT_SECONDS))
        try:
            async with asyncio.timeout(seconds), _opened(at, node) as wire:
                session = MysqlSession(wire, node, partial(_kill, at, node))
                await session.begin()
        except (*ERRORS, ValueError, RuntimeError) as error:
            raise Unreachable(_words(error, at.password) or f"no answer within {seconds:g} s") from error
        return session


ERRORS: Final = (MySQLError, OSError)
"""Errors of a connection."""


@contextlib.asynccontextmanager
async def _opened(at: Address, node: str) -> AsyncIterator[Wire]:
    """Open a connection. It is closed when the scope ends with an error."""
    wire = Wire(
        host=at.host,
        port=at.port,
        user=at.user,
        password=at.password,
        database=at.database or None,
        unix_socket=at.options.get("socket"),
        connect_timeout=MAX_CONNECT_SECONDS,
        autocommit=None,
        use_unicode=False,
        conv={},
        program_name=application_name(node),
        **await asyncio.to_thread(_tls, at),  # the system's authorities take 40 ms to be read
    )
    try:
        await wire.connect()
        if "socket" not in at.options:
            wire.keep_alive()
        yield wire
    except BaseException:
        wire.abort()
        raise


async def _kill(at: Address, node: str, id: bytes) -> None:
    """End what the server does for the connection with this id, if it answers soon."""
    try:
        with contextlib.suppress(*ERRORS):
            async with asyncio.timeout(KILL_SECONDS), _opened(at, node) as wire:
                await wire.send(f"kill query {int(id)}")
                wire.abort()
    except Exception as error:  # a server that sends what no server sends must not end more than this
        log.error("a statement could not be ended", exc_info=error)


def address(url: str) -> Address:
    """Return the parts of the URL. Raises ValueError, which repeats no part of it."""
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        found = _address(parts, options)
    except ValueError:
        raise ValueError(NO_URL) from None
    unknown = next((name for name in options if name not in OPTIONS), None)
    if unknown is not None:
        raise ValueError(f"has an option that does not exist: there are {', '.join(OPTIONS)}")
    if options.get("ssl-mode", MODES[1]) not in MODES:
        raise ValueError(f"has another ssl-mode than {', '.join(MODES)}")
    seconds = options.get("connect_timeout", str(CONNECT_SECONDS))
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", seconds) or not 0 < float(seconds) <= MAX_CONNECT_SECONDS:
        raise ValueError(f"has a connect_timeout that is no number of seconds up to {MAX_CONNECT_SECONDS:g}")
    return found


def _address(parts: SplitResult, options: dict[str, str]) -> Address:
    if parts.scheme not in ("mysql", "mariadb") or not (parts.hostname or "socket" in options):
        raise ValueError
    return Address(
        parts.hostname or "localhost",
        parts.port or 3306,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        unquote(parts.path.removeprefix("/")),
        options,
    )


def _tls(at: Address) -> dict[str, Any]:
    """Return asyncmy's options for TLS."""
    mode = at.options.get("ssl-mode", "VERIFY_IDENTITY" if "ssl-ca" in at.options else "PREFERRED")
    if mode == "DISABLED" or "socket" in at.options:
        return {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "VERIFY_IDENTITY"
    if not mode.startswith("VERIFY"):
        context.verify_mode = ssl.CERT_NONE
    elif "ssl-ca" in at.options:
        context.load_verify_locations(at.options["ssl-ca"])
    else:
        context.load_default_certs()
    if "ssl-cert" in at.options:
        context.load_cert_chain(at.options["ssl-cert"], at.options.get("ssl-key"))
    return {"ssl": context, "tls_if_offered": mode == "PREFERRED"}


def _words(error: BaseException, password: str) -> str:
    """Return the server's words on one line, without the password."""
    words = str(error.args[1]) if isinstance(error, MySQLError) and len(error.args) == 2 else str(error)
    words = re.sub(r"\s+", " ", words).strip()
    return words.replace(password, HIDDEN) if password else words
