"""The order between the mirror of owner keys and etcd's answers to this poller's own transactions. Pure."""

from __future__ import annotations


class RevisionOrder:
    """The latest revisions known from the mirror and from answers.

    The mirror and the answers overtake each other. Whichever comes second with an older revision describes a state that
    is already over, and must be ignored (docs/design/model.md).
    """

    def __init__(self) -> None:
        self.mirrored = 0  # the highest revision that the mirror has shown
        self.answered: dict[str, int] = {}  # topic → revision of the last answer that the mirror has not caught up with

    def is_outdated(self, topic: str, revision: int) -> bool:
        """Record that the mirror shows this revision, and return whether an answer about the topic is newer."""
        self.mirrored = max(self.mirrored, revision)
        if revision < self.answered.get(topic, 0):
            return True
        self.answered.pop(topic, None)
        return False

    def record_list(self, revision: int) -> list[str]:
        """Record that the mirror has listed all owner keys as of this revision. Return the topics that it has caught up
        with only now: their keys may have been written and deleted without an event."""
        self.mirrored = max(self.mirrored, revision)
        return [topic for topic, answered in self.answered.items() if answered <= revision]

    def record_answer(self, topic: str, revision: int) -> None:
        """Record that an answer described the topic's owner key as of this revision."""
        self.answered[topic] = revision

    def reset(self) -> None:
        """Forget all revisions, because another etcd counts its own."""
        self.mirrored = 0
        self.answered.clear()
