"""Valid catalogues: the meaning of their fields."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pollcast.services.catalogue.catalog import load, parse
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import UnknownQuery

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
listen = "Orders changed"
roles = ["sales", "ops"]

[queries.orders_by_region.params]
region = "text"
limit  = { type = "int", default = 10, min = 1, max = 100 }
tenant = { type = "text", claim = "tenant_id" }
'''


def one(fields: str, params: str = "") -> Query:
    """Return the query `q` with these fields and parameters, the only one of its catalogue."""
    return parse(f"[queries.q]\n{fields}\n[queries.q.params]\n{params}\n", "c.toml").query("q")


def test_every_field_of_a_query_is_read() -> None:
    query = parse(EVERY_FIELD, "c.toml").query("orders_by_region")
    assert query.title == "Open orders of one region"
    assert query.sql.endswith("limit %(limit)s")
    assert query.key == ("id",)
    assert (query.interval, query.timeout, query.linger, query.refresh) == (0.5, 2.0, 2.0, 30.0)
    assert query.presence
    assert query.max_rows == 1000
    assert query.probe == "select max(updated_at) from orders"
    assert query.listen == "Orders changed"
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
    assert query.min_interval == 0.1
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
    assert one('sql = "select 1"\nmin_interval = "20ms"').min_interval == 0.02


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


def test_a_file_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text(EVERY_FIELD, encoding="utf-8")
    assert list(load(file).queries) == ["orders_by_region"]


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
    query = one('sql = "select %(p)s"', 'p = "int"')
    assert {query: 1}[query] == 1
    with pytest.raises(TypeError):
        query.params["q"] = query.params["p"]  # type: ignore[index]


def test_fields_without_effect_are_accepted() -> None:
    text = "[queries.q]\nsql = 'select 1 as one'\nkey = []\nroles = []\nrefresh = '5s'\nsettings = {}"
    query = parse(text, "c.toml").query("q")
    assert (query.key, query.roles, query.probe, query.settings) == ((), (), None, {})
