"""The SQL of the catalogue as text: the check that it is one SELECT, and its placeholders. Pure.

The lexer knows PostgreSQL's comments, strings, quoted names and dollar quotes, but no grammar. It serves to report
mistakes early (docs/reference/catalogue.md#sql); the read-only transaction of a poll is what keeps a query from
writing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pollcast.services.catalogue.values import quoted


@dataclass(frozen=True, slots=True)
class Text:
    """A part of the SQL that is sent as it is. Its `%%` are replaced by `%` already."""

    text: str


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A placeholder for one bound parameter: `%(name)s`."""

    name: str


Fragment = Text | Placeholder

_PERCENT: Final = re.compile(r"%(?:(%)|\(([a-z][a-z0-9_]*)\)s|)")


def split(sql: str) -> tuple[Fragment, ...]:
    """Split SQL at its placeholders: `"a = %(a)s || '%%'"` → `(Text("a = "), Placeholder("a"), Text(" || '%'"))`.

    No Text is empty, and no two Texts are adjacent. Quotes have no meaning here, as in psycopg. Raises ValueError for
    any other percent sign.
    """
    fragments: list[Fragment] = []
    plain: list[str] = []
    end = 0

    def flush() -> None:
        """Add the collected plain text as one fragment."""
        if text := "".join(plain):
            fragments.append(Text(text))
        plain.clear()

    for match in _PERCENT.finditer(sql):
        plain.append(sql[end : match.start()])
        end = match.end()
        percent, name = match.groups()
        if percent:
            plain.append("%")
        elif name:
            flush()
            fragments.append(Placeholder(name))
        else:
            raise ValueError(
                f"{quoted(sql[match.start() :].splitlines()[0])} begins with a stray percent sign: "
                "write %(name)s for a parameter, with a name of a-z, 0-9 and _, and %% for a percent sign"
            )
    plain.append(sql[end:])
    flush()
    return tuple(fragments)


@dataclass(frozen=True, slots=True)
class Token:
    """One piece of SQL text."""

    kind: str
    """One of space, string, name (a quoted one), word, number, param (a placeholder) and other."""
    text: str
    """The piece as it is written; words of ASCII in lower case, comments as a space."""
    at: int
    """Index of its first character in the SQL."""


_TOKEN: Final = re.compile(
    r"""
      (?P<space>   [ \t\n\r\f\v]+ | --[^\n\r]* )
    | (?P<param>   %\([^()\s]*\)s )
    | (?P<string>  [eE]'(?:[^'\\]|''|\\.)*' | (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*' )
    | (?P<name>    (?:[uU]&)?"(?:[^"]|"")*" )
    | (?P<open>    /\* | [eE]?' | " )
    | (?P<dollar>  \$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$ )
    | (?P<numbered>\$[0-9]+ )
    | (?P<word>    [A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]* )
    | (?P<number>  [0-9][0-9A-Za-z_.]* )
    | (?P<other>   . )
    """,
    re.VERBOSE | re.DOTALL,
)

_OPENED: Final = {"/*": "a comment", "'": "a string", '"': "a quoted name"}


def check_select(sql: str) -> str:
    """Return the statement without comments (each becomes a space), surrounding space and trailing `;`, so that it can
    be put in parentheses. Raises ValueError, which names a valid form, for anything but one SELECT that only reads."""
    if "\0" in sql:
        raise ValueError("holds a NUL character")
    found = list(tokens(sql))
    while found and (found[-1].kind == "space" or found[-1].text == ";"):
        found.pop()
    _check([t for t in found if t.kind != "space"], sql)
    # Tokens hold words in lower case; the statement keeps their spelling in the source.
    pieces = [" " if t.text == " " else sql[t.at : t.at + len(t.text)] for t in found]
    return "".join(pieces).strip()


def tokens(sql: str) -> Iterator[Token]:
    """Yield the whole text in pieces; a comment is a space. Raises ValueError for a comment or quote that is not
    closed, and for a numbered parameter."""
    at = 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        assert match is not None  # "other" matches any character
        kind, text = match.lastgroup or "", match.group()
        start, at = at, match.end()
        if kind == "space":
            # The line end after a line comment is a token of its own, so line numbers stay right.
            yield Token("space", " " if text.startswith("--") else text, start)
        elif text == "/*":
            at = _comment_end(sql, start)
            yield Token("space", " ", start)
        elif kind == "open":
            raise ValueError(f"line {_line(sql, start)}: {_OPENED[text.lstrip('eE')]} is not closed")
        elif kind == "dollar":
            end = sql.find(text, at)
            if end < 0:
                raise ValueError(f"line {_line(sql, start)}: a string in dollar quotes ({text}) is not closed")
            at = end + len(text)
            yield Token("string", sql[start:at], start)
        elif kind == "numbered":
            raise ValueError(f"line {_line(sql, start)}: {text} is not a placeholder: write a parameter as %(name)s")
        else:
            yield Token(kind, text.lower() if kind == "word" and text.isascii() else text, start)


def _comment_end(sql: str, start: int) -> int:
    """Return the index after the block comment that begins at `start`, nested comments included."""
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(sql, start):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"line {_line(sql, start)}: a comment is not closed")


def _check(tokens: list[Token], sql: str) -> None:
    """Raise ValueError unless the tokens, spaces excluded, are one SELECT that only reads."""
    words = [t.text if t.kind in ("word", "other") else "" for t in tokens]
    first = next((t for t, w in zip(tokens, words, strict=True) if w != "("), None)
    if first is None:
        raise ValueError("is empty: it must be one SELECT")
    if first.kind != "word" or first.text not in ("select", "with"):
        raise ValueError(f"must be one SELECT, but begins with {quoted(first.text)}")
    heads = [""]  # the first word of the statement and of each open parenthesis
    for i, (token, word) in enumerate(zip(tokens, words, strict=True)):
        line = f"line {_line(sql, token.at)}: "
        before = words[i - 1] if i else ""
        heads[-1] = heads[-1] or word or "-"
        if token.kind in ("string", "name") and any(m.group(2) for m in _PERCENT.finditer(token.text)):
            raise ValueError(
                f"{line}a placeholder inside quotes is plain text: "
                "write %(name)s without quotes, with || or cast() around it as needed"
            )
        if word == "(":
            heads.append("")
        elif word == ")":
            heads.pop()
            if not heads:
                raise ValueError(f"{line}a parenthesis is closed that was not opened")
        elif word == ";":
            raise ValueError(f"{line}must be one statement, but another follows after ';'")
        elif word in ("insert", "update", "delete", "merge"):
            in_cte = before == "(" and i > 1 and words[i - 2] in ("as", "materialized")
            after_ctes = before == ")" and heads[-1] == "with"
            if in_cte or after_ctes:
                raise ValueError(f"{line}must only read, but holds {word.upper()}")
        elif word == "into" and before not in (".", "as"):
            raise ValueError(f"{line}must only read, but holds INTO")
        elif word == "for" and before not in (".", "as"):
            after = " ".join(words[i + 1 : i + 4])
            if re.match(r"(update|share|no key update|key share)\b", after):
                raise ValueError(
                    f"{line}must only read, but locks rows (FOR {after.split(' ')[0].upper()} …): leave it out"
                )
    if len(heads) > 1:
        raise ValueError("a parenthesis is not closed")


def _line(sql: str, at: int) -> int:
    """Return the number of the line, from 1 on, that holds the character at this index."""
    return sql.count("\n", 0, at) + 1
