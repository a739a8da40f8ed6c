"""Grouping: which of a round's topics belong together. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from pollcast.poller.owned import OwnedTopic
from pollcast.poller.sources.statement import sharing_key


def divided(group: list[OwnedTopic], parts: int) -> list[list[OwnedTopic]]:
    """Return the topics in order, divided into at most `parts` parts of about the same length."""
    length = max(1, -(-len(group) // parts))
    return [group[at : at + length] for at in range(0, len(group), length)]


def sample_first(group: Sequence[OwnedTopic], sample: int) -> list[OwnedTopic]:
    """Return the topics in an order that begins with a sample: those that have worked first, spread evenly."""
    step = max(1, len(group) // sample)
    spread = [topic for start in range(step) for topic in group[start::step]]
    return sorted(spread, key=lambda topic: topic.rows is None or topic.state != "live")


def of_equal_keys(topics: Sequence[OwnedTopic]) -> list[list[OwnedTopic]]:
    """Return the topics in groups that can share a statement."""
    groups: defaultdict[Hashable, list[OwnedTopic]] = defaultdict(list)
    for topic in topics:
        if topic.sharing is None:
            topic.sharing = sharing_key(topic.topic.query, topic.topic.values)
        groups[topic.sharing].append(topic)
    return list(groups.values())
