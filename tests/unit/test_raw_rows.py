"""Rows that are encoded once, and not again by each poll that finds them unchanged."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.sources import encoding
from pollcast.poller.sources.answer import Answer, Result
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.raw_rows import KnownRows
from pollcast.poller.sources.row_encoder import RowEncoder, each
from pollcast.services.catalogue.query import Query
from pollcast.services.delta import Row

QUERY = Query("q", "select 1")
KEYED = Query("q", "select 1", key=("a",))
ROWS = st.lists(st.tuples(st.integers(0, 5) | st.none(), st.sampled_from(["x", "y\n", "ä"]) | st.none()), max_size=12)


class Counting:
    """An encoder of integers that counts the values that it encodes."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, value: int) -> bytes:
        self.count += 1
        return encoding.integer(value)


def encoder(query: Query, integer: encoding.Encoder = encoding.integer) -> RowEncoder:
    """Return the encoder of rows of an integer and a text."""
    return RowEncoder([("a", each(integer)), ("b", each(encoding.text))], query.key)


def poll(
    query: Query, rows: RowEncoder, known: list[Row] | None, raw: Sequence[tuple[object, ...]], pieces: int
) -> list[Row] | PollError:
    """Return the outcome of a poll that receives these rows in pieces."""
    answer = Answer(query, [known])
    adding = KnownRows(rows, answer)
    for start in range(0, len(raw), pieces):
        adding.add(raw[start : start + pieces])
    adding.end()
    answer.check()
    return answer.outcomes[0]


@given(polls=st.lists(ROWS, min_size=1, max_size=5), pieces=st.integers(1, 5), keyed=st.booleans())
def test_a_result_is_the_same_whether_its_rows_were_known_or_not(
    polls: list[list[tuple[object, ...]]], pieces: int, keyed: bool
) -> None:
    query = KEYED if keyed else QUERY
    rows, known = encoder(query), None
    for raw in polls:
        found = poll(query, rows, known, raw, pieces)
        expected = poll(query, encoder(query), None, raw, 100)
        assert type(found) is type(expected)
        assert found == expected or isinstance(found, PollError)
        if not isinstance(found, PollError):
            known = found


def test_a_row_is_encoded_only_when_it_is_new() -> None:
    counting = Counting()
    rows = encoder(QUERY, counting)
    first = poll(QUERY, rows, None, [(1, "x"), (2, "x"), (3, "x")], 2)
    assert isinstance(first, Result)
    assert counting.count == 3
    assert poll(QUERY, rows, first, [(1, "x"), (2, "x"), (3, "x")], 2) is first
    assert counting.count == 3
    second = poll(QUERY, rows, first, [(4, "x"), (1, "x"), (2, "x"), (2, "y")], 2)
    assert isinstance(second, Result)
    assert counting.count == 5
    assert second[1] == first[0]
    third = poll(QUERY, rows, second, [(2, "y"), (3, "x")], 1)
    assert [text for _, text in third] == [b'{"a":2,"b":"y"}', b'{"a":3,"b":"x"}']  # type: ignore[union-attr]
    assert counting.count == 6


def test_rows_that_another_encoder_has_encoded_are_not_taken_over() -> None:
    first = poll(QUERY, encoder(QUERY), None, [(1, "x")], 2)
    assert isinstance(first, Result)
    other = RowEncoder([("c", each(encoding.integer)), ("d", each(encoding.text))], ())
    assert poll(QUERY, other, first, [(1, "x")], 2) == [(b"", b'{"c":1,"d":"x"}')]
    assert poll(QUERY, encoder(QUERY), list(first), [(1, "x")], 2) == first
