"""The lexical rules of MySQL, and what its queries cannot contain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.catalogue.mysql_text import refuse, refuse_lists, tokens

PIECES = st.sampled_from(
    [
        "'",
        '"',
        "`",
        "\\",
        "/*",
        "*/",
        "/*+",
        "#",
        "--",
        "-- ",
        "\n",
        " ",
        "a",
        "1",
        "%(x)s",
        ";",
        "@@",
        "$$",
        "é",
        "*",
        "''",
    ]
)


def kinds(sql: str) -> list[tuple[str, str]]:
    """Return the kind and the text of each token but spaces."""
    return [(token.kind, token.text) for token in tokens(sql) if token.kind != "space"]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (r"'it''s' '\' %(x)s'", [("string", "'it''s'"), ("string", r"'\' %(x)s'")]),
        (r'"a\"%(x)s" `b"%(x)s`', [("string", r'"a\"%(x)s"'), ("name", '`b"%(x)s`')]),
        ("`a``b`", [("name", "`a``b`")]),
        (r"'\\' %(x)s", [("string", r"'\\'"), ("param", "%(x)s")]),
        ("1 # '%(x)s\n2", [("number", "1"), ("number", "2")]),
        ("1 -- '\r%(x)s\n2", [("number", "1"), ("number", "2")]),
        ("1--'%(x)s'", [("number", "1"), ("other", "-"), ("other", "-"), ("string", "'%(x)s'")]),
        ("1--", [("number", "1")]),
        ("/* /* */ 1", [("number", "1")]),
        ("/*+ a */ 1", [("hint", "/*+ a */"), ("number", "1")]),
        ("$$%(x)s$$", [("word", "$$"), ("param", "%(x)s"), ("word", "$$")]),
        ("SELECT 1e5 1a 0x1F", [("word", "select"), ("number", "1e5"), ("word", "1a"), ("word", "0x1f")]),
        ("@@sql_mode", [("other", "@"), ("other", "@"), ("word", "sql_mode")]),
        ("_utf8mb4'ä'", [("word", "_utf8mb4"), ("string", "'ä'")]),
    ],
)
def test_texts_are_read_as_mysql_reads_them(sql: str, expected: list[tuple[str, str]]) -> None:
    assert kinds(sql) == expected


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("select 'a", "line 1: a string is not closed"),
        ('select\n"a', "line 2: a string is not closed"),
        (r"select 'a\'", "a string is not closed"),
        ("select `a", "a quoted name is not closed"),
        ("select /* a", "a comment is not closed"),
        ("select /*/ 1", "a comment is not closed"),
        ("select /*!50000 1 */", "is run by the server"),
        ("select /*M! 1 */", "is run by the server"),
        ("select @n := @n + 1", "a user variable"),
    ],
)
def test_what_the_server_would_read_otherwise_is_refused(sql: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        list(tokens(sql))


@given(st.lists(PIECES, max_size=12).map("".join))
def test_no_character_is_lost(sql: str) -> None:
    try:
        found = list(tokens(sql))
    except ValueError:
        return
    ends = [*(token.at for token in found), len(sql)]
    assert ends == sorted(ends)
    assert ends[0] == 0
    for token, end in zip(found, ends[1:], strict=True):
        assert token.text == " " or token.text.lower() == sql[token.at : end].lower()


def both(sql: str) -> None:
    """Check a query whose parameter `ids` is a list."""
    refuse(sql)
    refuse_lists(sql, {"ids"})


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("select 1 from t lock in share mode", "locks rows"),
        ("select 1 from t where a = any(%(ids)s)", r"a list needs the form … in \(%\(ids\)s\)"),
        ("select 1 from t where a in (1, %(ids)s)", "a list needs the form"),
        ("select a, %(x)s from t", "needs a name: add AS"),
        ("select a, b + %(x)s c from t", "needs a name: add AS"),
    ],
)
def test_what_mysql_lacks_is_refused(sql: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        both(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "select a, b + %(x)s as c, %(y)s as `d` from t where a in (%(ids)s) and b not in ( %(ids)s )",
        "with q as (select %(x)s as a) select a from q order by a",
        "select count(*) from t where x = %(x)s",
    ],
)
def test_what_mysql_has_is_accepted(sql: str) -> None:
    both(sql)
