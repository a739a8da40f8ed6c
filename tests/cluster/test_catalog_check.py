"""`pollcast check --database-url`: what it finds beyond the statements that PostgreSQL refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pollcast.poller import checking
from pollcast.services.catalogue import catalog
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.errors import CatalogInvalid
from tests.support.poller_database import query, setup, toml


@pytest.fixture
def people(database: str) -> str:
    """A database with a table whose columns have types that parameters cannot have."""
    setup(
        database,
        "create type mood as enum ('sad', 'ok')",
        "create domain email as text check (value like '%@%')",
        "create table people (id int, name text, m mood, ms mood[], mail email, code char(5), host inet)",
        "insert into people select g % 2, 'x', 'ok', '{ok}', 'a@b', 'x', '127.0.0.1' from generate_series(1, 4) g",
        "create table big as select g as id, 'r' || g % 50 as region from generate_series(1, 50000) g",
        "create index on big (region)",
        "analyze big",
    )
    return database


def problems(url: str, sql: str, params: str = 'v = "text"', **fields: object) -> list[tuple[str, str]]:
    lines = ["[queries.q]", f"sql = {json.dumps(sql)}", *(f"{name} = {toml(v)}" for name, v in fields.items())]
    wrong = catalog.parse("\n".join([*lines, "[queries.q.params]", params]), "test.toml")
    with pytest.raises(CatalogInvalid) as raised:
        checking.report(wrong, "test.toml", url)
    return [(problem.field, problem.reason) for problem in raised.value.problems]


def notes(url: str, sql: str, params: str = 'v = "text"', **fields: object) -> tuple[str | None, list[str]]:
    lines = ["[queries.q]", f"sql = {json.dumps(sql)}", *(f"{name} = {toml(v)}" for name, v in fields.items())]
    fine = catalog.parse("\n".join([*lines, "[queries.q.params]", params]), "test.toml")
    report = checking.report(fine, "test.toml", url)
    return report.one_by_one["q"], report.notes["q"]


def test_two_columns_of_one_name_are_a_problem(people: str) -> None:
    reason = "two columns of the result have the same name (id): give one another name with AS"
    assert problems(people, "select p.*, q.id from people p, people q where p.name = %(v)s") == [("sql", reason)]


@pytest.mark.parametrize("column", ["nr", "to_json"])
def test_a_key_that_the_result_lacks_is_a_problem(people: str, column: str) -> None:
    reason = f"the result has no column {column}, which its key names"
    assert problems(people, "select id from people where name = %(v)s", key=[column]) == [("key", reason)]


def test_a_key_that_two_rows_of_a_sample_share_is_a_problem(people: str) -> None:
    found = problems(people, "select id, name from people where name = %(v)s order by id", key=["id", "name"])
    assert found == [("key", 'two rows of the result have the same key (id, name): [0, "x"]')]


def test_a_key_without_rows_in_the_sample_is_accepted(people: str) -> None:
    assert notes(
        people, "select id from people where name = %(v)s", key=["id"], params='v = { type = "text", default = "y" }'
    ) == (None, [])


def test_a_query_that_is_too_slow_for_a_sample_is_accepted_with_a_note(people: str) -> None:
    found = notes(people, "select id, pg_sleep(30) from people where name = %(v)s", key=["id"], timeout="200ms")
    assert found == (None, ["its keys were not compared, because it takes longer than 0.2 s"])


@pytest.mark.parametrize(
    ("condition", "params", "cast"),
    [
        ("m = %(v)s", 'v = "text"', "%(v)s::mood"),
        ("m = any(%(v)s)", 'v = "text[]"', "%(v)s::mood[]"),
        ("%(v)s IS NULL or m = %(v)s", 'v = "text"', "%(v)s::mood"),
        ("host = %(v)s", 'v = "text"', "%(v)s::inet"),
        ("host << %(v)s", 'v = "text"', "%(v)s::inet"),
    ],
)
def test_a_type_that_a_parameter_cannot_have_is_a_problem_that_names_the_cast(
    people: str, condition: str, params: str, cast: str
) -> None:
    ((field, reason),) = problems(people, f"select id from people where {condition}", params)
    assert (field, "42883" in reason) == ("sql", True)
    assert reason.endswith(f": write {cast}")
    value = '"ok"' if "mood" in cast else '"127.0.0.1"'
    default = f"[{value}]" if "[]" in params else value
    type = "text[]" if "[]" in params else "text"
    fixed = notes(
        people,
        f"select id from people where {condition.replace('%(v)s', cast)}",
        f'v = {{ type = "{type}", default = {default} }}',
    )
    assert fixed == (None, [])


def test_a_padded_column_is_a_note_and_a_domain_is_none(people: str) -> None:
    note = "v is compared as text, a literal would be bpchar: write %(v)s::bpchar if it should compare as bpchar does"
    assert notes(people, "select id from people where code = %(v)s") == (None, [note])
    assert notes(people, "select id from people where mail = %(v)s") == (None, [])


def test_a_column_that_ignores_case_is_a_note_that_names_the_cast(people: str) -> None:
    setup(people, "create extension citext", "create table logins (login citext)")
    note = "v is compared as text, a literal would be citext: write %(v)s::citext if it should compare as citext does"
    assert notes(people, "select login from logins where login = %(v)s") == (None, [note])
    assert notes(people, "select login from logins where login = %(v)s::citext") == (None, [])
    assert notes(people, "select login from logins where login = cast(%(v)s as citext)") == (None, [])


def test_a_query_that_plans_badly_together_is_a_note(people: str) -> None:
    why, (note,) = notes(people, "select id from big where %(v)s = '' or region = %(v)s")
    assert why is None
    assert note.startswith("together, PostgreSQL reads the whole of big, and alone only a part: ")
    assert notes(people, "select id from big where region = %(v)s") == (None, [])


def test_a_query_that_the_catalogue_polls_one_by_one_says_so(people: str) -> None:
    found = notes(people, "select id from big where region = %(v)s", together=False)
    assert found == ("the catalogue says so (together = false)", [])


def test_the_command_shows_notes(people: str, tmp_path: Path) -> None:
    file = tmp_path / "noted.toml"
    file.write_text("[queries.a]\nsql = 'select id from people where code = %(v)s'\nparams.v = 'text'")

    def check(*options: str) -> str:
        command = [sys.executable, "-P", "-m", "pollcast", "check", str(file), "--database-url", people, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

    assert "    note: v is compared as text, a literal would be bpchar: " in check()
    (listed,) = json.loads(check("--json"))["queries"]
    assert len(listed["notes"]) == 1


def test_a_setting_that_postgresql_does_not_have_is_a_problem(people: str) -> None:
    reason = 'unrecognized configuration parameter "tenant" (undefined_object, 42704)'
    assert problems(people, "select 1 as id where %(v)s = %(v)s", settings={"tenant": "v"}) == [("settings", reason)]


def test_a_setting_that_does_not_take_the_sample_value_is_a_note(people: str) -> None:
    _, found = notes(people, "select name from people where name = %(v)s", settings={"TimeZone": "v"})
    assert (
        "it was not tried with its settings, which do not take sample values: invalid value for parameter" in found[0]
    )


def test_settings_under_a_role_that_bypasses_row_level_security_are_a_note(people: str) -> None:
    _, found = notes(people, "select name from people where name = %(v)s", settings={"app.tenant": "v"})
    assert found == ["its settings keep no rows from anybody: the role of the database URL bypasses row-level security"]


@pytest.mark.parametrize(("params", "together"), [("", True), ('v = "text"', True), ('v = "text"', False)])
def test_the_forms_of_the_columns_in_a_digest_are_listed(people: str, params: str, together: bool) -> None:
    sql = (
        "select 1 as id, 2.5 as price, true as open, 'a'::text as name, '{}'::json as doc, now() as at,"
        f" '(1,2)'::point as place, array[1] as list, {'%(v)s' if params else 'null'}::text as v"
    )
    checked = query(sql, params=params, together=together)
    report = checking.report(Catalog({"q": checked}), "test.toml", people)
    json = ["doc", "at", "place", "list"]
    assert report.digests == {"q": {"values": ["id", "price", "open"], "texts": ["name", "v"], "json": json}}
    assert report.notes["q"] == []
    assert checking.report(Catalog({"q": checked}), "test.toml", None).digests == {"q": None}
