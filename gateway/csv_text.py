"""A result as CSV, in the form of RFC 4180 (docs/reference/http.md#csv). Pure.

Rows are PostgreSQL's JSON. Numbers and nested values are copied as they are written there, so that no digit is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from json import JSONDecoder

_DECODER = JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)  # of its values only texts are used

_SPACE = re.compile(r"[ \t\r\n]*")

_QUOTED = re.compile(r'[",\r\n]')


def csv_text(rows: Iterable[bytes]) -> bytes:
    """Return the rows below a line with the columns' names, in the query's order; nothing if there is no row.

    NULL is an empty field, an empty text a quoted one, and a nested value its JSON text.
    """
    lines: list[str] = []
    for row in rows:
        members = list(_members(row.decode()))
        if not lines:
            lines.append(",".join(_field(name) for name, _ in members))
        lines.append(",".join("" if value is None else _field(value) for _, value in members))
    return "".join(f"{line}\r\n" for line in lines).encode()


def _members(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield the name and the text of each member of a JSON object; None is JSON's null."""
    at = _after_space(text, text.index("{") + 1)
    while text[at] == '"':
        name, at = _DECODER.raw_decode(text, at)
        at = _after_space(text, text.index(":", at) + 1)
        value, end = _DECODER.raw_decode(text, at)
        if text[at] == '"':
            yield name, value
        else:
            yield name, None if text[at] == "n" else text[at:end]
        at = _after_space(text, end)
        if text[at] == "}":
            return
        at = _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # it matches the empty text
    return match.end()


def _field(text: str) -> str:
    if text and not _QUOTED.search(text):
        return text
    doubled = text.replace('"', '""')
    return f'"{doubled}"'
