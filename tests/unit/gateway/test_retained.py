"""Results of topics that nobody watches have a budget in bytes, and their memory goes back to the system."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway.change import Change
from pollcast.gateway.history import ENTRY_BYTES, History
from pollcast.gateway.hub import Hub
from pollcast.gateway.retained import RETAINED_BYTES, Retained
from pollcast.gateway.version import Version
from pollcast.services.delta import delta_text, diff
from pollcast.services.process.memory import TRIM_BYTES, TRIM_SECONDS, HeapTrimmer
from tests.support.model_sockets import ModelGateway
from tests.support.operations import operations

BUDGET = 100

actions = st.lists(st.tuples(st.sampled_from(["put", "discard", "forget"]), st.integers(0, 5), st.integers(0, 130)))


@given(actions)
def test_the_topics_without_clients_stay_within_the_budget_and_the_longest_unwatched_go_first(
    script: list[tuple[str, int, int]],
) -> None:
    retained = Retained(BUDGET)
    expected: dict[str, int] = {}
    dropped = 0
    for action, number, size in script:
        topic = f"t{number}"
        if action == "put":
            expected[topic] = size
            oldest = list(expected)
            forgotten = retained.put(topic, size)
            assert forgotten == oldest[: len(forgotten)]
            dropped += sum(expected.pop(each) for each in forgotten)
            assert not forgotten or sum(expected.values()) + size > 0
        else:
            dropped += expected.get(topic, 0) if action == "forget" else 0
            expected.pop(topic, None)
            getattr(retained, action)(topic)
        assert retained.bytes == sum(expected.values()) <= BUDGET
        assert len(retained) == len(expected)
    assert retained.forgotten_bytes == dropped


def test_nothing_is_forgotten_within_the_budget() -> None:
    retained = Retained(BUDGET)
    assert retained.put("a", 50) == retained.put("b", 50) == []
    assert retained.put("c", 1) == ["a"]


def test_a_client_that_walks_through_topics_leaves_no_more_than_the_budget(tmp_path: Path) -> None:
    gateway = ModelGateway(tmp_path)
    peer = gateway.connect(1 << 30)
    hub = gateway.served.hub
    size = 1_000_000
    for number in range(100):
        topic = f"keyed?n={number}"
        gateway.change({topic: [(b"[0]", b'{"id":0,"text":"%b"}' % (b"x" * size))]})
        peer.join(f"live:{topic}", {})
        gateway.settle()
        peer.leave(f"live:{topic}")
        gateway.settle()
        assert hub.retained.bytes <= RETAINED_BYTES
        assert len(hub.retained) == sum(live.idle_since is not None for live in hub.topics.values())
    assert hub.retained.bytes > RETAINED_BYTES - 3 * size
    assert hub.retained.forgotten_bytes > 100 * size - RETAINED_BYTES
    peer.join("live:keyed?n=99", {})  # one that is watched again is not counted
    before = hub.retained.bytes
    gateway.change({"keyed?n=98": [(b"[0]", b'{"id":0,"text":"%b"}' % (b"y" * 3 * size))]})  # and what grows is
    assert hub.retained.bytes <= RETAINED_BYTES
    assert hub.retained.forgotten_bytes > before
    hub.sweep(1e9)
    assert hub.retained.bytes == 0


def test_a_sweep_costs_nothing_for_topics_that_have_clients_and_an_owner(tmp_path: Path) -> None:
    counts = []
    for number in (10, 100):
        gateway = ModelGateway(tmp_path)
        peer = gateway.connect(1 << 30)
        hub = gateway.served.hub
        now = time.monotonic()
        for each in range(number):
            gateway.change({f"keyed?n={each}": [(b"[0]", b'{"id":0}')]})
            peer.join(f"live:keyed?n={each}", {})
        gateway.settle()
        assert sum(live.unreached_since is None for live in hub.topics.values()) == number
        hub.sweep(now)
        counts.append(operations(lambda hub=hub, now=now: hub.sweep(now)))  # type: ignore[misc]
    assert counts[0] == counts[1]


def test_the_heap_is_trimmed_when_much_was_freed_and_not_too_often() -> None:
    calls: list[int] = []

    def trim(pad: int) -> int:
        calls.append(pad)
        return 1

    trimmer = HeapTrimmer(trim)
    assert not trimmer.sweep(TRIM_BYTES - 1, 100.0)
    assert trimmer.sweep(TRIM_BYTES, 100.0)
    assert not trimmer.sweep(3 * TRIM_BYTES, 100.0 + TRIM_SECONDS / 2)
    assert trimmer.sweep(3 * TRIM_BYTES, 100.0 + TRIM_SECONDS)
    assert not trimmer.sweep(3 * TRIM_BYTES, 200.0)
    assert calls == [0, 0]


def test_the_systems_own_trim_can_be_called() -> None:
    HeapTrimmer().sweep(1 << 40, 1e9)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Memory is freed by reference counts only, as in a service between two of its rare collections."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("end", [lambda hub: hub.sweep(1e9), lambda hub: hub.reset()], ids=["forgotten", "lost data"])
def test_a_topic_that_is_forgotten_is_freed_at_once(tmp_path: Path, end: Callable[[Hub], None]) -> None:
    gateway = ModelGateway(tmp_path)
    hub = gateway.served.hub
    peer = gateway.connect(1 << 30)
    gateway.change({"keyed?n=1": [(b"[0]", b'{"id":0}')]})
    peer.join("live:keyed?n=1", {})
    gateway.settle()
    peer.leave("live:keyed?n=1")
    gateway.settle()
    topic = weakref.ref(hub.topics["keyed?n=1"])
    end(hub)
    assert not hub.topics
    assert topic() is None


UNREADABLE = b"\xff"
"""No FeedChange: decoding it raises DecodeError."""


def test_the_size_of_a_result_is_known_without_applying_its_deltas() -> None:
    history = History(["id"])
    before = [(b"[%d]" % number, b'{"id":%d,"v":0}' % number) for number in range(100)]
    history.take_snapshot(Version(1, 1), 0, before)
    whole = history.size
    after = [(key, row.replace(b'"v":0', b'"v":1')) for key, row in before]
    delta = diff(before, after)
    assert delta is not None

    text = delta_text(delta)
    history.take_delta(Version(1, 2), 0, Change(text, UNREADABLE))
    assert whole + 2 * len(text) <= history.size <= whole + 2 * len(text) + ENTRY_BYTES  # in the log, and not applied
