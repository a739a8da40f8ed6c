"""Metrics and log lines of a query that tell of the way in which its topics are polled."""

from __future__ import annotations

from pollcast.poller import metrics
from pollcast.poller.batching import Batching
from pollcast.poller.digest_choice import DigestChoice
from pollcast.poller.topic_groups import TopicGroups
from pollcast.services.process import logs

log = logs.get_logger("query_poller")


class QueryGauges:
    """The gauges of one query. Call `show` after each round, and `show_apart` when a topic is lost."""

    def __init__(self, query: str, batching: Batching, choice: DigestChoice, groups: TopicGroups) -> None:
        self._query = query
        self._batching = batching
        self._choice = choice
        self._was_by_digest = False
        self._was_alone = batching.together.alone
        self._apart = [
            (metrics.APART_TOPICS.labels(query, why), group)
            for why, group in (("failing", groups.failing), ("slow", groups.slow))
        ]

    def show(self) -> None:
        """Update the metrics; log when the way of polling has changed, and forget costs that were of another way."""
        name, together = self._query, self._batching.together
        alone = together.alone or not self._batching.possible
        metrics.BATCH_TOPICS.labels(name).set(1 if alone else self._batching.size.topics)
        metrics.TOGETHER.labels(name).set(not alone)
        for way, cost in (("alone", together.cost_alone), ("together", together.cost_together)):
            metrics.TOPIC_SECONDS.labels(name, way).set(cost or 0.0)
        choice = self._choice
        metrics.DIGESTS.labels(name).set(choice.digests)
        if choice.digests != self._was_by_digest:
            self._was_by_digest = choice.digests
            together.forget_costs()
            event = "topics are polled by digest now" if choice.digests else "topics are polled by rows now"
            log.info(event, query=name, reason=choice.why)
        if together.alone != self._was_alone:
            self._was_alone = together.alone
            event = "topics are polled one by one now" if together.alone else "topics are polled together now"
            log.info(event, query=name, reason=together.why)
        self.show_apart()

    def show_apart(self) -> None:
        """Update the metric of the topics that are set apart."""
        for gauge, group in self._apart:
            gauge.set(len(group.topics))
