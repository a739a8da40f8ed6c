"""The lexical rules of MySQL and MariaDB for the SQL of the catalogue, and what their queries cannot contain. Pure.

The rules are those of sessions as pollers open them: without ANSI_QUOTES, so `"…"` is a string, and without
NO_BACKSLASH_ESCAPES, so a backslash in a string escapes the next character (poller/mysql/session.py). They decide where
a placeholder stands: its value becomes a literal of its type there (poller/mysql/literals.py), so one in quotes or in a
comment has to be refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

from pollcast.services.catalogue.sql import Token, output_items

_TOKEN: Final = re.compile(
    r"""
      (?P<space>   [ \t\n\r\f\v]+ | \#[^\n]* | --(?=[\x00-\x20\x7f]|\Z)[^\n]* )
    | (?P<param>   %\([^()\s]*\)s )
    | (?P<refused> /\*M?!  )
    | (?P<hint>    /\*\+ (?:[^*]|\*(?!/))* \*/ )
    | (?P<comment> /\*   (?:[^*]|\*(?!/))* \*/ )
    | (?P<string>  '(?:[^'\\]|''|\\.)*' | "(?:[^"\\]|""|\\.)*" )
    | (?P<name>    `(?:[^`]|``)*` )
    | (?P<open>    /\* | ['"`] )
    | (?P<variable>(?<!@)@(?!@) )
    | (?P<number>  [0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?(?![0-9A-Za-z_$\x80-\U0010ffff]) )
    | (?P<word>    [0-9A-Za-z_$\x80-\U0010ffff]+ )
    | (?P<other>   . )
    """,
    re.VERBOSE | re.DOTALL,
)

_OPENED: Final = {"/*": "a comment", "'": "a string", '"': "a string", "`": "a quoted name"}

_LOCKING: Final = ("lock", "in", "share", "mode")


def tokens(sql: str) -> Iterator[Token]:
    """Yield the whole text in pieces, as `pollcast.services.catalogue.sql.tokens` does for PostgreSQL.

    Raises ValueError for a comment or quote that is not closed, for a comment that the server runs (`/*! … */`), and
    for a user variable, which keeps its value from one poll to the next.
    """
    at = 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        assert match is not None  # "other" matches any character
        kind, text, start = match.lastgroup or "", match.group(), at
        at = match.end()
        match kind:
            case "open":
                raise ValueError(f"line {_line(sql, start)}: {_OPENED[text]} is not closed")
            case "refused":
                raise ValueError(f"line {_line(sql, start)}: {text} … */ is run by the server: leave it out")
            case "variable":
                raise ValueError(
                    f"line {_line(sql, start)}: a user variable would keep its value from one poll to the next: "
                    "use a window function, or write a parameter as %(name)s"
                )
            case "comment":
                yield Token("space", " ", start)
            case "space":
                yield Token("space", " " if text.startswith(("#", "--")) else text, start)
            case _:
                yield Token(kind, text.lower() if kind == "word" and text.isascii() else text, start)


def refuse(sql: str) -> None:
    """Raise ValueError, which names a valid form, for what one SELECT cannot contain for MySQL and MariaDB."""
    found = _read(sql)
    for at, token in enumerate(found):
        if tuple(each.text for each in found[at : at + len(_LOCKING)] if each.kind == "word") == _LOCKING:
            raise ValueError(f"line {_line(sql, token.at)}: must only read, but locks rows (LOCK IN SHARE MODE)")
    for item in output_items(found):
        named = len(item) > 1 and item[-1].kind in ("word", "name", "string") and item[-2].text == "as"
        if not named and any(token.kind == "param" for token in item):
            raise ValueError(
                f"line {_line(sql, item[0].at)}: an output column with a parameter needs a name: add AS and a name"
            )


def refuse_lists(sql: str, lists: Collection[str]) -> None:
    """Raise ValueError, which names the valid form, for another use of a parameter that is a list than `in (…)`."""
    found = _read(sql)
    for at, token in enumerate(found):
        if token.kind == "param" and token.text[2:-2] in lists:
            around = [each.text for each in (*found[max(0, at - 2) : at], *found[at + 1 : at + 2])]
            if around != ["in", "(", ")"]:
                raise ValueError(f"line {_line(sql, token.at)}: a list needs the form … in ({token.text})")


def _read(sql: str) -> list[Token]:
    """Return the tokens that have a meaning."""
    return [token for token in tokens(sql) if token.kind not in ("space", "hint")]


def _line(sql: str, at: int) -> int:
    """Return the number of the line, from 1 on, that holds the character at this index."""
    return sql.count("\n", 0, at) + 1
