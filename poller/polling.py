"""Polling: all topics that this poller owns, from gaining them to publishing their updates.

`gained` and `lost` are called by poller/ownership.py and take effect at once: a gained topic is polled immediately, and
no update of a lost topic is sent. `run` polls until cancelled. When this poller dies, gateways see their streams break
and keep the last results until the next owner's first result.

`take` adapts it to another catalogue: topics of queries that did not change go on, those of a query that did begin
anew under the new definition, with higher versions of the same epoch, and those that the new catalogue does not have
wait, unpolled, until poller/placement.py has given them up.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

from pollcast.poller import metrics
from pollcast.poller.claim_queue import CLAIM_TOPICS
from pollcast.poller.descriptions import Descriptions
from pollcast.poller.feed import Feed, OnGatewayGone
from pollcast.poller.first_version import first_seq
from pollcast.poller.gauges import topic_gauges
from pollcast.poller.owned import OwnedTopic, Updates
from pollcast.poller.ownership_log import OwnershipLog
from pollcast.poller.pokes import Pokes
from pollcast.poller.query_poller import QueryPoller
from pollcast.poller.query_pollers import QueryPollers
from pollcast.poller.sources.sources import Source
from pollcast.services import clock
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.definitions import Difference, definitions
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.topics import Poke
from pollcast.services.catalogue.values import Value, quoted
from pollcast.services.coordination.metrics import counted_on_scrape
from pollcast.services.errors import PollcastError, UnknownQuery
from pollcast.services.process import logs

log = logs.get_logger("polling")

PARSED_TOPICS = 2 * CLAIM_TOPICS
"""Number of topics that are kept parsed: a topic is looked up when its claim is planned and due, and twice when it is
gained. It takes 1 KB with a short topic, and 16 KB with the longest ones."""


class Polling:
    """The OwnershipListener of poller/ownership.py: one QueryPoller per query of the catalogue, and the Feed."""

    def __init__(
        self,
        catalog: Catalog,
        sources: Mapping[str, Source],
        rng: random.Random | None = None,
        on_gateway_gone: OnGatewayGone | None = None,
        on_touched: Callable[[str], None] = lambda topic: None,
        on_owned_changed: Callable[[Query], None] = lambda query: None,
    ) -> None:
        """`on_touched` receives a topic that is new or gone, or whose state has changed; `on_owned_changed` a query
        whose first topic was gained, or whose last one was lost."""
        self._on_touched = on_touched
        self._on_owned_changed = on_owned_changed
        self._owned_of = Counter[str]()  # the number of owned topics of each query
        self.catalog = catalog
        self._definitions = definitions(catalog)
        self._parsed = lru_cache(PARSED_TOPICS)(lambda topic: topics.parse_canonical(topic, self.catalog))
        self._unknown: dict[str, tuple[int, int]] = {}  # epoch and seq of gained topics that the catalogue has not
        self._states: dict[str, str] = {}  # the state of each topic when it was touched last
        self._owned: dict[str, OwnedTopic] = {}
        self.descriptions = Descriptions(sources)
        self.descriptions.take(catalog, self._definitions)
        pokes = Pokes(self._poked_values, self.hint_topic, self.hint_query)
        self.feed = Feed(self._owned, on_gateway_gone, pokes.receive, self.descriptions.receive)
        self._log = OwnershipLog()
        rng = rng or random.Random()
        self.query_pollers = QueryPollers(lambda query: QueryPoller(query, sources[query.source], self._publish, rng))
        for query in catalog.queries.values():
            self.query_pollers.put(query)

    @property
    def owned(self) -> int:
        """The number of owned topics."""
        return len(self._owned)

    @property
    def topics(self) -> Iterator[tuple[OwnedTopic, float]]:
        """The owned topics, each with its current polling interval in seconds."""
        for owned in self._owned.values():
            yield owned, self.query_pollers[owned.topic.query.name].current_interval

    @property
    def names(self) -> Iterable[str]:
        """The owned topics."""
        return self._owned

    def owns_any(self, name: str) -> bool:
        """Return whether any topic of the query is owned."""
        return self._owned_of[name] > 0

    def find(self, topic: str) -> tuple[OwnedTopic, float] | None:
        """Return an owned topic and its current polling interval in seconds; None when it is not owned."""
        owned = self._owned.get(topic)
        return None if owned is None else (owned, self.query_pollers[owned.topic.query.name].current_interval)

    def linger(self, topic: str) -> float | None:
        """Return the seconds to keep polling the topic without demand; None when the catalogue does not have it."""
        try:
            return self._parsed(topic).query.linger
        except PollcastError:
            return None

    def take(self, catalogue: CatalogueInForce, difference: Difference) -> None:
        """Adapt to another catalogue, which differs so from the one before."""
        redefined = difference.redefined
        affected = [owned for owned in self._owned.values() if owned.topic.query.name in redefined]
        for owned in affected:
            self.lost(owned.name)
            self._unknown[owned.name] = owned.epoch, owned.seq
        self.catalog, self._definitions = catalogue.catalog, catalogue.definitions
        self._parsed.cache_clear()
        self.descriptions.take(self.catalog, self._definitions)
        for name in difference.gone:
            self.query_pollers.remove(name)
        for name in difference.changed | difference.added:
            self.query_pollers.put(self.catalog.queries[name])
        for topic, (epoch, seq) in list(self._unknown.items()):
            self._begin(topic, epoch, seq)

    def gained(self, topic: str, epoch: int) -> None:
        """Own the topic under this epoch from now on, and poll it at once."""
        self.lost(topic)
        self._begin(topic, epoch)
        if topic in self._unknown:
            log.error("gained a topic that is not in the catalogue", topic=topic, epoch=epoch)

    def _begin(self, topic: str, epoch: int, seq: int | None = None) -> None:
        """Own the topic, or remember that it is not in the catalogue. `seq` is its last one by another definition."""
        try:
            parsed = self._parsed(topic)
        except PollcastError:
            self._unknown[topic] = epoch, seq or 0
            return
        self._unknown.pop(topic, None)
        definition = self._definitions[parsed.query.name]
        owned = OwnedTopic(parsed, epoch, clock.now_us(), definition, first_seq(parsed, definition, seq))
        self._owned[topic] = owned
        self._states[topic] = owned.state
        self._on_touched(topic)
        metrics.GAINED.inc()
        self._log.gained(topic, epoch)
        self.query_pollers[owned.topic.query.name].add(owned)
        self._count(owned.topic.query, 1)

    def lost(self, topic: str) -> None:
        """Stop polling the topic, and send no update of it any more; ignore a topic not owned."""
        owned = self._owned.pop(topic, None)
        self._unknown.pop(topic, None)
        if owned is not None:
            del self._states[topic]
            self._on_touched(topic)
            metrics.LOST.inc()
            self._log.lost(topic)
            self.query_pollers[owned.topic.query.name].remove(owned)
            self.feed.forget(topic)
            self._count(owned.topic.query, -1)

    def hint_topic(self, topic: str) -> int:
        """Poll the canonical topic soon if it is owned, and return the number of topics that this means: 1 or 0.

        It is polled at once, but not before its query's `min_interval` has passed since its last poll started.
        """
        owned = self._owned.get(topic)
        return 0 if owned is None else int(self.query_pollers[owned.topic.query.name].hinting.hint(owned))

    async def hint_query(self, name: str, fixed: Mapping[str, Value]) -> int:
        """Poll the query's owned topics with these parameters' values soon, and return their number.

        `{}` means all topics of the query. Raises UnknownQuery; the parameters must be the query's.
        """
        if name not in self.query_pollers:
            raise UnknownQuery(f"{quoted(name)} is not a query of this poller's catalogue")
        return await self.query_pollers[name].hinting.hint_all(fixed)

    async def run(self) -> None:
        """Poll until cancelled."""
        with counted_on_scrape(lambda: topic_gauges(self._owned, self.query_pollers, clock.now_us())):
            await self.query_pollers.run()

    def _poked_values(self, poke: Poke) -> dict[str, Value]:
        return topics.poked_values(poke, self.catalog)

    def _count(self, query: Query, change: int) -> None:
        before = self.owns_any(query.name)
        self._owned_of[query.name] += change
        if self.owns_any(query.name) != before:
            self._on_owned_changed(query)

    def _publish(self, topic: str, updates: Updates) -> None:
        self._log.published(topic)
        self.feed.publish(topic, updates)
        owned = self._owned.get(topic)
        if owned is not None and owned.state != self._states[topic]:
            self._states[topic] = owned.state
            self._on_touched(topic)
