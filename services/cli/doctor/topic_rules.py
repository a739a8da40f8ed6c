"""Rules of `pollcast doctor` about keys and topics. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pollcast.services.cli.doctor.finding import Finding, ok, skipped, some, warning, wrong
from pollcast.services.cli.doctor.observations import KeysSeen, TopicsSeen, Trouble


def about_keys(keys: KeysSeen) -> Iterator[Finding]:
    """Judge the keys in etcd."""
    if keys.without_lease:
        yield warning(
            "keys",
            f"{len(keys.without_lease)} keys have no lease: {some(keys.without_lease)}",
            "Delete them (etcdctl del) unless a coordinator does: somebody else has written them.",
        )
    if keys.unowned:
        yield wrong(
            "topics",
            f"{len(keys.unowned)} topics have clients and no owner: {some(keys.unowned)}",
            "Check that a ready poller's catalogue has their query, as the gateway's has it, and read its log.",
        )
    if keys.strangers:
        listed = some([f"{topic} ({owner})" for topic, owner in keys.strangers])
        yield wrong(
            "topics",
            f"{len(keys.strangers)} topics belong to a poller that is not registered: {listed}",
            "Delete their owner keys (etcdctl del), so that pollers claim them.",
        )
    if keys.complete:
        yield ok("keys", f"{keys.total} keys")
    else:
        yield skipped(
            "keys", f"only the first {keys.total} keys were read in time", "Ask a coordinator: pollcast top --json."
        )


def about_topics(topics: TopicsSeen) -> Iterator[Finding]:
    """Judge the states of the topics."""
    if topics.problem is not None:
        yield skipped("topics", f"their states are unknown: {topics.problem}", "Start a coordinator, which knows them.")
        return
    for trouble in topics.troubles:
        yield _about_trouble(trouble)
    yield ok("topics", f"{topics.live} live" + ("" if topics.complete else ", as far as they were read in time"))


def _about_trouble(trouble: Trouble) -> Finding:
    number = f"{trouble.topics} topic{'' if trouble.topics == 1 else 's'} of {trouble.query} "
    number += f"{'is' if trouble.topics == 1 else 'are'} {trouble.state}"
    why = f": {trouble.reason}" if trouble.reason else f", such as {trouble.example}"
    watch = f"pollcast watch '{trouble.example}' shows the reason"
    if trouble.state == "failed":
        return wrong("topics", f"{number}{why}", f"Correct the query or the schema ({watch}).")
    return wrong("topics", f"{number}{why}", f"Check the database, its owner and etcd ({watch}).")
