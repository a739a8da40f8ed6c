"""Spellings: a topic has at most eight beside its canonical one (docs/reference/topics.md#spellings)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway import phoenix
from pollcast.gateway.spellings import MAX_SPELLINGS, Spellings
from pollcast.services.catalogue.catalog import parse as parse_catalog
from pollcast.services.catalogue.topics import parse
from pollcast.services.errors import InvalidParams

CATALOG = parse_catalog(
    """
    [queries.mine]
    sql = "select %(tenant)s, %(limit)s"
    params.tenant = { type = "text", claim = "tenant" }
    params.limit = { type = "int", default = 10 }
    """,
    "c.toml",
)
TOPIC = parse("live:mine", CATALOG, {"tenant": "acme"})
CANONICAL = b'"live:mine?limit=10"'
SPELLINGS = [CANONICAL, *(phoenix.quote(f"live:mine?limit={'0' * zeros}10") for zeros in range(1, 15))]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(SPELLINGS))))
def test_a_spelling_is_refused_exactly_when_eight_others_are_in_use(steps: list[tuple[bool, bytes]]) -> None:
    spellings, used = Spellings(TOPIC), Counter[bytes]()
    for joins, spelling in steps:
        if not joins:
            if used[spelling]:
                spellings.remove(spelling)
                used[spelling] -= 1
            continue
        others = {each for each, count in used.items() if count and each != CANONICAL}
        if spelling != CANONICAL and spelling not in others and len(others) == MAX_SPELLINGS:
            with pytest.raises(InvalidParams, match=r'join "live:mine\?limit=10"$'):
                spellings.check(spelling)
        else:
            spellings.check(spelling)
            spellings.add(spelling)
            used[spelling] += 1
