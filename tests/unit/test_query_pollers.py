"""Pollers of queries that come and go with the catalogue never overlap, however quickly catalogues change."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.query_pollers import QueryPollers
from pollcast.services.catalogue.catalog import parse

QUERIES = parse('[queries.a]\nsql = "select 1"\n[queries.b]\nsql = "select 2"\n', "test").queries

NAMES = st.sampled_from(sorted(QUERIES))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NAMES),
        st.tuples(st.just("remove"), NAMES),
        st.tuples(st.just("wait"), st.integers(min_value=1, max_value=4)),
    )
)


class Running:
    """The pollers that run now, by the name of their query."""

    def __init__(self) -> None:
        self.now: dict[str, set[int]] = {name: set() for name in QUERIES}
        self.most = 0
        self.made = 0

    def make(self, query: Any) -> Any:
        """Make a poller that takes a few turns of the loop to end, as one with a statement in flight does."""
        self.made += 1
        number, mine = self.made, self.now[query.name]

        async def run() -> None:
            mine.add(number)
            self.most = max(self.most, len(mine))
            try:
                await asyncio.Event().wait()
            finally:
                for _ in range(3):
                    await asyncio.sleep(0)
                mine.remove(number)

        return SimpleNamespace(run=run, number=number)


@given(STEPS, st.booleans())
def test_a_query_is_polled_by_its_last_poller_and_never_by_two(steps: list[tuple[str, Any]], early: bool) -> None:
    async def play() -> None:
        running = Running()
        pollers = QueryPollers(running.make)
        if early:
            pollers.put(QUERIES["a"])
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(pollers.run())
            await asyncio.sleep(0)
            for what, which in steps:
                if what == "put":
                    pollers.put(QUERIES[which])
                elif what == "wait":
                    for _ in range(which):
                        await asyncio.sleep(0)
                elif which in pollers:
                    pollers.remove(which)
            for _ in range(10 + 10 * len(steps)):
                await asyncio.sleep(0)
            wanted = {name: {pollers[name].number} if name in pollers else set() for name in QUERIES}  # type: ignore[attr-defined]
            assert running.now == wanted
            assert running.most <= 1
            task.cancel()
        assert not any(running.now.values())

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(play())


class Noted:
    """A poller that polls until it is cancelled, from within a frame that its cancellation keeps alive."""

    async def run(self) -> None:
        """Wait until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.Event().wait())


def test_a_poller_that_has_ended_is_not_kept_by_its_successors() -> None:
    made: list[weakref.ref[Noted]] = []

    def make(_: Any) -> Any:
        poller = Noted()
        made.append(weakref.ref(poller))
        return poller

    async def play() -> None:
        pollers = QueryPollers(make)
        pollers.put(QUERIES["a"])
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(pollers.run())
            for _ in range(5):
                for _ in range(20):
                    await asyncio.sleep(0)
                pollers.put(QUERIES["a"])
            for _ in range(20):
                await asyncio.sleep(0)
            gc.collect()
            assert [poller() is not None for poller in made] == [False] * 5 + [True]
            task.cancel()

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(play())
