"""Batchable queries: whether the topics of a query can share a statement, judged by its text. Pure.

In the statement that polls topics together (statement.py), a placeholder is a column of the statement around the query.
PostgreSQL assigns an aggregate to the query whose columns are its arguments: `count(%(x)s)`, which uses no column of
its own query, would belong to the outer statement, where it is refused (42803). Queries found here are polled topic by
topic from the start. An aggregate not in AGGREGATES is detected when the topics are first polled together.
"""

from __future__ import annotations

from collections.abc import Sequence

from pollcast.poller.postgresql.statement_text import placeholders
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.sql import Token, tokens

_AGGREGATES = """any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp every
json_agg json_agg_strict json_arrayagg json_object_agg json_objectagg jsonb_agg jsonb_agg_strict jsonb_object_agg max
min range_agg range_intersect_agg regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy
regr_syy stddev stddev_pop stddev_samp string_agg sum var_pop var_samp variance xmlagg"""
AGGREGATES = frozenset(_AGGREGATES.split())
"""Names of PostgreSQL's built-in aggregates."""

_KEYWORDS = """all and as asc between by case cast coalesce desc distinct else end false filter first from greatest
ilike in is last least like not null nullif nulls or order then true when where"""
_NO_COLUMNS = frozenset(_KEYWORDS.split())


def unbatchable_reason(query: Query) -> str | None:
    """Return a message with the reason why the topics can't share a statement; None when they can."""
    if not query.params:
        return "it has no parameters, so there is one topic"
    if not placeholders(query.sql):
        return "its SQL has no parameter, and topics whose settings differ can't share a statement"
    found = [token for token in tokens(query.sql) if token.kind not in ("space", "hint")]
    for at in range(len(found) - 1):
        if found[at].text in AGGREGATES and found[at].kind == "word" and found[at + 1].text == "(":
            inside = _arguments(found, at + 1)
            named = next((token.text for token in inside if token.kind == "param"), None)
            if named and not any(_may_be_column(inside, place) for place in range(len(inside))):
                return f"{found[at].text}() is given {named} and no column, so the topics can't share a statement"
    return None


def _arguments(found: Sequence[Token], start: int) -> list[Token]:
    """Return the arguments of an aggregate: the tokens in its parentheses, which open at `start`, and in its FILTER.

    Return nothing for a window function, which always belongs to its own query.
    """
    end = _closing(found, start)
    inside = list(found[start + 1 : end])
    if _texts(found, end + 1) == ("filter", "("):
        start, end = end + 2, _closing(found, end + 2)
        inside += found[start + 1 : end]
    return [] if _texts(found, end + 1)[0] == "over" else inside


def _closing(found: Sequence[Token], start: int) -> int:
    depth = 0
    for at in range(start, len(found)):
        if found[at].text in ("(", ")"):
            depth += 1 if found[at].text == "(" else -1
            if depth == 0:
                return at
    return len(found)


def _texts(found: Sequence[Token], at: int) -> tuple[str, str]:
    first, second = ([token.text for token in found[at : at + 2]] + ["", ""])[:2]
    return first, second


def _may_be_column(inside: Sequence[Token], at: int) -> bool:
    token = inside[at]
    if token.kind == "name":
        return True
    if token.kind != "word":
        return False
    if token.text == "select":  # a subquery, whose columns are not examined here
        return True
    before = inside[at - 1].text if at else ""
    after = inside[at + 1].text if at + 1 < len(inside) else ""
    is_type = before in (":", "as")  # `::` is two tokens
    return not (is_type or after == "(" or token.text in _NO_COLUMNS)
