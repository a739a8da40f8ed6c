"""The error inside nested exception groups."""

from __future__ import annotations

from pollcast.services.errors import leaves, unwrapped

LOST = ConnectionError("lost")
SLOW = TimeoutError("slow")


def test_the_only_error_of_nested_groups_is_taken_out() -> None:
    assert unwrapped(ExceptionGroup("outer", [ExceptionGroup("inner", [LOST])])) is LOST


def test_an_error_outside_any_group_is_itself() -> None:
    assert unwrapped(LOST) is LOST


def test_a_group_of_several_errors_stays_a_group() -> None:
    nested = ExceptionGroup("outer", [ExceptionGroup("inner", [LOST, SLOW])])
    assert unwrapped(nested) is nested
    assert list(leaves(nested)) == [LOST, SLOW]
