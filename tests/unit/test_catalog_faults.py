"""Invalid catalogues: the report of every fault, and of a file that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.catalogue.catalog import Catalog, load, parse
from pollcast.services.errors import CatalogInvalid

SQL = 'sql = "select 1"'
ONE = "[queries.q]\nsql = 'select 1'"
SHOP = "[sources.shop]\nurl_env = 'SHOP_URL'"
MYSQL = SHOP + "\nkind = 'mysql'"
PSQL = 'sql = "select %(p)s"'


def faults(text: str) -> list[tuple[str, str, str]]:
    """Assert that the catalogue is refused; return the query, the field and the reason of each problem."""
    with pytest.raises(CatalogInvalid) as refused:
        parse(text, "c.toml")
    assert refused.value.exit == 2
    assert all(p.file == "c.toml" for p in refused.value.problems)
    return [(p.query, p.field, p.reason) for p in refused.value.problems]


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ("", "sql", "is missing"),
        ("sql = 1", "sql", "must be a string, not an integer"),
        ('sql = " "', "sql", "is empty"),
        ('sql = "delete from t"', "sql", "begins with 'delete'"),
        ('sql = "select 1; select 2"', "sql", "one statement"),
        ("sql = \"select 'a' like '%'\"", "sql", "stray percent"),
        (f"{SQL}\ntitle = 1", "title", "must be a string"),
        (f"{SQL}\nkey = 'id'", "key", "list of strings, not a string"),
        (f"{SQL}\nkey = ['']", "key", "empty name"),
        (f"{SQL}\nkey = [1]", "key", "an integer"),
        (f"{SQL}\nkey = ['a', 'b', 'a']", "key", "'a' twice"),
        (f"{SQL}\ninterval = 500", "interval", "has no unit"),
        (f"{SQL}\ninterval = true", "interval", "must be a duration"),
        (f"{SQL}\ninterval = '500'", "interval", "is not a duration"),
        (f"{SQL}\ninterval = '1d'", "interval", "is not a duration"),
        (f"{SQL}\ninterval = '-1s'", "interval", "is not a duration"),
        (f"{SQL}\ninterval = '49ms'", "interval", "at least 50ms"),
        (f"{SQL}\ninterval = '0s'", "interval", "at least 50ms"),
        (f"{SQL}\ntimeout = '0s'", "timeout", "too short"),
        (f"{SQL}\nlinger = '999999h'", "linger", "too long"),
        (f"{SQL}\nmin_interval = '0s'", "min_interval", "1ms"),
        (f"{SQL}\npresence = 'yes'", "presence", "true or false"),
        (f"{SQL}\nmax_rows = 0", "max_rows", "from 1"),
        (f"{SQL}\nmax_rows = true", "max_rows", "must be an integer"),
        (f"{SQL}\nmax_rows = 1.5", "max_rows", "must be an integer"),
        (f"{SQL}\nprobe = 'select %(p)s'", "probe", "takes no parameters"),
        (f"{SQL}\nprobe = 'truncate t'", "probe", "one SELECT"),
        (f"{SQL}\nlisten = ''", "listen", "is empty"),
        (f"{SQL}\nlisten = ['a']", "listen", "must be a string"),
        (f'{SQL}\nlisten = "a\\u0000b"', "listen", "NUL"),
        (f"{SQL}\nlisten = '{'ä' * 31}xy'", "listen", "is 64 bytes long"),
        (f"{SQL}\nroles = 'ops'", "roles", "list of strings"),
        (f"{SQL}\nintervall = '1s'", "intervall", "did you mean 'interval'"),
        (f"{SQL}\nzzz = 1", "zzz", "the known fields are title, sql, key"),
        (f"{SQL}\nparams = []", "params", "must be a table"),
        (PSQL, "sql", "no parameter: add p"),
        (f"{PSQL}\nparams.p = 'integer'", "params.p", "'integer' is not a type"),
        (f"{PSQL}\nparams.p = 1", "params.p", "must be a type"),
        (f"{PSQL}\nparams.p = {{}}", "params.p.type", "is missing"),
        (f"{PSQL}\nparams.p = {{ type = [] }}", "params.p.type", "a list is not a type"),
        (f"{PSQL}\nparams.p = {{ type = 'int', defualt = 1 }}", "params.p.defualt", "did you mean 'default'"),
        (f"{PSQL}\nparams.p = {{ type = 'int', default = 'x' }}", "params.p.default", "is not an int"),
        (f"{PSQL}\nparams.p = {{ type = 'int', default = 1.5 }}", "params.p.default", "is not an int"),
        (f"{PSQL}\nparams.p = {{ type = 'int', default = [1] }}", "params.p.default", "single value"),
        (f"{PSQL}\nparams.p = {{ type = 'text', default = 1 }}", "params.p.default", "must be a string"),
        (f"{PSQL}\nparams.p = {{ type = 'float', default = inf }}", "params.p.default", "is not a float"),
        (f"{PSQL}\nparams.p = {{ type = 'int', default = 0, min = 1 }}", "params.p.default", "too small"),
        (f"{PSQL}\nparams.p = {{ type = 'int', default = 2, max = 1 }}", "params.p.default", "too large"),
        (f"{PSQL}\nparams.p = {{ type = 'int', min = 2, max = 1 }}", "params.p.min", "more than max"),
        (f"{PSQL}\nparams.p = {{ type = 'text', min = 'a' }}", "params.p.min", "is for int, float"),
        (f"{PSQL}\nparams.p = {{ type = 'bool', max = true }}", "params.p.max", "is for int, float"),
        (f"{PSQL}\nparams.p = {{ type = 'text', enum = ['a'], default = 'b' }}", "params.p.default", "not one of"),
        (f"{PSQL}\nparams.p = {{ type = 'text', enum = ['a', 'a'] }}", "params.p.enum", "'a' twice"),
        (f"{PSQL}\nparams.p = {{ type = 'text', enum = [] }}", "params.p.enum", "is empty"),
        (f"{PSQL}\nparams.p = {{ type = 'text', enum = ['abc'], max_length = 2 }}", "params.p.enum", "at most 2"),
        (f"{PSQL}\nparams.p = {{ type = 'int', enum = ['1'] }}", "params.p.enum", "is for text"),
        (f"{PSQL}\nparams.p = {{ type = 'int', max_length = 5 }}", "params.p.max_length", "is for text"),
        (f"{PSQL}\nparams.p = {{ type = 'text', max_length = 0 }}", "params.p.max_length", "from 1"),
        (f"{PSQL}\nparams.p = {{ type = 'text', default = 'abc', max_length = 2 }}", "params.p.default", "at most 2"),
        (
            f"{PSQL}\nparams.p = {{ type = 'text', claim = 'c', default = 'x' }}",
            "params.p.default",
            "contradicts claim",
        ),
        (f"{PSQL}\nparams.p = {{ type = 'text', claim = '' }}", "params.p.claim", "is empty"),
        (f"{SQL}\nparams.P = 'int'", "params.'P'", "is not a parameter name"),
        (f"{SQL}\nmax_bytes = 4096", "max_bytes", "has no unit"),
        (f"{SQL}\nmax_bytes = true", "max_bytes", "must be a size"),
        (f"{SQL}\nmax_bytes = '4MB'", "max_bytes", "is not a size"),
        (f"{SQL}\nmax_bytes = '1GiB'", "max_bytes", "is not a size"),
        (f"{SQL}\nmax_bytes = '0.5KiB'", "max_bytes", "at least 1KiB"),
        (f"{SQL}\nmax_bytes = '1025MiB'", "max_bytes", "at most 1024MiB"),
        (f"{SQL}\ntogether = 'yes'", "together", "true, false or \"auto\", not 'yes'"),
        (f"{SQL}\ntogether = 1", "together", "not an integer"),
        (f"{SQL}\nsettings = 'a'", "settings", "must be a table"),
        (f"{SQL}\nsettings = {{ 'app.tenant' = 'p' }}", "settings", "'p', which is not a parameter"),
        (f"{PSQL}\nparams.p = 'int'\nsettings = {{ 'app.x' = 'pp' }}", "settings", "did you mean 'p'"),
        (f"{PSQL}\nparams.p = 'int'\nsettings = {{ 'app.x' = 1 }}", "settings", "the name of a parameter"),
        (f"{PSQL}\nparams.p = 'int'\nsettings = {{ 'app x' = 'p' }}", "settings", "not the name of a PostgreSQL"),
        (f"{PSQL}\nparams.p = 'int'\nsettings = {{ \"a'b\" = 'p' }}", "settings", "not the name of a PostgreSQL"),
        (f"{PSQL}\nparams.p = 'int'\nsettings = {{ Statement_Timeout = 'p' }}", "settings", "by Pollcast itself"),
        (f"{PSQL}\nparams.p = 'int'\nsettings = {{ transaction_read_only = 'p' }}", "settings", "by Pollcast itself"),
        (f"{PSQL}\nparams.p = 'int'\nsettings = {{ 'app.x' = 'p', 'App.X' = 'p' }}", "settings", "twice"),
        (f"{SQL}\nparams.p = 'int'", "params.p", "is never used"),
        (f"{SQL}\nparams.p = {{ type = 'int', default = 1 }}", "params.p", "is never used"),
        (f"{SQL}\nparams.p = {{ type = 'text', claim = 'tenant' }}", "params.p", "is never used"),
        ("sql = 'select 1 -- %(p)s'\nparams.p = 'int'", "params.p", "is never used"),
        (f"{PSQL}\nparams.p = 'int[][]'", "params.p", "'int[][]' is not a type"),
        (f"{PSQL}\nparams.p = '[]'", "params.p", "'[]' is not a type"),
        (
            f"{PSQL}\nparams.p = {{ type = 'int', max_items = 5 }}",
            "params.p.max_items",
            "is for lists; the type is int",
        ),
        (f"{PSQL}\nparams.p = {{ type = 'int[]', max_items = 0 }}", "params.p.max_items", "from 1"),
        (f"{PSQL}\nparams.p = {{ type = 'int[]', optional = true }}", "params.p.optional", "write default = []"),
        (f"{PSQL}\nparams.p = {{ type = 'int', optional = 1 }}", "params.p.optional", "true or false"),
        (
            f"{PSQL}\nparams.p = {{ type = 'int', optional = true, default = 1 }}",
            "params.p.optional",
            "contradicts default",
        ),
        (
            f"{PSQL}\nparams.p = {{ type = 'int', optional = true, claim = 'c' }}",
            "params.p.optional",
            "contradicts claim",
        ),
        (f"{PSQL}\nparams.p = {{ type = 'int[]', default = 1 }}", "params.p.default", "must be a list"),
        (f"{PSQL}\nparams.p = {{ type = 'int[]', default = [1, 'x'] }}", "params.p.default", "is not an int"),
        (f"{PSQL}\nparams.p = {{ type = 'int[]', default = [[1]] }}", "params.p.default", "single value"),
        (f"{PSQL}\nparams.p = {{ type = 'text[]', default = [1] }}", "params.p.default", "must be a string"),
        (f"{PSQL}\nparams.p = {{ type = 'int[]', default = [1, 2], max = 1 }}", "params.p.default", "too large"),
        (
            f"{PSQL}\nparams.p = {{ type = 'int[]', default = [1, 2], max_items = 1 }}",
            "params.p.default",
            "at most 1",
        ),
        (
            f"{PSQL}\nparams.p = {{ type = 'text[]', enum = ['a'], default = ['b'] }}",
            "params.p.default",
            "not one of",
        ),
        (f"{PSQL}\nparams.p = {{ type = 'int[]', enum = ['1'] }}", "params.p.enum", "is for text"),
        (
            f"{PSQL}\nparams.p = {{ type = 'text[]', claim = 'c', default = [] }}",
            "params.p.default",
            "contradicts claim",
        ),
    ],
)
def test_each_fault_is_reported_with_its_field_and_reason(fields: str, field: str, reason: str) -> None:
    [(query, where, why)] = faults(f"[queries.q]\n{fields}\n")
    assert (query, where) == ("q", field)
    assert reason in why


@pytest.mark.parametrize(
    ("text", "query", "field", "reason"),
    [
        ("", "", "queries", "holds no query"),
        ("[queries]", "", "queries", "holds no query"),
        ("queries = 1", "", "queries", "must be a table"),
        ("[queries.q]\nsql = 'select 1'\n[query.r]", "", "query", "did you mean 'queries'"),
        (f"{ONE}\n[sources]\nshop = 1", "", "sources.shop", "must be a table, not an integer"),
        (f"{ONE}\n[sources.Shop]\nurl_env = 'SHOP'", "", "sources.'Shop'", "is not a source name"),
        (f"{ONE}\n[sources.shop]", "", "sources.shop.url_env", "is missing: it must name the environment variable"),
        (f"{ONE}\n[sources.shop]\nurl_env = 'mysql://me:secret@db'", "", "sources.shop.url_env", "URL itself must not"),
        (
            f"{SHOP}\nkind = 'oracle'\n{ONE}",
            "",
            "sources.shop.kind",
            "must be one of postgresql, postgresql-plain",
        ),
        (f"{SHOP}\npool = 0\n{ONE}", "", "sources.shop.pool", "from 1"),
        (f"{SHOP}\npool = 1001\n{ONE}", "", "sources.shop.pool", "from 1 to 1000"),
        (f"{SHOP}\nstatements_per_minute = '9'\n{ONE}", "", "sources.shop.statements_per_minute", "an integer"),
        (f"{SHOP}\nurl = 1\n{ONE}", "", "sources.shop.url", "did you mean 'url_env'"),
        (f"{ONE}\nsource = 'shop'", "q", "source", "is not a source of this catalogue: add [sources.shop]"),
        (f"{SHOP}\n{ONE}\nsource = 'shob'", "q", "source", "did you mean 'shop'"),
        (f"{MYSQL}\n{ONE}\nsource = 'shop'\nlisten = 'a'", "q", "listen", "the source shop is of the kind mysql"),
        (f"{MYSQL}\n{ONE}\nsource = 'shop'\ntogether = true", "q", "together", "several topics in one statement"),
        (
            f"{MYSQL}\n{ONE}\nsource = 'shop'\nsettings = {{ x = 'p' }}\nparams.p = 'int'",
            "q",
            "settings",
            "no settings of PostgreSQL",
        ),
        ("[queries]\nq = 'select 1'", "q", "", "must be a table, not a string"),
        ("[queries.Q]\nsql = 'select 1'", "'Q'", "", "is not a query name"),
        ("[queries.'']\nsql = 'select 1'", "''", "", "is not a query name"),
        ("[queries.q]\nsql = ", "", "", "line 2"),
        ("[queries.q]\nsql = 'select 1'\n[queries.q]\nsql = 'select 2'", "", "", "line 3"),
        ("[queries.q]\nsql = 'a'\nsql = 'b'", "", "", "line 3"),
    ],
)
def test_a_fault_outside_of_a_field_is_reported(text: str, query: str, field: str, reason: str) -> None:
    [(reported_query, reported_field, why)] = faults(text)
    assert (reported_query, reported_field) == (query, field)
    assert reason in why


def test_all_faults_of_all_queries_are_reported_at_once() -> None:
    reported = faults(
        "[queries.a]\nsql = 'select 1'\ninterval = 5\nkey = 'x'\n"
        "[queries.b]\nsql = 'select %(p)s'\nparams = { p = { typ = 'int', default = 'x' } }\n"
        "[queries.c]\nsql = 'select 1'\n"
    )
    assert [(query, field) for query, field, _ in reported] == [
        ("a", "key"),
        ("a", "interval"),
        ("b", "params.p.type"),
        ("b", "params.p.typ"),
    ]


def test_a_problem_reads_as_file_query_field_and_reason() -> None:
    with pytest.raises(CatalogInvalid, match=r"^c\.toml: query q: interval: has no unit"):
        parse("[queries.q]\nsql = 'select 1'\ninterval = 5", "c.toml")


def test_an_unreadable_file_is_a_problem_of_the_catalogue(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match="No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(CatalogInvalid, match="directory"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xfc\n")
    with pytest.raises(CatalogInvalid, match="not UTF-8: byte 2 is 0xfc"):
        load(tmp_path / "latin.toml")


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ["title", "sql", "key", "interval", "timeout", "linger", "presence", "max_rows", "probe", "refresh", "roles"]
FIELDS += ["max_bytes", "together", "settings", "listen"]
PARAM_FIELDS = ["type", "default", "enum", "min", "max", "max_length", "claim", "max_items", "optional"]


def toml(value: object) -> str:
    """Return a value as inline TOML."""
    match value:
        case None:
            return '""'
        case bool():
            return str(value).lower()
        case float() | int():
            return str(value)
        case str():
            return json.dumps(value)
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
        case _:
            raise AssertionError(value)


@given(
    st.dictionaries(st.sampled_from([*FIELDS, "params"]), JSON_LIKE, max_size=4),
    st.dictionaries(st.sampled_from(PARAM_FIELDS), JSON_LIKE),
    st.sampled_from(["int", "text", "date", "numeric", "int[]", "text[]", "bool[]"]),
)
def test_any_catalogue_is_either_valid_or_refused_with_catalog_invalid(
    fields: dict[str, object], param: dict[str, object], type: str
) -> None:
    fields = {"sql": "select %(p)s", "params": {"p": {"type": type, **param}}, **fields}
    try:
        catalog = parse(toml({"q": fields}).join(("queries = ", "\n")), "c.toml")
    except CatalogInvalid:
        return
    assert isinstance(catalog, Catalog)
    json.dumps(catalog.query("q").public(), allow_nan=False)
