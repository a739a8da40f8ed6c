"""The SQL of the catalogue as text: the check that it is one SELECT, its placeholders, and names that it can't mention.

Pure. The lexer knows PostgreSQL's comments, strings, quoted names and dollar quotes, but no grammar. It serves to
report mistakes early (docs/reference/catalogue.md#sql); the read-only transaction of a poll is what keeps a query from
writing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
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


@lru_cache(maxsize=1024)
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
    """One of space, hint, string, name (a quoted one), word, number, param (a placeholder) and other."""
    text: str
    """The piece as it is written; words of ASCII in lower case, comments but hints as a space."""
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


def check_select(sql: str, lexer: Callable[[str], Iterator[Token]] | None = None) -> str:
    """Return the statement without comments (each becomes a space; hints are kept), surrounding space and trailing `;`,
    so that it can be put in parentheses. Raises ValueError, which names a valid form, for anything but one SELECT that
    only reads. `lexer` is that of the SQL's dialect, PostgreSQL's by default."""
    if "\0" in sql:
        raise ValueError("holds a NUL character")
    found = list((lexer or tokens)(sql))
    end = len(found)
    for at in reversed(range(len(found))):
        if found[at].text == ";":
            end = at
        elif found[at].kind not in ("space", "hint"):
            break
    found = found[:end]
    read = [token for token in found if token.kind not in ("space", "hint")]
    _check(read, sql)
    for token in found:
        _check_quoted(token, sql)
    # Tokens hold words in lower case; the statement keeps their spelling in the source.
    pieces = [" " if t.text == " " else sql[t.at : t.at + len(t.text)] for t in found]
    return "".join(pieces).strip()


def tokens(sql: str) -> Iterator[Token]:
    """Yield the whole text in pieces; a comment is a space, unless it is a hint (`/*+ … */`). Raises ValueError for a
    comment or quote that is not closed, and for a numbered parameter."""
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
            # A hint is for an extension such as pg_hint_plan, which reads it as a part of the statement.
            is_hint = sql.startswith("+", start + 2)
            yield Token("hint", sql[start:at], start) if is_hint else Token("space", " ", start)
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
        if (
            word == "uescape"
            and before == ""
            and not re.fullmatch("'[^']'", tokens[i + 1].text if tokens[i + 1 :] else "")
        ):
            raise ValueError(
                f"{line}the escape character after UESCAPE must be written as one character in quotes: '!'"
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
            if after_ctes or (in_cte and _writes(words, i)):
                raise ValueError(f"{line}must only read, but holds {word.upper()}")
        elif word == "into" and before not in (".", "as"):
            raise ValueError(f"{line}must only read, but holds INTO")
        elif word == "for" and before not in (".", "as") and heads[-1] in ("select", "with", "table", "values", "("):
            after = " ".join(words[i + 1 : i + 4])
            if re.match(r"(update|share|no key update|key share)\b", after):
                raise ValueError(
                    f"{line}must only read, but locks rows (FOR {after.split(' ')[0].upper()} …): leave it out"
                )
    if len(heads) > 1:
        raise ValueError("a parenthesis is not closed")


def _writes(words: list[str], at: int) -> bool:
    """Return whether the word at this index, after `as (`, begins a statement that writes.

    Otherwise it is a column's name, as in `json_to_record(…) as (update text)`.
    """
    following = words[at + 1] if at + 1 < len(words) else ""
    match words[at]:
        case "insert" | "merge":
            return following == "into"
        case "delete":
            return following == "from"
    depth = 0
    for word in words[at + 2 :]:
        depth += {"(": 1, ")": -1}.get(word, 0)
        if depth < 0 or (depth == 0 and word == "set"):
            return depth == 0
    return False


def _check_quoted(token: Token, sql: str) -> None:
    """Raise ValueError for a placeholder in a string, a quoted name or a hint."""
    if token.kind in ("string", "name", "hint") and any(m.group(2) for m in _PERCENT.finditer(token.text)):
        where, right = "inside quotes", "write %(name)s without quotes, with || or cast() around it as needed"
        if token.kind == "hint":
            where, right = "in a hint", "leave it out"
        raise ValueError(f"line {_line(sql, token.at)}: a placeholder {where} is plain text: {right}")


# --- output columns ---------------------------------------------------------------------------------------------------

_END_OF_OUTPUT = """from where group having window union intersect except order limit offset fetch for"""
_AFTER_OUTPUT: Final = frozenset(_END_OF_OUTPUT.split())
"""Reserved words that end a select list."""


def check_output_names(sql: str, lexer: Callable[[str], Iterator[Token]] | None = None) -> None:
    """Raise ValueError when two output columns evidently have the same name: a row would lose one of them.

    Only columns named by `as` and plain column references are compared; PostgreSQL knows the names of the others.
    """
    seen: set[str] = set()
    for item in output_items([token for token in (lexer or tokens)(sql) if token.kind not in ("space", "hint")]):
        name = _output_name(item)
        if name is not None and name in seen:
            raise ValueError(f"has two output columns named {quoted(name)}: give one another name with AS")
        seen |= {name} if name is not None else set()


def output_items(tokens: list[Token]) -> Iterator[list[Token]]:
    """Yield the items of the select list that names the output columns: the first one, after any WITH."""
    at, depth = 0, 0
    while at < len(tokens) and tokens[at].text == "(" and tokens[at].kind == "other":
        at += 1
    if at < len(tokens) and tokens[at].text == "with" and tokens[at].kind == "word":
        while at < len(tokens) and not (depth == 0 and tokens[at].text == "select" and tokens[at].kind == "word"):
            depth += {"(": 1, ")": -1}.get(tokens[at].text, 0) if tokens[at].kind == "other" else 0
            at += 1
            if depth < 0:
                return
    if at >= len(tokens) or tokens[at].text != "select":
        return
    item: list[Token] = []
    depth = 0
    before = ""
    for token in tokens[at + 1 :]:
        text = token.text if token.kind in ("word", "other") else ""
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text, 0)
        if depth < 0 or (depth == 0 and text in _AFTER_OUTPUT and before not in (".", "as", "distinct")):
            break
        if depth == 0 and text == ",":
            yield item
            item = []
        elif not (text in ("all", "distinct") and not item):
            item.append(token)
        before = text
    yield item


def _output_name(item: list[Token]) -> str | None:
    """Return the name of an output column that is named by `as` or is a column reference; None for any other."""
    if not item or item[-1].kind not in ("word", "name"):
        return None
    last = item[-1].text
    if len(item) > 1 and (item[-2].kind, item[-2].text) not in (("word", "as"), ("other", ".")):
        return None
    if len(item) > 1 and item[-2].text == "." and any(token.kind not in ("word", "name") for token in item[::2]):
        return None
    if len(item) > 1 and item[-2].text == "." and any(token.text != "." for token in item[1::2]):
        return None
    if item[-1].kind == "name":
        return None if last[0] != '"' else last[1:-1].replace('""', '"')
    return last if len(item) > 1 or last not in ("null", "true", "false", "default") else None


# --- names that a text can't mention ----------------------------------------------------------------------------------

_ESCAPED_NAME: Final = re.compile(r'[uU]&"')


@lru_cache(maxsize=1024)
def unmentioned_prefix(sql: str) -> str:
    """Return a prefix of lower-case letters, digits and `_` such that no name in the text begins with it.

    No text of the SQL contains the prefix, in upper or lower case or written with escapes (`U&"\\0070"`), so no name in
    it can be one that begins with the prefix. PostgreSQL shortens a long name to its beginning, which the text contains
    as well. The prefix has no `i`, which a Turkish server makes of a letter that is not ASCII.
    """
    texts = [sql.lower(), *(name.lower() for name in _unescaped(sql))] if _ESCAPED_NAME.search(sql) else [sql.lower()]
    number = 0
    while any((prefix := f"pollcast{number or ''}_") in text for text in texts):
        number += 1
    return prefix


def _unescaped(sql: str) -> list[str]:
    """Return the names that the text spells with Unicode escapes, with their quotes."""
    found = [token for token in tokens(sql) if token.kind not in ("space", "hint")]
    names = []
    for at, token in enumerate(found):
        if token.kind == "name" and _ESCAPED_NAME.match(token.text):
            named = [each.text for each in found[at + 1 : at + 3]]
            escape = re.escape(named[1][1:-1] if named[:1] == ["uescape"] else "\\")
            pattern = re.compile(
                rf"{escape}(?:(?P<itself>{escape})|\+(?P<six>[0-9a-fA-F]{{6}})|(?P<four>[0-9a-fA-F]{{4}}))"
            )
            names.append(pattern.sub(_unescape, token.text))
    return names


def _unescape(escaped: re.Match[str]) -> str:
    digits = escaped["six"] or escaped["four"]
    return chr(min(int(digits, 16), 0x10FFFF)) if digits else escaped["itself"]


def _line(sql: str, at: int) -> int:
    """Return the number of the line, from 1 on, that holds the character at this index."""
    return sql.count("\n", 0, at) + 1
