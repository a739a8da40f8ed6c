"""The Python client (clients/python) on a real cluster: changes, resuming, errors, events and tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import psycopg
import pytest

from pollcast_client import Change, Connected, Disconnected, Event, Joined, Pushed, Refused, Watch, topic, watch
from tests.support.balancer import Balancer
from tests.support.cluster import Cluster
from tests.support.tokens import token

STOCK = topic("stock", shelf="a")

APPLE, PEAR = {"id": 1, "name": "apple", "n": 5}, {"id": 2, "name": "pear", "n": 3}


@pytest.fixture
def url(running: Cluster) -> str:
    return f"http://{running.gateway(0)}"


class Changes:
    """The changes of a watch, awaited one after the other."""

    def __init__(self, changes: AsyncGenerator[Change, None]) -> None:
        self._changes = changes

    async def until(self, matches: Callable[[Change], bool]) -> Change:
        """Return the next change that matches; raise AssertionError when there is none within 20 s."""
        passed = []
        try:
            async with asyncio.timeout(20):
                async for change in self._changes:
                    passed.append(change)
                    if matches(change):
                        return change
        except TimeoutError:
            pass
        raise AssertionError(f"no such change among {passed}")


@asynccontextmanager
async def changes_of(watching: Watch) -> AsyncIterator[Changes]:
    """Iterate over a watch, and close it on leaving."""
    async with watching, aclosing(aiter(watching)) as changes:
        yield Changes(changes)


def ids(change: Change) -> list[int]:
    return [row["id"] for row in change.rows]


def begins(change: Change) -> bool:
    """Return whether the rows are those of the fixture `stock`: the first result may be from the test before."""
    return change.rows == [APPLE, PEAR]


async def test_a_loop_over_a_watch_yields_each_change_of_the_rows_as_a_delta(
    url: str, stock: psycopg.Connection[Any]
) -> None:
    kinds = []
    async with asyncio.timeout(20):
        async for change in watch(STOCK, url=url):
            if change.kind == "status":
                continue
            kinds.append(change.kind)
            if ids(change) == [1, 2]:
                assert change.key == ("id",)
                assert change.rows[0] == APPLE
                stock.execute("update stock set n = 9 where id = 2")
            elif ids(change) == [2, 1]:
                assert change.delta is not None
                assert [at for at, _ in change.delta.upserts] == [0]
                stock.execute("delete from stock where id = 1")
            elif ids(change) == [2]:
                break
    assert kinds[-2:] == ["delta", "delta"]


async def test_without_deltas_every_change_is_a_snapshot(url: str, stock: psycopg.Connection[Any]) -> None:
    async with changes_of(watch(STOCK, url=url, deltas=False)) as changes:
        await changes.until(begins)
        stock.execute("delete from stock where id = 1")
        assert (await changes.until(lambda change: ids(change) == [2])).kind == "snapshot"


async def test_the_topics_of_a_watch_share_one_connection(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    async with Balancer.start([running.gateway(0)]) as balancer:
        async with changes_of(watching := watch(STOCK, "live:total", url=balancer.url)) as changes:
            seen: set[str] = set()
            while seen != {STOCK, "live:total"}:
                seen.add((await changes.until(lambda change: change.kind == "snapshot")).topic)
            await watching.join(topic("stock", shelf="b"))
            third = await changes.until(lambda change: change.topic == "live:stock?shelf=b" and bool(change.rows))
            assert ids(third) == [3]
            await watching.leave("live:total")
            stock.execute("update stock set n = n + 1")
            await changes.until(lambda change: change.kind == "delta" and change.rows[0] == APPLE | {"n": 6})
        assert balancer.connections == 1


async def test_after_a_broken_connection_a_watch_receives_only_the_deltas_that_it_missed(
    running: Cluster, stock: psycopg.Connection[Any]
) -> None:
    async with Balancer.start([running.gateway(0)]) as balancer, changes_of(watch(STOCK, url=balancer.url)) as changes:
        before = await changes.until(begins)
        balancer.cut()
        lost = await changes.until(lambda change: change.status.state == "stale")
        assert (lost.rows, lost.version) == (before.rows, before.version)
        stock.execute("delete from stock where id = 2")
        after = await changes.until(lambda change: change.kind in ("snapshot", "delta"))
        assert (after.kind, ids(after), after.status.state) == ("delta", [1], "live")


async def test_a_watch_connects_to_the_next_gateway_when_its_own_is_gone(
    running: Cluster, stock: psycopg.Connection[Any]
) -> None:
    async with (
        Balancer.start([running.gateway(0)]) as first,
        Balancer.start([running.gateway(1)]) as second,
        changes_of(watch(STOCK, url=f"http://{running.gateway(0)}")) as here,
        changes_of(watch(STOCK, url=f"http://{running.gateway(1)}")) as there,
        changes_of(watch(STOCK, url=[first.url, second.url])) as changes,
    ):
        for each in (here, there, changes):  # both gateways need the version from which the watch resumes
            await each.until(begins)
        used, other = (first, second) if first.connections else (second, first)
        used.gateways.clear()
        used.cut()
        await changes.until(lambda change: change.status.state == "stale")
        await changes.until(lambda change: change.status.state == "live")
        assert other.connections
        stock.execute("delete from stock where id = 2")
        assert (await changes.until(lambda change: ids(change) == [1])).kind == "delta"


async def test_an_unreachable_gateway_makes_the_topic_stale() -> None:
    async with Balancer.start([]) as nowhere, changes_of(watch(STOCK, url=nowhere.url)) as changes:
        change = await changes.until(lambda change: change.kind == "status")
        assert change.status.state == "stale"
        assert change.version is None


async def test_a_query_that_fails_has_a_status_with_its_reason(url: str) -> None:
    async with changes_of(watch("live:broken", url=url)) as changes:
        change = await changes.until(lambda change: change.status.state == "failed")
        assert change.status.reason


@pytest.mark.parametrize(
    ("spelling", "reason"),
    [("live:nothing", "unknown_query"), ("live:stock", "invalid_params"), ("live:sales", "forbidden")],
)
async def test_a_join_that_the_gateway_refuses_raises(url: str, spelling: str, reason: str) -> None:
    async with changes_of(watch(spelling, url=url)) as changes:
        with pytest.raises(Refused) as refused:
            await changes.until(lambda _: False)
    assert (refused.value.reason, refused.value.topic) == (reason, spelling)


async def test_members_on_two_gateways_see_each_others_metas(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    def named(name: str) -> Callable[[Change], bool]:
        return lambda change: any(meta.get("name") == name for metas in change.presence.values() for meta in metas)

    alice = watch(STOCK, url=f"http://{running.gateway(0)}", presence={"key": "alice", "meta": {"name": "Alice"}})
    bob = watch(STOCK, url=f"http://{running.gateway(1)}", presence={"key": "bob", "meta": {"name": "Bob"}})
    async with changes_of(alice) as seen_by_alice:
        await seen_by_alice.until(named("Alice"))
        async with changes_of(bob) as seen_by_bob:
            await seen_by_bob.until(named("Alice"))
            await seen_by_alice.until(named("Bob"))
            await bob.set_meta(STOCK, {"name": "Robert"})
            await seen_by_alice.until(named("Robert"))
            await bob.leave(STOCK)
            await seen_by_alice.until(lambda change: list(change.presence) == ["alice"])


async def test_closing_a_watch_ends_its_iteration(url: str, stock: psycopg.Connection[Any]) -> None:
    watching = watch(STOCK, url=url)
    async with asyncio.timeout(20):
        async for _ in watching:
            await watching.close()


# --- events, resuming and finding gateways ------------------------------------------------------------------------


async def test_on_event_reports_connections_joins_and_each_push_before_it_is_applied(
    running: Cluster, stock: psycopg.Connection[Any]
) -> None:
    own = topic("stock", shelf="b")  # no other test changes this row
    reported: list[Event | Change] = []
    async with (
        Balancer.start([running.gateway(0)]) as balancer,
        changes_of(watch(own, url=balancer.url, on_event=reported.append)) as changes,
    ):
        reported.append(first := await changes.until(lambda change: ids(change) == [3]))
        balancer.cut()
        await changes.until(lambda change: change.status.state == "stale")
        stock.execute("update stock set n = 9 where id = 3")
        await changes.until(lambda change: bool(change.rows) and change.rows[0]["n"] == 9)
    order = [event for event in reported if not isinstance(event, Pushed) or event.event in ("snapshot", "delta")]
    ws = balancer.url.replace("http", "ws")
    match order:
        case [Connected(url), Joined() as joined, Pushed() as snapshot, Change(), Disconnected() as lost, *rest]:
            assert url == lost.url == f"{ws}/socket/websocket?vsn=2.0.0"
            assert (joined.topic, joined.canonical, joined.interval_ms) == (own, "stock?shelf=b", 100)
            assert (snapshot.topic, snapshot.event, snapshot.payload["version"]) == (own, "snapshot", first.version)
            assert lost.code is None
        case _:
            raise AssertionError(order)
    match rest:
        case [Connected(), Joined(), Pushed(event="delta", payload=payload)]:
            assert payload["base"] == first.version
        case _:
            raise AssertionError(rest)


async def test_an_exception_of_on_event_ends_the_iteration(url: str, stock: psycopg.Connection[Any]) -> None:
    def refuse(event: Event) -> None:
        assert not isinstance(event, Joined), "seen"

    async with changes_of(watch(STOCK, url=url, on_event=refuse)) as changes:
        with pytest.raises(AssertionError, match="seen"):
            await changes.until(lambda _: False)


async def test_a_watch_resumes_from_the_result_of_another_watch(
    running: Cluster, stock: psycopg.Connection[Any]
) -> None:
    one, two = (f"http://{running.gateway(number)}" for number in (0, 1))
    async with changes_of(watch(STOCK, url=one)) as here, changes_of(watch(STOCK, url=two)) as there:
        known = (await here.until(begins)).result
        await there.until(begins)  # the other gateway needs the version from which the watch resumes
        stock.execute("delete from stock where id = 2")
        await there.until(lambda change: ids(change) == [1])
        later = watch(url=two)
        await later.join(STOCK, known=known)
        async with changes_of(later) as changes:
            change = await changes.until(lambda change: change.kind in ("snapshot", "delta"))
            assert (change.kind, ids(change)) == ("delta", [1])


async def test_a_url_function_is_called_for_each_connection(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    async with Balancer.start([running.gateway(0)]) as first, Balancer.start([running.gateway(1)]) as second:
        left = [first.url, second.url]

        async def find() -> str:
            return left.pop(0)

        async with changes_of(watch(STOCK, url=find)) as changes:
            await changes.until(begins)
            first.cut()
            await changes.until(lambda change: change.status.state == "stale")
            await changes.until(lambda change: change.status.state == "live")
        assert (first.connections, second.connections) == (1, 1)


async def test_a_silent_gateway_is_given_up_when_its_heartbeat_is_overdue(
    running: Cluster, stock: psycopg.Connection[Any]
) -> None:
    gateway = running.nodes("gateway")[1]
    address = running.gateway(1)

    async def find() -> str:  # called more than once if this machine stops for half a second
        return address

    async with changes_of(watch(STOCK, url=find, heartbeat=1.0)) as changes:
        await changes.until(lambda change: ids(change) == [1, 2] and change.status.state == "live")
        gateway.freeze()
        try:
            address = running.gateway(0)
            lost = await changes.until(lambda change: change.status.state == "stale")
            assert "does not answer" in str(lost.status.reason)
            await changes.until(lambda change: change.status.state == "live")
        finally:
            gateway.thaw()


# --- tokens -------------------------------------------------------------------------------------------------------


async def test_a_gateway_that_requires_tokens_accepts_a_valid_one_and_refuses_none(guarded: Cluster) -> None:
    url = f"http://{guarded.gateway(0)}"
    async with changes_of(watch("live:total", url=url)) as changes:
        with pytest.raises(Refused) as refused:
            await changes.until(lambda _: True)
        assert refused.value.reason == "unauthorized"
    async with changes_of(watch("live:sales", url=url, token=token(roles=["sales"]))) as changes:
        assert (await changes.until(lambda change: change.kind == "snapshot")).rows == [{"one": 1}]


async def test_a_token_function_is_called_for_each_connection_and_a_token_can_be_renewed(guarded: Cluster) -> None:
    made: list[str] = []

    async def fresh() -> str:
        made.append(token())
        return made[-1]

    async with Balancer.start([guarded.gateway(0)]) as balancer:
        async with changes_of(watching := watch("live:total", url=balancer.url, token=fresh)) as changes:
            await changes.until(lambda change: change.kind == "snapshot")
            await watching.renew(token(120))
            balancer.cut()
            await changes.until(lambda change: change.status.state == "stale")
            await changes.until(lambda change: change.status.state == "live")
        assert len(made) == 2


async def test_a_token_function_is_called_before_its_token_expires_and_the_connection_stays(
    guarded: Cluster, stock: psycopg.Connection[Any]
) -> None:
    made: list[str] = []

    def fresh() -> str:  # a function that is not async will do
        made.append(token(4 if not made else 300))
        if len(made) == 2:
            raise RuntimeError("this attempt fails, and another follows")
        return made[-1]

    async with (
        Balancer.start([guarded.gateway(0)]) as balancer,
        changes_of(watch(STOCK, url=balancer.url, token=fresh)) as changes,
    ):
        await changes.until(begins)
        while len(made) < 3:
            stock.execute("update stock set n = n + 1 where id = 1")
            await changes.until(lambda change: change.kind == "delta")
        assert balancer.connections == 1
