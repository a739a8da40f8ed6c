"""The database URL: a connection string of libpq, and the words of a server that refuses it, without the password."""

from __future__ import annotations

import re

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pollcast.services.errors import Problem, SettingsInvalid
from pollcast.services.process.redaction import HIDDEN

NO_URL = "is not a PostgreSQL connection string such as postgresql://user:password@host:5432/database"
"""Words for a URL that libpq does not accept: its own words quote a part of it, which may be of the password."""

CHECK_SECONDS = 3
"""Time that the database has to accept a connection in `connection_problem`, in seconds."""


def checked_url(url: str, variable: str = "POLLCAST_DATABASE_URL") -> str:
    """Return the database URL that `variable` has given, without white space around it, such as the line break at the
    end of a secret's file.

    Raises SettingsInvalid, without repeating the URL, when libpq does not accept it.
    """
    url = url.strip()
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise SettingsInvalid([Problem("settings", "", variable, NO_URL)]) from None
    return url


def connection_problem(url: str) -> str | None:
    """Try to connect to the database, and return why that is not possible; None when it is, or `url` is invalid."""
    try:
        given = conninfo_to_dict(url).get("connect_timeout")
    except psycopg.ProgrammingError:
        return None  # checked_url reports it
    try:
        psycopg.connect(url, connect_timeout=given or CHECK_SECONDS).close()
    except (psycopg.Error, OSError, ValueError) as error:
        return server_words(error, url)
    return None


def server_words(error: BaseException, url: str) -> str:
    """Return the reason why connecting to `url` failed, in the words of the server or of libpq, on one line.

    The password is hidden: that of the URL, wherever it should appear.
    """
    try:
        password = str(conninfo_to_dict(url).get("password") or "")
    except psycopg.ProgrammingError:
        return f"its URL {NO_URL}"
    words = re.sub(r"\s+", " ", str(error)).strip().removeprefix("connection failed: ") or type(error).__name__
    for secret in sorted({*_password_pieces(url), password} - {""}, key=len, reverse=True):
        words = words.replace(secret, HIDDEN)
    return words


def _password_pieces(url: str) -> set[str]:
    """Return what libpq may take for another part of the URL, in a password whose `@`, `/` or `?` is not escaped."""
    before_options = url.partition("?")[0]
    found = re.match(r"\w+://[^:@/]*:(.*)@", before_options if "@" in before_options else url, re.DOTALL)
    if found is None:
        return set()
    return {found[1], *(piece for piece in re.split(r"[@/?:]", found[1]) if len(piece) > 1)}
