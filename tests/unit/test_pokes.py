"""Pokes before they reach a topic: what a spelling means (services/catalogue/topics.py), who may poke
(gateway/pokes.py), and the line to a poller (services/serving/poke_line.py)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway.identity import ANONYMOUS, Identity
from pollcast.gateway.pokes import Pokes
from pollcast.services.catalogue.catalog import parse as parse_catalog
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.catalogue.topics import Poke, parse, parse_poke, poked_values
from pollcast.services.errors import Forbidden, InvalidParams, UnknownQuery
from pollcast.services.serving import poke_line
from pollcast.services.serving.poke_line import MAX_POKES, MAX_WAITING_BYTES, PokeLine, ask
from pollcast.v1 import feed_pb2

CATALOG = parse_catalog(
    """
    [queries.plain]
    sql = "select 1"
    [queries.orders]
    sql = "select %(region)s, %(limit)s, %(tags)s, %(after)s"
    [queries.orders.params]
    region = "text"
    limit = { type = "int", default = 10 }
    tags = { type = "text[]", default = [] }
    after = { type = "int", optional = true }
    [queries.mine]
    sql = "select %(tenant)s, %(sites)s, %(day)s"
    [queries.mine.params]
    tenant = { type = "text", claim = "tenant" }
    sites = { type = "int[]", claim = "sites" }
    day = { type = "date", default = 2026-01-31 }
    """,
    "test.toml",
)


# --- what a spelling means


@pytest.mark.parametrize(
    ("spelling", "claims", "poke"),
    [
        ("plain", None, Poke("plain")),
        ("live:plain", {"tenant": "a"}, Poke("plain")),
        ("orders", None, Poke("orders", whole=True)),
        ("live:orders?region=a+b", None, Poke("orders?limit=10&region=a%20b")),
        ("orders?tags=y&tags=x&region=a&after=1", None, Poke("orders?after=1&limit=10&region=a&tags=x&tags=y")),
        ("mine", {"tenant": "a", "sites": [1]}, Poke("mine", whole=True)),
        ("mine?day=2026-02-01", {"tenant": "a", "sites": [2, 1]}, Poke("mine?day=2026-02-01&sites=1&sites=2&tenant=a")),
        ("mine?day=2026-02-01", {"tenant": "a"}, Poke("mine?day=2026-02-01&tenant=a", any=("sites",))),
        ("mine?day=2026-02-01", None, Poke("mine?day=2026-02-01", any=("tenant", "sites"))),
    ],
)
def test_a_spelling_means_a_topic_or_a_query_or_the_topics_with_some_values(
    spelling: str, claims: Mapping[str, object] | None, poke: Poke
) -> None:
    assert parse_poke(spelling, CATALOG, claims) == poke
    assert poke.query in CATALOG.queries


@pytest.mark.parametrize(
    ("spelling", "error"),
    [
        ("", UnknownQuery),
        ("nothing", UnknownQuery),
        ("nothing?region=a", UnknownQuery),
        ("plain?", InvalidParams),
        ("plain?x=1", InvalidParams),
        ("orders?", InvalidParams),
        ("orders?limit=5", InvalidParams),
        ("orders?region=a&region=b", InvalidParams),
        ("mine?tenant=a", InvalidParams),
        ("mine?day=2026-02-01&tenant=a", InvalidParams),
    ],
)
def test_a_mistake_in_a_poke_is_that_of_a_topic(spelling: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_poke(spelling, CATALOG, None)
    with pytest.raises(error):
        parse_poke(spelling, CATALOG, {"tenant": "a", "sites": [1]})


@given(
    tenant=st.none() | st.sampled_from("ab"),
    sites=st.none() | st.lists(st.integers(1, 3), min_size=1, max_size=2),
    day=st.dates(),
    others=st.tuples(st.sampled_from("ab"), st.lists(st.integers(1, 3), min_size=1, max_size=2), st.dates()),
)
def test_a_poke_means_exactly_the_topics_that_have_its_values(
    tenant: str | None, sites: list[int] | None, day: Any, others: tuple[str, list[int], Any]
) -> None:
    poke = parse_poke(f"mine?day={day}", CATALOG, {"tenant": tenant, "sites": sites})
    topic = parse(f"mine?day={others[2]}", CATALOG, {"tenant": others[0], "sites": others[1]})
    fixed = poked_values(poke, CATALOG)
    means = all(topic.values[name] == value for name, value in fixed.items())
    same_sites = sites is None or set(sites) == set(others[1])
    assert means == (others[2] == day and tenant in (None, others[0]) and same_sites)
    assert set(fixed).isdisjoint(poke.any)


def test_values_of_a_poke_that_another_catalogue_made_are_refused() -> None:
    assert poked_values(Poke("orders", whole=True), CATALOG) == {}
    with pytest.raises(UnknownQuery):
        poked_values(Poke("gone", whole=True), CATALOG)
    with pytest.raises(InvalidParams):
        poked_values(Poke("mine?new=1", any=("tenant", "sites")), CATALOG)


# --- who may poke


class Lines:
    """Stands for a gateway's hub: every poller polls one topic for each poke, but the owner's address is known."""

    def __init__(self, owners: Mapping[str, str] | None = None) -> None:
        self.owners = {topic: SimpleNamespace(grpc=address) for topic, address in (owners or {}).items()}
        self.asked: list[tuple[str | None, Poke]] = []
        self.feeds = self

    def poke_lines(self, address: str | None) -> list[Any]:
        def put(poke: Poke) -> asyncio.Future[int | None]:
            self.asked.append((address, poke))
            answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
            answer.set_result(1)
            return answer

        return [SimpleNamespace(put=put)] * (3 if address is None else 1)


async def test_without_tokens_anybody_may_poke_and_with_tokens_the_named_roles() -> None:
    hub: Any = Lines()
    assert await Pokes(hub, CatalogueInForce(CATALOG), ()).poke("plain", ANONYMOUS) == 3
    for roles in ((), ("sales",)):
        with pytest.raises(Forbidden, match="POLLCAST_POKE_ROLES"):
            await Pokes(hub, CatalogueInForce(CATALOG), ("backend",)).poke("nothing", Identity("a", roles, values={}))
        with pytest.raises(Forbidden):
            await Pokes(hub, CatalogueInForce(CATALOG), ()).poke("plain", Identity("a", roles, values={}))
    pokes = Pokes(hub, CatalogueInForce(CATALOG), ("x", "backend"))
    assert await pokes.poke("plain", Identity("a", ("backend",), values={})) == 3


async def test_only_the_owner_of_a_known_topic_is_asked() -> None:
    hub: Any = Lines({"plain": "poller-1:1", "mine?day=2026-01-31": "poller-1:1"})
    pokes = Pokes(hub, CatalogueInForce(CATALOG), ())
    assert await pokes.poke("plain", ANONYMOUS) == 1
    assert await pokes.poke("orders", ANONYMOUS) == 3
    assert await pokes.poke("orders?region=a", ANONYMOUS) == 3
    assert await pokes.poke("mine?day=2026-01-31", ANONYMOUS) == 3
    assert Counter(address for address, _ in hub.asked) == {"poller-1:1": 1, None: 9}


# --- the line to a poller


class Poller:
    """Stands for the stub of a poller, which answers a request once `answer` is set: as many topics as the text of
    each poke is long."""

    def __init__(self) -> None:
        self.requests: list[list[str]] = []
        self.answer = asyncio.Event()
        self.short = False

    async def Poke(self, request: feed_pb2.FeedPokes, timeout: float) -> feed_pb2.FeedPoked:
        self.requests.append([poke.topic for poke in request.pokes])
        await self.answer.wait()
        return feed_pb2.FeedPoked(topics=[] if self.short else [len(poke.topic) for poke in request.pokes])


async def test_the_first_poke_leaves_at_once_and_the_others_together_after_its_answer() -> None:
    lost: list[str] = []
    line, poller = PokeLine(), Poller()
    async with line.open(poller), asyncio.TaskGroup() as tasks:  # type: ignore[arg-type]
        first = tasks.create_task(ask([line], Poke("a"), lost.append))
        while not poller.requests:  # noqa: ASYNC110 - one turn of the loop
            await asyncio.sleep(0)
        same = [tasks.create_task(ask([line], Poke("bb"), lost.append)) for _ in range(100)]
        other = tasks.create_task(ask([line], Poke("ccc", whole=True), lost.append))
        await asyncio.sleep(0)
        assert poller.requests == [["a"]]
        poller.answer.set()
    assert poller.requests == [["a"], ["bb", "ccc"]]
    assert (first.result(), {task.result() for task in same}, other.result()) == (1, {2}, 3)
    assert not lost


async def test_what_waits_is_bounded_and_the_rest_is_lost_at_once() -> None:
    lost: list[str] = []
    line, poller = PokeLine(), Poller()
    async with line.open(poller), asyncio.TaskGroup() as tasks:  # type: ignore[arg-type]
        asked = [tasks.create_task(ask([line], Poke(f"q?n={n:0>1000}"), lost.append)) for n in range(3000)]
        await asyncio.sleep(0)
        refused = sum(task.done() for task in asked)
        assert line._waiting_bytes <= MAX_WAITING_BYTES
        assert refused == len(lost) == 3000 - MAX_WAITING_BYTES // 1068
        poller.answer.set()
    assert line._waiting_bytes == len(line._waiting) == 0
    assert sum(task.result() == 0 for task in asked) == refused
    assert set(lost) == {"q"}


async def test_a_request_has_a_bounded_number_of_pokes() -> None:
    lost: list[str] = []
    line, poller = PokeLine(), Poller()
    poller.answer.set()
    async with line.open(poller), asyncio.TaskGroup() as tasks:  # type: ignore[arg-type]
        asked = [tasks.create_task(ask([line], Poke(str(n)), lost.append)) for n in range(2 * MAX_POKES + 1)]
    assert [len(request) for request in poller.requests] == [MAX_POKES, MAX_POKES, 1]
    assert all(task.result() == len(str(n)) for n, task in enumerate(asked))
    assert line._waiting_bytes == 0


async def test_a_poke_without_an_answer_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poke_line, "ANSWER_SECONDS", 0.01)
    lost: list[str] = []
    line, poller = PokeLine(), Poller()
    assert await ask([line], Poke("a"), lost.append) == 0  # the line is not open yet
    async with line.open(poller):  # type: ignore[arg-type]
        assert await ask([line], Poke("b"), lost.append) == 0
        poller.answer.set()
        poller.short = True  # as of a poller that does not know what a poke is
        assert await ask([line], Poke("c"), lost.append) == 0
    assert lost == ["a", "b", "c"]


async def test_closing_the_line_ends_every_wait() -> None:
    lost: list[str] = []
    line, poller = PokeLine(), Poller()
    async with asyncio.TaskGroup() as tasks, line.open(poller):  # type: ignore[arg-type]
        asked = [tasks.create_task(ask([line], Poke(topic), lost.append)) for topic in "ab"]
        while not poller.requests:  # noqa: ASYNC110 - one turn of the loop
            await asyncio.sleep(0)
        asked.append(tasks.create_task(ask([line], Poke("c"), lost.append)))
        await asyncio.sleep(0)
    assert [task.result() for task in asked] == [0, 0, 0]
    assert lost == ["a", "b", "c"]
