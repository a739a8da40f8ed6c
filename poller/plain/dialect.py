"""The dialect of servers that speak PostgreSQL's protocol and little of its SQL: queries run as they are written. Pure.

A statement is the query's own text with `$1`, `$2`, … for its placeholders. Nothing is put around it, no value is cast,
and no function, lateral join or array is used: order, plans and names are those that the author sees when running it.
Parameters are typed nevertheless, as their types travel beside the text (poller/plain/text_cursor.py).

A list is bound element by element, because few of these servers have arrays: `= any(%(x)s)` and `in (%(x)s)` become
`in ($1, $2)`, and `<> all(%(x)s)` becomes `not in ($1, $2)`. Of an empty list nothing is a member: `in (NULL)` is never
true, and `not in` has to be true, so there the list is a SELECT without rows.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import chain
from typing import Final, NamedTuple

import psycopg

from pollcast.poller.sources.source import Abilities
from pollcast.poller.sources.statement import Statement, Values, types
from pollcast.poller.sources.topic_by_topic import TopicByTopic
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.sql import Placeholder, split
from pollcast.services.catalogue.values import Value

CACHED = 4096
"""Maximum number of texts that are kept."""


class Bound(NamedTuple):
    """A parameter of a statement: its text, None for NULL, and the name of its PostgreSQL type."""

    text: str | None
    type: str

    @property
    def number(self) -> int:
        """The number of the type."""
        return psycopg.adapters.types[self.type].oid


class PlainDialect(TopicByTopic):
    """The Dialect (poller/sources/source.py) of the kind `postgresql-plain`."""

    kind: Final = "postgresql-plain"
    can: Final = Abilities(trips=True)

    def alone(self, query: Query, values: Values) -> Statement:
        """Return the statement that polls one topic."""
        named = dict(zip(sorted(query.params), types(query, values), strict=True))
        sizes = tuple((name, len(value)) for name, value in sorted(values.items()) if isinstance(value, tuple))
        sql, names = _text(query.sql, sizes)
        bound = chain.from_iterable(_bound(values[name], named[name]) for name in names)
        return Statement(sql, tuple(bound))

    def probe(self, query: Query) -> Statement:
        """Return the statement that runs the query's probe."""
        assert query.probe is not None
        return Statement(_text(query.probe, ())[0], (), probe=True)


_LIST_BEFORE = re.compile(
    r"(?:(?P<member>=\s*any|\bin)|(?P<other>(?:<>|!=)\s*all|\bnot\s+in))\s*\(\s*\Z", re.IGNORECASE
)
_WORD_BEFORE, _WORD_AFTER = re.compile(r"[\w$]\Z"), re.compile(r"\w")


@lru_cache(maxsize=CACHED)
def _text(sql: str, sizes: tuple[tuple[str, int], ...]) -> tuple[str, tuple[str, ...]]:
    """Return the text of a statement, and the parameter of each of its values in their order.

    `sizes` has the number of values of each list parameter. A list is named once, whatever that is.
    """
    lists = dict(sizes)
    numbers: dict[str, int] = {}
    names: list[str] = []
    text = ""
    used = 0
    for fragment in split(sql):
        if not isinstance(fragment, Placeholder):
            text += f" {fragment.text}" if names and _WORD_AFTER.match(fragment.text) else fragment.text
            continue
        name = fragment.name
        if name not in numbers:
            numbers[name] = used + 1
            used += max(1, lists.get(name, 1))
            names.append(name)
        if _WORD_BEFORE.search(text):
            text += " "
        listed = ", ".join(f"${numbers[name] + at}" for at in range(max(1, lists.get(name, 1))))
        before = _LIST_BEFORE.search(text) if name in lists else None
        if before is not None:
            head = text[: before.start()]
            text = f"{head}{' ' if _WORD_BEFORE.search(head) else ''}{'in' if before['member'] else 'not in'} ("
            if not lists[name] and before["other"]:
                listed = f"select {listed} where 1 = 0"
        text += listed
    return text, tuple(names)


def _bound(value: Value, type: str) -> list[Bound]:
    """Return the parameters of one value; an empty list has one that is NULL."""
    if isinstance(value, tuple):
        return [Bound(text, type) for text in value] or [Bound(None, type)]
    return [Bound(value, type)]
