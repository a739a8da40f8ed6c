"""The kind `postgresql-plain`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

import psycopg

from pollcast.poller.plain.dialect import PlainDialect
from pollcast.poller.plain.driver import PlainDriver
from pollcast.poller.postgresql.row_types import KINDS
from pollcast.poller.sources.source import SourceKind
from pollcast.poller.sources.statement import Kind


def _type_of(number: Hashable) -> Kind:
    """Return the type that rows have for a column whose type has this number."""
    known = psycopg.adapters.types.get(number) if isinstance(number, int) else None
    if known is None:
        return "text"
    return KINDS.get(known.name, "text") if known.oid == number else "json"


PLAIN: Final = SourceKind(PlainDialect(), PlainDriver(), _type_of)
"""Anything that speaks PostgreSQL's protocol, asked by simple queries only."""
