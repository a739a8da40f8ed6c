"""The types of a query's rows, as a source of any kind describes them. Pure.

`pollcast types` writes TypeScript and Python from them, and `/openapi.json` has a JSON Schema of them
(poller/row_schema.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pollcast.poller.sources.statement import Kind


@dataclass(frozen=True, slots=True)
class Enumeration:
    """An enumerated type."""

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Array:
    """An array, whose elements may be NULL."""

    element: Type


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a row. `nullable` is False when the column is certainly never NULL."""

    name: str
    type: Type
    nullable: bool = True


@dataclass(frozen=True, slots=True)
class RowType:
    """A composite type, or the row of a query."""

    columns: tuple[Column, ...]


Type: TypeAlias = Kind | Enumeration | Array | RowType
"""The type of a value."""
