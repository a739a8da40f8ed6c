"""Errors of servers that speak PostgreSQL's protocol. Pure.

They are classified by their SQLSTATE, as PostgreSQL's are (poller/postgresql/errors.py). Servers differ in the SQLSTATE
of a statement that was canceled, or that took longer than it may.
"""

from __future__ import annotations

import re

import psycopg
import psycopg.errors

_CANCELED = re.compile(r"cancel|time(?:d )?-?out|interrupt|abort", re.IGNORECASE)


def canceled(error: psycopg.Error) -> psycopg.Error:
    """Return the error of a statement that has taken all of its time: as a cancellation, if its message says so."""
    if error.sqlstate is None or not _CANCELED.search(str(error)):
        return error
    return psycopg.errors.QueryCanceled(str(error))
