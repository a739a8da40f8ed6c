"""The memory of one topic: the present result and the log of steps to it."""

from __future__ import annotations

import pytest

from pollcast.gateway.change import Change
from pollcast.gateway.history import LOG_VERSIONS, PENDING_CHANGES, History
from pollcast.gateway.version import Version
from pollcast.services.delta import Delta, diff
from tests.support.keyed_rows import rows


def test_a_new_owner_with_the_same_result_adds_no_delta_and_both_versions_are_known() -> None:
    history = History(["id"])
    history.take_snapshot(Version(5, 1), 0, rows((1, 1)))
    entry = history.take_snapshot(Version(9, 1), 0, rows((1, 1)))
    assert entry is not None
    assert entry.change is None
    assert history.since(Version(5, 1)) == []
    assert history.since(Version(9, 1)) == []


def test_a_delta_that_does_not_follow_is_refused() -> None:
    history = History(["id"])
    history.take_snapshot(Version(5, 1), 0, rows((1, 1)))
    change = diff(rows((1, 1)), rows((1, 2)))
    assert change is not None
    with pytest.raises(LookupError):
        history.take_delta(Version(5, 3), 0, Change.of(change))
    with pytest.raises(LookupError):
        history.take_delta(Version(6, 2), 0, Change.of(change))


def test_a_result_older_than_the_present_changes_nothing() -> None:
    history = History(["id"])
    history.take_snapshot(Version(5, 2), 0, rows((1, 1)))
    assert history.take_snapshot(Version(5, 1), 0, rows((1, 7))) is None
    assert history.present is not None
    assert history.present.rows == rows((1, 1))


def test_the_log_reaches_back_a_hundred_versions_and_is_bounded() -> None:
    history = History(["id"])
    for seq in range(1, 1000):
        history.take_snapshot(Version(1, seq), 0, rows((1, seq)))
    reach = history.since(Version(1, 899))
    assert reach is not None
    assert len(reach) == 100
    assert history.since(Version(1, 999 - LOG_VERSIONS - 1)) is None


def test_without_a_key_the_log_never_leads_across_a_change() -> None:
    history = History([])
    history.take_snapshot(Version(1, 1), 0, [(b"", b'{"n":1}')])
    history.take_snapshot(Version(2, 1), 0, [(b"", b'{"n":1}')])
    assert history.since(Version(1, 1)) == []
    history.take_snapshot(Version(2, 2), 0, [(b"", b'{"n":2}')])
    assert history.since(Version(1, 1)) is None
    assert history.since(Version(2, 1)) is None


def test_a_change_of_all_rows_needs_none_of_the_changes_before_it() -> None:
    history = History(["id"])
    history.take_snapshot(Version(1, 1), 0, rows((1, 1), (2, 1)))
    unreadable = Change(b"", b"\xff")
    for seq in range(2, 4 * PENDING_CHANGES, 2):
        history.take_delta(Version(1, seq), 0, unreadable)
        whole = Change.of(Delta([], [(at, *row) for at, row in enumerate(rows((seq, 3)))]))
        whole.whole = True
        history.take_delta(Version(1, seq + 1), 0, whole)
        assert not history.due
        assert history.present is not None
        if seq % 10 == 0:
            assert history.present.rows == rows((seq, 3))
