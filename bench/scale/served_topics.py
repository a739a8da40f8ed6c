"""The topics of a simulated poller, as its Feed and its reports show them: each has one row, which never changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from pollcast.poller.feed import Feed
from pollcast.poller.owned import OwnedTopic
from pollcast.services import clock
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.definitions import definitions
from pollcast.services.errors import PollcastError
from pollcast.v1 import report_pb2

ROW = (b"[1]", b'{"n":1}')


class Served(Mapping[str, OwnedTopic]):
    """The topics of one poller, as its Feed sees them: made when a gateway asks for them. `on_change` is called with
    each topic that is gained or lost."""

    def __init__(self, catalog: Catalog, on_change: Callable[[str], None]) -> None:
        self._on_change = on_change
        self.epochs: dict[str, int] = {}
        self.feed = Feed(self)
        self.definitions = definitions(catalog)
        self._catalog = catalog
        self._made: dict[str, OwnedTopic] = {}
        self._asked: set[str] = set()

    def gained(self, topic: str, epoch: int) -> None:
        """Serve the topic under this epoch."""
        self.lost(topic)
        self.epochs[topic] = epoch
        self._on_change(topic)
        if topic in self._asked:
            owned = self[topic]
            self.feed.publish(topic, owned.current_updates(""))

    def lost(self, topic: str) -> None:
        """Serve the topic no more."""
        if self.epochs.pop(topic, None) is not None:
            self._on_change(topic)
        if self._made.pop(topic, None) is not None:
            self.feed.forget(topic)

    def linger(self, topic: str) -> float | None:
        """Return the linger of the topic's query, in seconds; None when the catalogue does not have it."""
        try:
            return topics.parse_canonical(topic, self._catalog).query.linger
        except PollcastError:
            return None

    def __getitem__(self, topic: str) -> OwnedTopic:
        epoch = self.epochs.get(topic)
        if epoch is None:
            self._asked.add(topic)
            raise KeyError(topic)
        owned = self._made.get(topic)
        if owned is None:
            parsed = topics.parse_canonical(topic, self._catalog)
            owned = OwnedTopic(parsed, epoch, clock.now_us(), self.definitions[parsed.query.name])
            owned.record_result([ROW], clock.now_us())
            self._made[topic] = owned
            self._asked.add(topic)
        return owned

    def __iter__(self) -> Iterator[str]:
        return iter(self.epochs)

    def __len__(self) -> int:
        return len(self.epochs)


class Report:
    """The Reportable of one simulated poller."""

    def __init__(self, node: str, catalog: Catalog, served: Served) -> None:
        self._node = node
        self._queries = list(catalog.queries)
        self._served = served

    def topics(self) -> Iterable[str]:
        """Return the topics that this poller owns."""
        return list(self._served.epochs)

    def begin(self) -> report_pb2.NodeReport:
        """Return a report as of now, without topics."""
        return report_pb2.NodeReport(node=self._node, role="poller", now=clock.now_us(), queries=self._queries)

    def add(self, report: report_pb2.NodeReport, topic: str) -> bool:
        """Add the description of a topic; return False when this poller does not own it."""
        epoch = self._served.epochs.get(topic)
        if epoch is not None:
            report.polled.add(
                topic=topic, epoch=epoch, state="live", owned_since=report.now, last_polled_at=report.now,
                interval_ms=30_000, linger_ms=1000, polls=1, changes=1, rows=1, poll_us=50, receivers=1,
            )  # fmt: skip
        return epoch is not None

    def unsettled(self, _topic: str) -> bool:
        """Return False: nothing changes by itself."""
        return False
