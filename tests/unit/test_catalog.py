"""The catalogue: the meaning of a valid one, and the report of every fault in an invalid one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.catalogue.catalog import Catalog, load, parse
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import CatalogInvalid, UnknownQuery

EVERY_FIELD = '''
[queries.orders_by_region]
title = "Open orders of one region"        # optional
sql = """
select id, customer, amount from orders
where region = %(region)s and tenant = %(tenant)s
order by amount desc limit %(limit)s
"""
key = ["id"]
interval = "500ms"
timeout = "2s"
linger = "2s"
presence = true
max_rows = 1000
probe = "select max(updated_at) from orders"
refresh = "30s"
roles = ["sales", "ops"]

[queries.orders_by_region.params]
region = "text"
limit  = { type = "int", default = 10, min = 1, max = 100 }
tenant = { type = "text", claim = "tenant_id" }
'''


def one(fields: str, params: str = "") -> Query:
    """Return the query `q` with these fields and parameters, the only one of its catalogue."""
    return parse(f"[queries.q]\n{fields}\n[queries.q.params]\n{params}\n", "c.toml").query("q")


def faults(text: str) -> list[tuple[str, str, str]]:
    """Assert that the catalogue is refused; return the query, the field and the reason of each problem."""
    with pytest.raises(CatalogInvalid) as refused:
        parse(text, "c.toml")
    assert refused.value.exit == 2
    assert all(p.file == "c.toml" for p in refused.value.problems)
    return [(p.query, p.field, p.reason) for p in refused.value.problems]


def test_every_field_of_a_query_is_read() -> None:
    query = parse(EVERY_FIELD, "c.toml").query("orders_by_region")
    assert query.title == "Open orders of one region"
    assert query.sql.endswith("limit %(limit)s")
    assert query.key == ("id",)
    assert (query.interval, query.timeout, query.linger, query.refresh) == (0.5, 2.0, 2.0, 30.0)
    assert query.presence
    assert query.max_rows == 1000
    assert query.probe == "select max(updated_at) from orders"
    assert query.roles == ("sales", "ops")
    assert list(query.params) == ["region", "limit", "tenant"]
    limit, tenant = query.params["limit"], query.params["tenant"]
    assert (limit.default, limit.min, limit.max, limit.required) == ("10", "1", "100", False)
    assert (tenant.claim, tenant.required, tenant.max_length) == ("tenant_id", False, 256)


def test_the_public_description_omits_sql_and_claim_bound_parameters() -> None:
    public = parse(EVERY_FIELD, "c.toml").query("orders_by_region").public()
    assert json.loads(json.dumps(public)) == {
        "name": "orders_by_region",
        "title": "Open orders of one region",
        "key": ["id"],
        "interval_ms": 500,
        "presence": True,
        "params": [
            {
                "name": "region",
                "type": "text",
                "required": True,
                "default": None,
                "enum": None,
                "min": None,
                "max": None,
                "max_length": 256,
            },
            {
                "name": "limit",
                "type": "int",
                "required": False,
                "default": 10,
                "enum": None,
                "min": 1,
                "max": 100,
                "max_length": None,
            },
        ],
    }


def test_absent_fields_have_their_defaults() -> None:
    query = one('sql = "select 1;"')
    assert query == Query(name="q", sql="select 1")
    assert (query.interval, query.timeout, query.linger, query.refresh) == (1.0, 1.0, 5.0, 60.0)
    assert (query.max_bytes, query.together, query.settings) == (16 * 1024 * 1024, "auto", {})
    assert (query.key, query.presence, query.max_rows, query.probe, query.roles) == ((), False, 10_000, None, ())
    assert query.public()["title"] is None


@pytest.mark.parametrize(("interval", "timeout"), [("50ms", 1.0), ("1s", 1.0), ("2.5s", 2.5), ("1m", 60.0)])
def test_the_default_timeout_is_the_interval_and_at_least_a_second(interval: str, timeout: float) -> None:
    assert one(f'sql = "select 1"\ninterval = "{interval}"').timeout == timeout


@pytest.mark.parametrize(
    ("text", "seconds"), [("50ms", 0.05), ("1.5s", 1.5), ("1m", 60.0), ("1h", 3600.0), ("100ms", 0.1), ("7ms", 0.007)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert one(f'sql = "select 1"\nlinger = "{text}"').linger == seconds


def test_linger_may_be_zero() -> None:
    assert one('sql = "select 1"\nlinger = "0s"').linger == 0.0


@pytest.mark.parametrize(
    ("type", "toml", "default"),
    [
        ("int", "7", "7"),
        ("int", '"007"', "7"),
        ("float", "1", "1.0"),
        ("float", "1.50", "1.5"),
        ("numeric", '"1.50"', "1.5"),
        ("numeric", "1e3", "1000"),
        ("bool", "true", "true"),
        ("bool", '"0"', "false"),
        ("date", "2026-01-31", "2026-01-31"),
        ("date", '"2026-01-31"', "2026-01-31"),
        ("timestamptz", "2026-01-31T14:00:00+02:00", "2026-01-31T12:00:00Z"),
        ("timestamptz", '"2026-01-31T12:00:00Z"', "2026-01-31T12:00:00Z"),
        ("text", '""', ""),
        ("uuid", '"6BA7B8109DAD11D180B400C04FD430C8"', "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    ],
)
def test_a_default_is_native_toml_or_a_string(type: str, toml: str, default: str) -> None:
    param = one('sql = "select %(p)s"', f'p = {{ type = "{type}", default = {toml} }}').params["p"]
    assert (param.default, param.required) == (default, False)


def test_limits_are_canonical_texts_and_bound_the_values_of_a_parameter() -> None:
    query = one(
        'sql = "select %(a)s, %(b)s, %(c)s"',
        'a = { type = "text", enum = ["x", "y"], max_length = 1 }\n'
        'b = { type = "date", min = 2026-01-01, max = "2026-12-31" }\n'
        'c = { type = "int", claim = "level", min = 1, max = 3 }',
    )
    assert (query.params["a"].enum, query.params["a"].max_length) == (("x", "y"), 1)
    assert (query.params["b"].min, query.params["b"].max) == ("2026-01-01", "2026-12-31")
    assert (query.params["c"].claim, query.params["c"].required) == ("level", False)
    with pytest.raises(ValueError, match="least"):
        query.params["b"].value("2025-12-31")
    with pytest.raises(ValueError, match="most"):
        query.params["b"].value("2027-01-01")
    with pytest.raises(ValueError, match="not one of 'x', 'y'"):
        query.params["a"].value("z")
    with pytest.raises(ValueError, match="at most 1"):
        query.params["a"].value("xy")


def test_a_list_has_a_type_a_bound_and_the_distinct_values_of_its_default() -> None:
    query = one(
        'sql = "select %(a)s, %(b)s, %(c)s"',
        'a = "text[]"\n'
        'b = { type = "int[]", default = [2, "01", 10, 1], max_items = 4, min = 1 }\n'
        'c = { type = "date[]", default = [] }',
    )
    a, b, c = query.params.values()
    assert (a.declared_type, a.type, a.required, a.default, a.max_items) == ("text[]", "text", True, None, 100)
    assert (b.required, b.default, b.max_items) == (False, ("1", "10", "2"), 4)
    assert (c.required, c.default, c.may_be_absent, b.may_be_absent) == (False, (), True, False)
    assert [(p["type"], p["required"], p["default"]) for p in query.public()["params"]] == [
        ("text[]", True, None),
        ("int[]", False, [1, 10, 2]),
        ("date[]", False, []),
    ]


def test_an_optional_parameter_is_null_when_it_is_absent() -> None:
    param = one('sql = "select %(p)s"', 'p = { type = "int", optional = true, min = 1 }').params["p"]
    assert (param.required, param.default, param.may_be_absent, param.absent) == (False, None, True, None)


@pytest.mark.parametrize(
    ("text", "size"), [("1KiB", 1024), ("512KiB", 524_288), ("4MiB", 4_194_304), ("1.5MiB", 1_572_864)]
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert one(f'sql = "select 1"\nmax_bytes = "{text}"').max_bytes == size


@pytest.mark.parametrize(("toml", "together"), [("true", True), ("false", False), ('"auto"', "auto")])
def test_together_is_a_boolean_or_auto(toml: str, together: object) -> None:
    assert one(f'sql = "select 1"\ntogether = {toml}').together is together or together == "auto"


def test_settings_are_set_to_the_values_of_parameters_which_count_as_used() -> None:
    query = one(
        'sql = "select 1"\nsettings = { "app.tenant" = "t", "app.ids" = "ids", timezone = "zone" }',
        't = { type = "text", claim = "tenant" }\nids = "int[]"\nzone = { type = "text", optional = true }',
    )
    assert query.settings == {"app.tenant": "t", "app.ids": "ids", "timezone": "zone"}
    assert query.setting_values({"t": "a", "ids": ("1", "2"), "zone": None}) == (
        ("app.tenant", "a"),
        ("app.ids", '{"1","2"}'),
        ("timezone", None),
    )
    assert hash(query) == hash(query)


SQL = 'sql = "select 1"'
PSQL = 'sql = "select %(p)s"'


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
        (f"{SQL}\npresence = 'yes'", "presence", "true or false"),
        (f"{SQL}\nmax_rows = 0", "max_rows", "from 1"),
        (f"{SQL}\nmax_rows = true", "max_rows", "must be an integer"),
        (f"{SQL}\nmax_rows = 1.5", "max_rows", "must be an integer"),
        (f"{SQL}\nprobe = 'select %(p)s'", "probe", "takes no parameters"),
        (f"{SQL}\nprobe = 'truncate t'", "probe", "one SELECT"),
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


def test_a_file_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text(EVERY_FIELD, encoding="utf-8")
    assert list(load(file).queries) == ["orders_by_region"]


def test_an_unreadable_file_is_a_problem_of_the_catalogue(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match="No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(CatalogInvalid, match="directory"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xfc\n")
    with pytest.raises(CatalogInvalid, match="not UTF-8: byte 2 is 0xfc"):
        load(tmp_path / "latin.toml")


def test_the_error_for_an_unknown_query_suggests_a_similar_one() -> None:
    catalog = parse(EVERY_FIELD, "c.toml")
    with pytest.raises(UnknownQuery, match="did you mean 'orders_by_region'"):
        catalog.query("order_by_region")
    with pytest.raises(UnknownQuery, match=r"^there is no query 'zzz'$"):
        catalog.query("zzz")
    with pytest.raises(UnknownQuery) as refused:
        catalog.query("x" * 100_000)
    assert len(refused.value.detail) < 100


def test_queries_are_frozen_and_hashable() -> None:
    query = one(PSQL, 'p = "int"')
    assert {query: 1}[query] == 1
    with pytest.raises(TypeError):
        query.params["q"] = query.params["p"]  # type: ignore[index]


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ["title", "sql", "key", "interval", "timeout", "linger", "presence", "max_rows", "probe", "refresh", "roles"]
FIELDS += ["max_bytes", "together", "settings"]
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


def test_fields_without_effect_are_accepted() -> None:
    text = "[queries.q]\nsql = 'select 1 as one'\nkey = []\nroles = []\nrefresh = '5s'\nsettings = {}"
    query = parse(text, "c.toml").query("q")
    assert (query.key, query.roles, query.probe, query.settings) == ((), (), None, {})
