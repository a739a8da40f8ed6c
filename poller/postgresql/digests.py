"""Digests: 64 bits that stand for every byte of a result that a client can see. Pure.

PostgreSQL's hash functions follow equality: 1.0 and 1.00, 0.0 and -0.0, or two spellings in citext have one hash. A
digest must follow the text instead, so each column has a cell, a text from which its JSON can be derived:

- Numbers, booleans and UUIDs are their own output, which contains no control character.
- Text is its own bytes, with their number before them.
- Everything else is its JSON itself (`to_json`): dates and times in the session's time zone, enums by their labels,
  arrays, composite values, and types with a cast to json.

A cell ends with a control character that neither numbers nor JSON can contain. NULL is an empty cell, which no other
value is. So the cells of a row, one after the other, can be divided in one way only, and rows with equal cells have
equal JSON as long as their columns have the same names and types. A statement's description shows these to the poller,
which compares them with those for which the cells were made (poller/digest_polls.py).

The digest is a hash of the rows' hashes in their order, so a result of any size takes 17 bytes a row of memory. Two
results with one digest are possible (once in 2⁶⁴ changes); a full poll every `refresh` ends that.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from pollcast.poller.sources.statement import Columns

PLAIN_TYPES = {
    16: "bool",
    20: "int8",
    21: "int2",
    23: "int4",
    700: "float4",
    701: "float8",
    1700: "numeric",
    2950: "uuid",
}
"""Types whose JSON is given by their output, which has no control characters."""

TEXT_TYPES = {25: "text", 1042: "bpchar", 1043: "varchar"}
"""Types whose JSON is their output as a string."""

END = "'\x1f'"
"""SQL of the character that ends a cell."""

MAX_ARGUMENTS = 90
"""Maximum number of arguments of one call of `concat`, below PostgreSQL's limit of 100."""


def digest_sql(columns: Columns, row: str) -> str:
    """Return the SQL of an aggregate over rows in their order: their digest, an int8. `row` is the name of a row."""
    cells = _concat([part for name, type in columns for part in _cell(f"{row}.{quoted(name)}", type)])
    hashes = f"pg_catalog.string_agg(pg_catalog.to_hex({_hash(cells)}), ' ')"
    return _hash(f"pg_catalog.concat({hashes})")


def forms(columns: Columns) -> dict[str, list[str]]:
    """Return the names of the columns by the form of their cells: `values` (their output), `texts` (their bytes) and
    `json`, which costs the database most."""
    found: dict[str, list[str]] = {"values": [], "texts": [], "json": []}
    for name, type in columns:
        found["values" if type in PLAIN_TYPES else "texts" if type in TEXT_TYPES else "json"].append(name)
    return found


def quoted(identifier: str) -> str:
    """Return the identifier as SQL, in quotes."""
    return '"' + identifier.replace('"', '""') + '"'


def digest_array(digests: Iterable[int | None]) -> str:
    """Return the text of a PostgreSQL array of digests."""
    return "{" + ",".join(["NULL" if digest is None else str(digest) for digest in digests]) + "}"


def _cell(column: str, type: Hashable) -> tuple[str, ...]:
    if type in PLAIN_TYPES:
        return column, END
    if type in TEXT_TYPES:
        return f"pg_catalog.octet_length({column})", END, column, END
    return f"pg_catalog.to_json({column})", END


def _concat(parts: Sequence[str]) -> str:
    """Return the SQL that joins the texts of these values; NULL has none."""
    while len(parts) > MAX_ARGUMENTS:
        calls = range(0, len(parts), MAX_ARGUMENTS)
        parts = [f"pg_catalog.concat({', '.join(parts[at : at + MAX_ARGUMENTS])})" for at in calls]
    listed = ", ".join(parts) or "''"
    return f"pg_catalog.concat({listed})"


def _hash(text: str) -> str:
    return f'pg_catalog.hashtextextended({text} collate pg_catalog."C", 0)'
