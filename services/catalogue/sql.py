"""The catalogue's SQL as text: is it one SELECT, and where do its placeholders stand.

Pure. The lexer knows PostgreSQL's comments, strings, quoted names and dollar quotes, and no grammar. It is there to
tell an author early what is wrong; what keeps a query from writing is the read-only transaction that it runs in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pollcast.services.catalogue.values import quoted


@dataclass(frozen=True, slots=True)
class Text:
    """SQL to be sent as it is: `%%` is a single percent sign here already."""

    text: str


@dataclass(frozen=True, slots=True)
class Placeholder:
    """The place of one bound parameter, `%(name)s`."""

    name: str


Fragment = Text | Placeholder

_PERCENT: Final = re.compile(r"%(?:(%)|\(([a-z][a-z0-9_]*)\)s|)")


def split(sql: str) -> tuple[Fragment, ...]:
    """`"a = %(a)s || '%%'"` → `(Text("a = "), Placeholder("a"), Text(" || '%'"))`, with no two Texts side by side and
    no empty one. Quotes mean nothing here, as in psycopg. ValueError for any other percent sign."""
    fragments: list[Fragment] = []
    plain: list[str] = []
    end = 0

    def flush() -> None:
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
    kind: str  # space, string, name (quoted), word, number, param (a placeholder), other
    text: str  # a word is in lower case
    at: int


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
    """The statement without comments (each becomes a space), surrounding space and the trailing `;`, ready to stand in
    parentheses. ValueError, which says what would be right, when it is anything but one SELECT that only reads."""
    if "\0" in sql:
        raise ValueError("holds a NUL character")
    found = list(tokens(sql))
    while found and (found[-1].kind == "space" or found[-1].text == ";"):
        found.pop()
    _check([t for t in found if t.kind != "space"], sql)
    # A word's own spelling matters in messages only; the text is taken from the source.
    pieces = [" " if t.text == " " else sql[t.at : t.at + len(t.text)] for t in found]
    return "".join(pieces).strip()


def tokens(sql: str) -> Iterator[Token]:
    """The whole text in pieces; a comment is a space. ValueError for what is not closed."""
    at = 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        assert match is not None  # "other" takes any character
        kind, text = match.lastgroup or "", match.group()
        start, at = at, match.end()
        if kind == "space":
            # A line comment keeps the line end that follows it, so lines count as before.
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
            raise ValueError(f"line {_line(sql, start)}: {text} is not known here: write a parameter as %(name)s")
        else:
            yield Token(kind, text.lower() if kind == "word" and text.isascii() else text, start)


def _comment_end(sql: str, start: int) -> int:
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(sql, start):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"line {_line(sql, start)}: a comment is not closed")


def _check(tokens: list[Token], sql: str) -> None:
    """Walks the tokens without space. What each open parenthesis began with is kept on a stack."""
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
                f"{line}a placeholder stands inside quotes, where it is plain text: "
                "write %(name)s bare, with || or cast() around it as needed"
            )
        if word == "(":
            heads.append("")
        elif word == ")":
            heads.pop()
            if not heads:
                raise ValueError(f"{line}a parenthesis is closed that was not opened")
        elif word == ";":
            raise ValueError(f"{line}must be one statement, but another follows after the ';'")
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
    return sql.count("\n", 0, at) + 1
