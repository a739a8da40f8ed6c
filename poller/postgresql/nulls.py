"""The tables whose columns a query can make NULL although the table declares them NOT NULL, by the query's text. Pure.

Outer joins do so, and grouping by several sets of columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from pollcast.services.catalogue.sql import Token, check_select, tokens


def nulled_tables(sql: str) -> frozenset[str] | None:
    """Return the names, as the query spells them, of the tables whose columns it can make NULL; None for any table.

    A table is named where the query joins it by itself: `left join ovens v on …`. All other outer joins, and queries
    with names of their own (WITH), count as ones that can affect any table.
    """
    read = [token for token in tokens(check_select(sql)) if token.kind not in ("space", "hint")]
    words = [token.text if token.kind == "word" else "" for token in read]
    names: set[str] = set()
    for at, (word, then) in enumerate(zip(words, [*words[1:], ""], strict=True)):
        if word in ("rollup", "cube") or (word == "grouping" and then == "sets"):
            return None
        if then not in ("join", "outer") or word not in ("left", "right", "full"):
            continue
        if word != "left" or "with" in words or (name := _joined(read[at + 1 :])) is None:
            return None
        names.add(name)
    return frozenset(names)


def _joined(read: Sequence[Token]) -> str | None:
    """Return the name of the table that follows, from `outer` or `join` on; None for anything else that is joined.

    Its condition must follow it at once: `a left join b join c on … on …` also affects `c`.
    """
    at = 2 if read[0].text == "outer" else 1
    parts = _name(read[at:])
    if not parts:
        return None
    after = read[at + len(parts) :]
    if after and (after[0].kind, after[0].text) == ("word", "as"):
        after = after[1:]
    if after and after[0].kind in ("word", "name") and not _is_condition(after[0]):
        after = after[1:]
    return "".join(parts) if after and _is_condition(after[0]) else None


def _name(read: Sequence[Token]) -> list[str]:
    """Return the tokens of the name at the beginning; none if there is something else, or a name with escapes."""
    parts: list[str] = []
    for token in read:
        wanted = token.text == "." if len(parts) % 2 else token.kind == "word" or token.text.startswith('"')
        if not wanted:
            break
        parts.append(token.text)
    return parts if len(parts) % 2 and parts[0] not in ("lateral", "only") else []


def _is_condition(token: Token) -> bool:
    return token.kind == "word" and token.text in ("on", "using")
