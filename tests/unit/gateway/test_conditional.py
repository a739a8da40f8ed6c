"""Conditional requests for a JSON snapshot: what a request's headers ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway.conditional import MAX_WAIT_SECONDS, Condition, etag, parse_wait
from pollcast.gateway.version import Version


@pytest.mark.parametrize(
    ("if_none_match", "versions", "everything"),
    [
        ([], [], False),
        ([""], [], False),
        (["*"], [], True),
        (['"4711-1"', 'W/"4711-2"'], [(4711, 1), (4711, 2)], False),
        (['"4711-1"'], [(4711, 1)], False),
        (['W/"4711-1"'], [(4711, 1)], False),
        (['"4711-1", W/"4711-2"'], [(4711, 1), (4711, 2)], False),
        (['"another server\'s", "4711-2"'], [(4711, 2)], False),
        (["4711-1"], [], False),
        (['"4711-1'], [], False),
        (['"' + "9" * 41 + '-1"'], [], False),
    ],
)
def test_entity_tags_name_the_results_that_a_client_has(
    if_none_match: list[str], versions: list[tuple[int, int]], everything: bool
) -> None:
    condition = Condition.parse(if_none_match, [])
    assert (list(condition.versions), condition.any, condition.wait) == (versions, everything, 0)


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ([], 0),
        (["wait=10"], 10),
        (["Wait = 10"], 10),
        (['wait="10"'], 10),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (["wait=10, wait=20"], 10),
        (["wait=10; foo=bar"], 10),
        (["wait=0"], 0),
        (["wait=999999999"], MAX_WAIT_SECONDS),
        (["wait=9999999999"], 0),
        (["wait=-1"], 0),
        (["wait=1.5"], 0),
        (["wait"], 0),
        (["await=10"], 0),
        (["wait=١"], 0),
    ],
)
def test_the_first_well_formed_wait_preference_counts(prefer: list[str], seconds: int) -> None:
    assert parse_wait(prefer) == seconds


def test_a_request_without_a_known_result_waits_for_none() -> None:
    assert Condition.parse([], ["wait=10"]).wait == 0
    assert Condition.parse(['"someone else\'s"'], ["wait=10"]).wait == 0
    assert Condition.parse(['"1-1"'], ["wait=10"]).wait == 10
    assert Condition.parse(['"1-1"'], ["wait=10"]).wait_at_most(3.7).wait == 3
    assert Condition.parse(['"1-1"'], ["wait=10"]).wait_at_most(-1).wait == 0


@given(st.integers(0, 2**63), st.integers(1, 2**63))
def test_the_entity_tag_of_a_result_is_recognised(epoch: int, seq: int) -> None:
    version = Version(epoch, seq)
    assert Condition.parse([etag(version)], []).versions == (version,)


@given(st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_any_headers_give_a_condition(if_none_match: list[str], prefer: list[str]) -> None:
    assert 0 <= Condition.parse(if_none_match, prefer).wait <= MAX_WAIT_SECONDS
