"""The verdict of the soak: a process has to end where it was."""

from __future__ import annotations

import pytest
from bench.soak.measure import COUNTS, Held, breaches, exceeds, key_breaches, over
from bench.soak.run import duration

COUNTED = dict.fromkeys(COUNTS, 40)
BEFORE = Held(1, 80_000, COUNTED, {"set": 100, "dict": 500})


@pytest.mark.parametrize(("after", "leaves"), [(100, False), (105, False), (106, True), (95, False), (94, True)])
def test_a_count_may_change_by_a_twentieth(after: int, leaves: bool) -> None:
    assert exceeds("tasks", (100, 100), (after, after)) is leaves


@pytest.mark.parametrize(("after", "leaves"), [(105_000, False), (105_001, True), (10_000, False)])
def test_memory_may_become_less(after: int, leaves: bool) -> None:
    assert exceeds("rss", (100_000, 100_000), (after, after)) is leaves


def test_the_number_of_threads_may_not_change_by_one() -> None:
    assert exceeds("threads", (8, 8), (9, 9))


@pytest.mark.parametrize(
    ("after", "leaves"), [((8, 10), False), ((10, 12), False), ((11, 12), True), ((6, 8), False), ((6, 7), True)]
)
def test_what_comes_and_goes_leaves_its_bounds_only_when_no_sample_is_within(
    after: tuple[int, int], leaves: bool
) -> None:
    assert exceeds("timers", (8, 10), after) is leaves


def test_a_measurement_has_the_least_and_the_most_of_its_samples() -> None:
    samples = [Held(1, rss, COUNTED | {"timers": timers}) for rss, timers in ((70, 12), (60, 10), (65, 11))]
    held = over(samples)
    assert (held.counts["timers"], held.most["timers"], held.rss) == (10, 12, 60)
    again = over([Held(1, 60, COUNTED | {"timers": 13})])
    assert breaches("poller-1", held, again, memory=True) == ["poller-1: timers went from 10-12 to 13 ()"]


def test_a_breach_names_the_objects_that_became_more() -> None:
    after = Held(1, 90_000, dict.fromkeys(COUNTS, 40) | {"tasks": 50}, {"set": 300, "dict": 501, "Task": 21})
    assert breaches("gateway-1", BEFORE, after, memory=True) == [
        "gateway-1: tasks went from 40 to 50 (+200 set, +21 Task)",
        "gateway-1: rss went from 80000 to 90000 (+200 set, +21 Task)",
    ]
    assert len(breaches("gateway-1", BEFORE, after, memory=False)) == 1
    assert breaches("gateway-1", BEFORE, BEFORE, memory=True) == []


def test_a_breach_of_file_descriptors_names_the_connections() -> None:
    connections = {"to 2379 established": 3, "from clients to 4000 established": 9}
    after = Held(1, 80_000, dict.fromkeys(COUNTS, 40) | {"fds": 43}, connections=connections)
    before = Held(1, 80_000, BEFORE.counts, connections={"to 2379 established": 3, "to 5432 established": 1})
    assert breaches("poller-1", before, after, memory=True) == [
        "poller-1: fds went from 40 to 43 (+9 from clients to 4000 established, -1 to 5432 established)"
    ]


def test_a_breach_of_timers_names_those_who_wait() -> None:
    before = Held(1, 80_000, BEFORE.counts, waits={"Node.run": 1, "Hub.run": 2})
    after = Held(1, 80_000, COUNTED | {"timers": 50}, waits={"Node.run": 11, "Hub.run": 2, "Feed.run": 1})
    expected = ["poller-1: timers went from 40 to 50 (+1 Feed.run, +10 Node.run)"]
    assert breaches("poller-1", before, after, memory=True) == expected


@pytest.mark.parametrize(("connections", "fds"), [(0, 40), (1, 39), (2, 38), (3, 38)])
def test_a_few_connections_to_a_port_count_as_nothing_and_more_of_them_do(connections: int, fds: int) -> None:
    ends = {"to 5432 established": connections, "to 5433 established": 7, "to 5432 close_wait": 5}
    answer = {**dict.fromkeys((*COUNTS, "pid", "rss", "cpu"), 40), "types": {}, "waits": {}, "connections": ends}
    assert Held.of(answer, {5432: 2, 2379: 1}).counts["fds"] == fds


def test_every_kind_of_key_has_to_be_as_often_as_before() -> None:
    found = key_breaches({"owners": 3, "nodes": 2}, {"owners": 2, "nodes": 2, "presence": 1})
    assert found == ["etcd: owners has 2 keys instead of 3", "etcd: presence has 1 keys instead of 0"]


def test_durations_have_a_unit() -> None:
    assert [duration(text) for text in ("90s", "10m", "1.5h")] == [90, 600, 5400]
    for text in ("90", "1 h", "-1s", "h"):
        with pytest.raises(SystemExit):
            duration(text)
