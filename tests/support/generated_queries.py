"""Generated queries: SELECTs whose names collide with everything in reach, for the comparison of alone and together.

`queries()` is a Hypothesis strategy of catalogue queries with the values of some topics, on the tables that SCHEMA of
generated_sql.py makes. Every query orders its rows by all of its columns, so its result is one sequence of rows. Most
queries are valid; some mention a column that no table has, divide by zero or have two output columns of one name:
errors are compared as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypothesis import reject
from hypothesis import strategies as st

from pollcast.services.catalogue import catalog
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.values import Value
from pollcast.services.errors import CatalogInvalid
from tests.support.generated_sql import PARAMETER_NAMES, Scope, one_in, statement

VALUES: dict[str, tuple[Value, ...]] = {
    "int": ("0", "1", "2", "-3", "7"),
    "text": ("", "a", "b", "5", "it's", "%", "ä\\"),
    "bool": ("true", "false"),
    "numeric": ("0", "1.50", "-7"),
    "date": ("2026-01-31", "2020-02-29"),
    "uuid": ("00000000-0000-0000-0000-000000000001",),
    "int[]": ((), ("1",), ("0", "2", "7")),
    "text[]": ((), ("a",), ("", "a\\", 'b"', "{c}", "null")),
}


@dataclass(frozen=True)
class Case:
    """A query and the values of two or three topics."""

    query: Query
    topics: Sequence[Mapping[str, Value]]


@st.composite
def queries(draw: st.DrawFn) -> Case:
    """Return a query that the catalogue accepts, with the values of some topics."""
    names = draw(st.lists(st.sampled_from(PARAMETER_NAMES), min_size=1, max_size=3, unique=True))
    parameters = {name: draw(st.sampled_from(tuple(VALUES))) for name in names}
    optional = {name for name, type in parameters.items() if not type.endswith("[]") and draw(one_in(4))}
    scope = Scope(parameters=parameters)
    sql = statement(draw, scope)
    used = {name for name in names if f"%({name})s" in sql}
    if unused := [name for name in names if name not in used]:
        # A parameter that is never used is refused.
        listed = ", ".join(f"%({name})s" for name in unused)
        sql = f"select * from ({sql}) as u cross join (select {listed}) as w"
    fields = [
        f"{name} = {{ type = {json.dumps(type)}"
        + (", optional = true" if name in optional else "")
        + (", default = []" if type.endswith("[]") else "")
        + " }"
        for name, type in parameters.items()
    ]
    text = f"[queries.q]\nsql = {json.dumps(sql, ensure_ascii=False)}\ntimeout = '10s'\n[queries.q.params]\n"
    try:
        query = catalog.parse(text + "\n".join(fields), "generated").query("q")
    except CatalogInvalid as error:
        if all("two output columns" in problem.reason for problem in error.problems):
            reject()
        raise
    choices = {
        name: st.sampled_from((*VALUES[type], *((None,) if name in optional else ())))
        for name, type in parameters.items()
    }
    count = draw(st.integers(2, 3))
    return Case(query, [{name: draw(choice) for name, choice in choices.items()} for _ in range(count)])
