"""The division of a statement's rows into topics' results (poller/sources/answer.py)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.sources.answer import Answer, Piece, Result, size_of
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.services.delta import Row, apply, diff
from tests.support.poller_database import query

KEYED = query("select 1 as id", key=["id"], max_rows=5, max_bytes="1KiB")
KEYLESS = query("select 1 as id", max_rows=5, max_bytes="1KiB")


def rows(values: list[int]) -> list[Row]:
    return [(b"[%d]" % n, b'{"id":%d}' % n) for n in values]


def answered(known: list[list[Row] | None], results: list[list[Row]], sizes: list[int], keyed: bool = True) -> Answer:
    """Return the answer of these results, received in pieces of these sizes and a last one with the rest."""
    left: Piece = [(at, *row) for at, result in enumerate(results, 1) for row in result]
    answer = Answer(KEYED if keyed else KEYLESS, known)
    for size in sizes:
        piece, left = left[:size], left[size:]
        answer.add(piece)
    answer.add(left)
    answer.check()
    return answer


RESULTS = st.lists(st.lists(st.integers(0, 9), max_size=5, unique=True).map(rows), min_size=1, max_size=4)


@given(RESULTS, st.data(), st.lists(st.integers(0, 4), max_size=8))
def test_topics_get_their_rows_however_the_answer_is_cut(
    results: list[list[Row]], data: st.DataObject, sizes: list[int]
) -> None:
    before = st.one_of(st.none(), RESULTS.map(lambda each: each[0]))
    known = [data.draw(st.one_of(before, st.just(list(result)))) for result in results]
    answer = answered(known, results, sizes)
    assert answer.outcomes == results
    assert answer.rows == sum(map(len, results))
    assert answer.size == sum(map(size_of, results))
    for outcome, last, result in zip(answer.outcomes, known, results, strict=True):
        assert (outcome is last) == (last == result)
        # A row at the place that it had is the known object: it is not held twice.
        assert not isinstance(outcome, PollError)
        assert all(a is b for a, b in zip(outcome, last or (), strict=False) if a == b)
        assert outcome is last or (isinstance(outcome, Result) and outcome.size == sum(len(row) for _, row in outcome))


@given(st.integers(0, 3), st.lists(st.integers(0, 4), max_size=8), st.booleans())
def test_a_result_beyond_a_limit_fails_alone(at: int, sizes: list[int], known: bool) -> None:
    good = rows([1, 2, 3])
    last: list[list[Row] | None] = [good if known else None] * 4
    wide: Row = (b"[7]", b"x" * 400)
    for bad, reason, keyed in (
        (rows([1, 2, 3, 4, 5, 6]), "the result has more than 5 rows", True),
        (rows([1, 2, 2]), "two rows of the result have the same key (id)", True),
        ([*rows([1]), wide, wide, wide], "the result has more than 1 KiB", False),
        ([*rows([1]), (None, None), (None, None)], "the result has more than 1 KiB", True),  # withheld
    ):
        results = [bad if n == at else good for n in range(4)]
        outcomes = answered(last, results, sizes, keyed).outcomes  # type: ignore[arg-type]
        for n, outcome in enumerate(outcomes):
            if n == at:
                assert isinstance(outcome, PollError)
                assert (outcome.state, outcome.scope, outcome.cause.detail) == ("failed", Scope.TOPIC, reason)
            else:
                assert outcome == good
                assert not known or outcome is good


def test_line_breaks_between_tokens_become_spaces() -> None:
    answer = answered([None], [[(b"[1]", b'{"id":1,\r\n"a":2}')]], [])
    assert answer.outcomes == [[(b"[1]", b'{"id":1,  "a":2}')]]


def test_what_is_not_utf_8_is_replaced_and_stays_unchanged_after_that() -> None:
    half = (b'["\xed\xa0\xbd"]', b'{"id":"\xed\xa0\xbd"}')  # half of a surrogate pair, as `ucs2` of MariaDB has it
    good = (b'["\xc3\xa4"]', b'{"id":"\xc3\xa4"}')
    (first,) = answered([None], [[good, half]], []).outcomes
    assert isinstance(first, list)
    assert first == [good, (('["' + "\ufffd" * 3 + '"]').encode(), ('{"id":"' + "\ufffd" * 3 + '"}').encode())]
    assert answered([first], [[good, half]], [1]).outcomes[0] is first


def test_a_row_that_is_not_json_fails_its_topic_alone() -> None:
    bad, good = [(b"[1]", b'{"id":,}')], rows([1])
    wrong, right = answered([None, None], [bad, good], []).outcomes
    assert isinstance(wrong, PollError)
    assert (wrong.state, wrong.cause.detail) == ("failed", "a row of the result is not JSON")
    assert right == good


def test_the_delta_of_a_large_result_is_computed_in_advance() -> None:
    q = query("select 1 as id", key=["id"], max_rows=100_000)
    before, after = rows(list(range(5000))), rows(list(range(100, 5100)))
    answer = Answer(q, [before])
    answer.add([(1, *row) for row in after])
    assert answer.large
    answer.check()
    (outcome,) = answer.outcomes
    assert isinstance(outcome, Result)
    assert outcome.change is not None
    known, delta = outcome.change
    assert (known, delta) == (before, diff(before, after))
    assert delta is not None
    assert apply(before, delta) == after
