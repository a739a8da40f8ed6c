"""SQL text: its placeholders, and the check that it is one SELECT."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.catalogue.sql import (
    Fragment,
    Placeholder,
    Text,
    check_output_names,
    check_select,
    split,
    unmentioned_prefix,
)


def joined(fragments: tuple[Fragment, ...]) -> str:
    """Return the SQL that `split` would split into these fragments."""
    return "".join(f.text.replace("%", "%%") if isinstance(f, Text) else f"%({f.name})s" for f in fragments)


def test_sql_is_split_at_placeholders_and_double_percent_signs_become_single() -> None:
    assert split("a = %(a)s and b like '%%' || %(b_2)s") == (
        Text("a = "),
        Placeholder("a"),
        Text(" and b like '%' || "),
        Placeholder("b_2"),
    )
    assert split("%(a)s%(a)s") == (Placeholder("a"), Placeholder("a"))
    assert split("%%(a)s") == (Text("%(a)s"),)
    assert split("") == ()


@pytest.mark.parametrize("sql", ["a % b", "like '50%'", "%", "%s", "%(a)", "%(a)d", "%(A)s", "%(1a)s", "%()s", "%%%"])
def test_the_error_for_a_stray_percent_sign_names_the_valid_forms(sql: str) -> None:
    with pytest.raises(ValueError, match=r"%\(name\)s.*%%"):
        split(sql)


@given(st.lists(st.one_of(st.text(), st.sampled_from(["a", "b_1"]).map(Placeholder))))
def test_split_reverses_joined(parts: list[str | Placeholder]) -> None:
    fragments = tuple(Text(p) if isinstance(p, str) else p for p in parts)
    again = split(joined(fragments))
    assert joined(again) == joined(fragments)
    assert all(f.text for f in again if isinstance(f, Text))
    assert not any(isinstance(a, Text) and isinstance(b, Text) for a, b in pairwise(again))


@pytest.mark.parametrize(
    ("sql", "statement"),
    [
        ("select 1", "select 1"),
        ("  SELECT 1 ; ", "SELECT 1"),
        ("select 1;; -- done\n", "select 1"),
        ("select 1 -- one", "select 1"),
        ("-- first\nselect 1", "select 1"),
        ("/* a /* nested; */ b */ select/**/1", "select 1"),
        ("with a as (select 1) select * from a;", "with a as (select 1) select * from a"),
        ("(select 1) union (select 2)", "(select 1) union (select 2)"),
        ("((with a as (select 1) table a))", "((with a as (select 1) table a))"),
        ("select ';', \"a;b\", $$;$$, $t$;$$;$t$, E'\\';', 'it''s;'", None),
        ("select '--', '/*', \"into\", 'for update'", None),
        ("select t.into, 1 as into, 2 as for from t", None),
        ("select substring(a from 2 for 3) from t", None),
        ("select a -- 50% of %(b)s;\nfrom t", "select a  \nfrom t"),
        ("select update, insert, delete from merge", None),
        ("select coalesce(update), lower(delete) from t", None),
        ("select foo$1 from t where a = %(into)s", None),
        ("select u&'\\0041', b'1', x'f', n'a', U&\"b\"", None),
        ("select größe from tabelle", None),
        ("select 'a' like '%%;'", None),
        ("/*+ SeqScan(t) */ select /* no hint */ a from t;", "/*+ SeqScan(t) */ select   a from t"),
        (
            "select /*+ SeqScan(t) /* nested; */ */ a from t /*+ b */ ; /*+ c */",
            "select /*+ SeqScan(t) /* nested; */ */ a from t /*+ b */",
        ),
        ("select * from json_to_record('{}') as (update text)", None),
        ("select * from json_to_record('{}') as (delete int, update text, merge int, insert text)", None),
        ("select * from f() as (update numeric(4, 2)), g() as (insert text)", None),
        ("with a as (select 1) select * from f() as (update text)", None),
        ("select overlay(a placing b from 1 for share) from t", None),
    ],
)
def test_a_select_is_returned_without_comments_and_semicolon(sql: str, statement: str | None) -> None:
    assert check_select(sql) == (sql if statement is None else statement)


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("", "is empty"),
        (" ;", "is empty"),
        ("/* select 1 */ -- 2", "is empty"),
        ("select 1; select 2", "must be one statement"),
        ("select 1; -- x\n drop table t", "line 1: must be one statement"),
        ("select (1; 2)", "must be one statement"),
        ("delete from t", "begins with 'delete'"),
        ("values (1)", "begins with 'values'"),
        ("'select'", "begins with"),
        ("(update t set a = 1)", "begins with 'update'"),
        ("with a as (delete from t returning *) select * from a", "holds DELETE"),
        ("with a as not materialized (\n insert into t values (1)) select 1", "holds INSERT"),
        ("with a as (select 1) update t set a = 1", "holds UPDATE"),
        ("with a as (with b as (select 1) merge into t using b) select 1", "holds MERGE"),
        ("with a(b) as materialized (update t set a = 1 returning a) select 1", "holds UPDATE"),
        ("select * into t2 from t", "holds INTO"),
        ("(select 1 into t2)", "holds INTO"),
        ("select * from t for update", "locks rows"),
        ("select * from t FOR  NO KEY\nUPDATE of t", "locks rows"),
        ("select * from (select * from t for share) x", "locks rows"),
        ("select * from t for key share", "locks rows"),
        ("select 'a", "a string is not closed"),
        ("select E'a\\'", "not closed"),
        ('select "a', "a quoted name is not closed"),
        ("select /* a /* b */", "a comment is not closed"),
        ("select $a$ b $$", "dollar quotes"),
        ("select (1", "parenthesis is not closed"),
        ("select 1)", "parenthesis is closed"),
        ("select $1", r"%\(name\)s"),
        ("select '%(a)s'", "inside quotes"),
        ('select "%(a)s"', "inside quotes"),
        ("select $$%(a)s$$", "inside quotes"),
        ("select '\0'", "NUL"),
        ("/*+ Rows(a #%(n)s) */ select 1", "in a hint"),
        ("(select 1) for update", "locks rows"),
        ("with a as (update only t set a = 1 returning a) select 1", "holds UPDATE"),
        ("with a as (update t as u set (a, b) = (1, 2)) select 1", "holds UPDATE"),
        ("with a as (delete from t) select 1", "holds DELETE"),
        ("select U&\"d!0061\" uescape E'!'", "UESCAPE"),
    ],
)
def test_anything_but_one_select_that_only_reads_is_refused(sql: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_select(sql)


def test_an_escaped_placeholder_is_allowed_inside_quotes() -> None:
    assert check_select("select '%%(a)s'") == "select '%%(a)s'"


def test_the_error_names_the_line_of_the_fault() -> None:
    with pytest.raises(ValueError, match=re.escape("line 3: ")):
        check_select("select a\nfrom t\nfor update")


@given(st.text(st.sampled_from(list("select wih()'\"$a;-/*%\n\\E1")), max_size=60))
def test_an_accepted_statement_passes_the_check_unchanged(tail: str) -> None:
    try:
        statement = check_select("select " + tail)
    except ValueError:
        return
    assert check_select(statement) == statement
    assert not statement.endswith(";")


@pytest.mark.parametrize(
    "sql",
    [
        "select %(v)s as a, 2 as a",
        "select a, b as a from t",
        "select o.id, c.id from o join c using (x)",
        'select a, 1 as "a" from t',
        "select distinct a, a from t",
        "with a as (select 1 as b) select b, b from a",
        "(select id, id from t) union select 1, 2",
        "select a is distinct from b as c, 2 as c from t",
        "select extract(year from d) as y, 1 as y from t",
        "select s.t.a, a from s.t",
    ],
)
def test_two_output_columns_of_one_name_are_refused(sql: str) -> None:
    with pytest.raises(ValueError, match="has two output columns named"):
        check_output_names(sql)


@pytest.mark.parametrize(
    "sql",
    [
        'select a, 1 as "A" from t',
        "select a.id, b.id as b_id from a, b",
        "select (select 1 as a) as a, 2 as b",
        "select 1 as a union select 2 as a",
        "with a as (select 1 as x) select x as a from a",
        "select x::a, a from t",
        "select f(a) a_, a from t",
        "select a from (select 1 as a, 2 as b) as a",
        "select null, null",
        "select * from t",
        "select from t",
        "with recursive a as (select 1)",
        "select t.*, t.a from t",
    ],
)
def test_output_columns_that_may_have_distinct_names_are_accepted(sql: str) -> None:
    check_output_names(sql)


@pytest.mark.parametrize(
    ("sql", "prefix"),
    [
        ("select a from t", "pollcast_"),
        ("select Pollcast_1 from t", "pollcast1_"),
        ("select 'pollcast_'", "pollcast1_"),
        ('select U&"\\0070ollcast_1", "pollcast1_"', "pollcast2_"),
        ("select U&\"!+000050ollcast_1\" /* x */ Uescape '!'", "pollcast1_"),
        ("select U&\"pollcast!!0063_\" uescape '!'", "pollcast_"),
        ("select " + "x" * 80 + "pollcast_", "pollcast1_"),
    ],
)
def test_no_name_in_the_text_begins_with_the_prefix(sql: str, prefix: str) -> None:
    assert unmentioned_prefix(sql) == prefix


@given(st.text(st.sampled_from(list('pollcast_1PU&"\\0063 !')), max_size=60))
def test_the_prefix_never_occurs_in_the_text(tail: str) -> None:
    sql = f"select {tail}"
    try:
        check_select(sql)
    except ValueError:
        return
    assert unmentioned_prefix(sql) not in sql.lower()
