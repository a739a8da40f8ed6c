"""`pollcast types`: what the database says of each query's rows, as TypeScript and as Pydantic models.

mypy checks the models of tests/support/typed_queries.py, and `npm run check` the interfaces.
"""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from pollcast.poller.postgresql.nulls import nulled_tables
from pollcast.poller.row_typing import row_types
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.cli import main as cli
from pollcast.services.cli.pydantic_models import ATTRIBUTES, quoted
from tests.support import typed_models, typed_queries
from tests.support.poller_database import setup


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run `pollcast types` in this process, and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["pollcast", "types", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_types_are_those_that_are_committed_and_take_the_databases_own_values(database: str) -> None:
    setup(database, *typed_queries.SCHEMA)
    again = "tests/support/typed_queries.py explains how to write the files again"
    assert typed_queries.generated(database) == (
        typed_queries.MODELS.read_text(),
        typed_queries.INTERFACES.read_text(),
    ), again
    for row in [*typed_queries.values(database), *typed_queries.values(database, Decimal)]:
        typed = typed_models.Everything.model_validate(row)
        assert set(row) == set(type(typed).model_fields)
        assert typed.c3 == 2**63 - 1
        assert isinstance(typed.c6, Decimal)
        assert typed.c17 is not None
        assert typed.c17.tzinfo is not None
    names = {name: at for at, name in enumerate(typed_queries.NAMES)}
    assert typed_models.Names.model_validate(names).model_dump(by_alias=True) == names


def test_parameters_have_the_catalogues_limits_and_defaults() -> None:
    params = typed_models.ParametersParams(i=2**40, o=["a"])
    assert (params.small, params.n, params.ns, params.u, params.json_) == (-5, Decimal("0.1"), [], None, "x")
    for wrong in ({"small": 11}, {"o": ["c"]}, {"ns": [0]}, {"ns": [1, 2, 3, 4]}, {"t": "abcdef"}, {"other": 1}):
        with pytest.raises(ValidationError):
            typed_models.ParametersParams.model_validate({"i": 1, "o": []} | wrong)


def test_the_command_writes_files_and_reports_what_is_wrong(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup(database, "create table t (id int not null)")
    catalog, module, models = tmp_path / "c.toml", tmp_path / "c.ts", tmp_path / "c.py"
    catalog.write_text('[queries.q]\nsql = "select id from t"')
    monkeypatch.delenv("POLLCAST_CATALOG", raising=False)
    monkeypatch.delenv("POLLCAST_DATABASE_URL", raising=False)
    files = ("--catalog", catalog, "--typescript", module, "--python", models)
    assert run(monkeypatch, *files, "--database-url", database) == 0
    assert "  id: number\n" in module.read_text()
    assert "    id: int\n" in models.read_text()
    changed = module.stat().st_mtime_ns
    capsys.readouterr()
    monkeypatch.setenv("POLLCAST_DATABASE_URL", database)
    assert run(monkeypatch, *files) == 0
    assert capsys.readouterr().err == f"{module} is up to date\n{models} is up to date\n"
    assert module.stat().st_mtime_ns == changed
    assert run(monkeypatch, "--catalog", catalog) == 0
    assert capsys.readouterr().out == module.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.py", "c.toml", "c.ts"]

    catalog.write_text('[queries.q]\nsql = "select nothing from t"')
    assert run(monkeypatch, *files) == 2
    assert 'query q: sql: column "nothing" does not exist (undefined_column, 42703)' in capsys.readouterr().err
    for wrong, detail in {
        (
            "--catalog",
            catalog,
            "--database-url",
            "postgresql://x@127.0.0.1:1/x",
        ): "--database-url: the database can't be",
        ("--catalog", catalog, "--integers", "float"): "--integers: is 'float'",
        ("--database-url", database): "--catalog: is required",
    }.items():
        assert run(monkeypatch, *wrong) == 2
        assert detail in capsys.readouterr().err
    monkeypatch.delenv("POLLCAST_DATABASE_URL")
    assert run(monkeypatch, "--catalog", catalog) == 2
    assert "--database-url: is required" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("select a, left(b, 3), 'left join', \"left\" from t join u on true -- left join", set()),
        ("select a from t left join u on true", {"u"}),
        ('select a from t LEFT  outer join public."U v" as w using (a) left join x y on true', {'public."U v"', "x"}),
        ("select a from t left join u(b, c) on true", None),
        ("select a from t left join (u join v on true) on true", None),
        ("select a from t left join u join v on true on true", None),
        ("select a from t left join u left join v on true on true", None),
        ("select a from t left join lateral (select 1) s on true", None),
        ("select a from t left join only u on true", None),
        ("select a from t natural left join u", None),
        ("with u as (select b from v) select a from t left join u on true", None),
        ("select a from t natural full  outer\njoin u", None),
        ("select a from t RIGHT /* */ JOIN u on true", None),
        ("select a from t group by grouping sets (a, ())", None),
    ],
)
def test_only_tables_that_are_joined_by_themselves_are_the_ones_that_a_query_makes_null(
    sql: str, tables: set[str] | None
) -> None:
    assert nulled_tables(sql) == tables


def test_a_left_join_leaves_the_columns_of_its_left_side(database: str) -> None:
    setup(
        database,
        "create table ovens (id int primary key, name text not null)",
        "create table loaves (id int primary key, bread text not null, oven int, price numeric not null)",
        "create view warm as select * from ovens",
    )

    def never_null(sql: str, settings: str = "") -> list[str]:
        catalog = catalogue.read(f"[queries.q]\nsql = '{sql}'\n{settings}".encode(), "c.toml")
        return [column.name for column in row_types(catalog, "c.toml", database)["q"].columns if not column.nullable]

    joined = "from loaves l left join ovens o on o.id = l.oven"
    assert never_null(f"select l.id, l.bread, l.oven, o.name, l.price * 2 as double {joined}") == ["id", "bread"]
    assert never_null("select l.id, m.bread from loaves l left join loaves m on m.oven = l.oven") == []
    assert never_null("select s.bread, o.id from (select bread, oven from loaves) s left join ovens o on true") == [
        "bread"
    ]
    assert never_null("select l.id, w.name from loaves l left join warm w on true") == ["id"]
    assert never_null(f"select l.id {joined} where %(p)s > 0", 'settings = {"app.p" = "p"}\nparams.p = "int"') == []


def test_no_field_hides_an_attribute_of_a_model() -> None:
    names = {*dir(BaseModel), *dir(type(BaseModel))}
    assert {name for name in names if not name.startswith("_")} <= ATTRIBUTES


@pytest.mark.parametrize("text", ["a", 'a"b', "a'b\"", "\\", '\\"', "\n\0", "Ω🎈"])
def test_a_text_is_quoted_as_python_reads_it(text: str) -> None:
    assert eval(quoted(text)) == text
