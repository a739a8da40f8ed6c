"""Claim, release and hand over: each a single transaction of etcd, many of them nested in one request.

A `Claim` is made only from etcd's word that the topic is ours, and carries its epoch. A transaction without an
answer is neither done nor failed: the owner keys are read back before anything is concluded. Even then a late one
may still be carried out: harmless, for it holds only under its own comparisons, and the mirror of the owners shows
it. A topic whose outcome is not known is missing from the answer, and is tried again by who wants it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pollcast.services import clock
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord, OwnerRecord
from pollcast.services.coordination.operations import Kv, Operation, TxnResult
from pollcast.services.coordination.session import Session
from pollcast.services.errors import EtcdRefused, EtcdUnknown, LeaseLost
from pollcast.services.process import logs

log = logs.get_logger("claims")

BATCH = 100  # nested transactions in a request; etcd's default --max-txn-ops is 128, less what each holds

BATCH_CHARS = 128 * 1024
"""Of the topics in a request, each of which is in it about five times: etcd takes 1.5 MiB."""

T = TypeVar("T")
Item = TypeVar("Item", str, "Claim")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Claim:
    """A topic that is ours. `epoch` is the owner key's mod_revision, `lease` the one that it hangs on."""

    topic: str
    epoch: int
    lease: int


async def claim(
    etcd: Etcd,
    keys: Keys,
    session: Session,
    record: OwnerRecord,
    topics: Iterable[str],
    garbled: Mapping[str, int] | None = None,
) -> dict[str, Claim | None]:
    """Claims each topic that has no owner and has demand; None for those that have one, or none. `garbled` has topics
    whose owner key holds nothing that we can read, with its mod_revision: nobody owns them. Raises LeaseLost."""
    value = record.encode()

    def operation(topic: str) -> Operation:
        key = keys.owner(topic)
        free = op.unchanged(key, garbled[topic]) if garbled and topic in garbled else op.absent(key)
        return op.nested(
            [free, op.some_under(keys.demands(topic))], [op.put(key, value, session.lease)], [op.read(key)]
        )

    def outcome(topic: str, done: bool, revision: int, key: Kv | None) -> Claim | None:
        if done:
            return Claim(topic, revision, session.lease)
        # An earlier attempt of ours may have been carried out after we gave up on it.
        mine = key is not None and key.lease == session.lease
        return Claim(topic, key.mod_revision, session.lease) if mine and key is not None else None

    return await _each(etcd, keys, topics, lambda topic: topic, operation, outcome)


async def release(etcd: Etcd, keys: Keys, claims: Iterable[Claim]) -> dict[str, bool]:
    """Gives up each topic that is still ours and has no demand, with its pin. True when it is not ours any more, False
    when it is kept because there is demand."""

    def operation(held: Claim) -> Operation:
        key = keys.owner(held.topic)
        compare = [op.unchanged(key, held.epoch), op.none_under(keys.demands(held.topic))]
        return op.nested(compare, [op.delete(key), op.delete(keys.pin(held.topic))], [op.read(key)])

    def outcome(held: Claim, done: bool, _: int, key: Kv | None) -> bool:
        return done or key is None or key.mod_revision != held.epoch

    return await _each(etcd, keys, claims, lambda held: held.topic, operation, outcome)


async def let_go(etcd: Etcd, keys: Keys, claims: Iterable[Claim]) -> dict[str, bool]:
    """Gives up each topic that is still ours, whether there is demand or not: for who can't poll it. True: it is not
    ours any more."""

    def operation(held: Claim) -> Operation:
        key = keys.owner(held.topic)
        return op.nested(
            [op.unchanged(key, held.epoch)], [op.delete(key), op.delete(keys.pin(held.topic))], [op.read(key)]
        )

    def outcome(held: Claim, done: bool, _: int, key: Kv | None) -> bool:
        return done or key is None or key.mod_revision != held.epoch

    return await _each(etcd, keys, claims, lambda held: held.topic, operation, outcome)


async def hand_over(etcd: Etcd, keys: Keys, claims: Iterable[Claim], target: NodeRecord) -> dict[str, int]:
    """Rebinds each topic that is still ours to the target's lease, if the target is there under that lease. The epoch
    that the topic has then: as before where it is still ours, 0 where it has no owner."""
    record = OwnerRecord(target.node, target.grpc or "", clock.now_rfc3339()).encode()

    def operation(held: Claim) -> Operation:
        key = keys.owner(held.topic)
        compare = [
            op.unchanged(key, held.epoch),
            op.on_lease(keys.node(target.role, target.node), target.lease_number),
        ]
        return op.nested(compare, [op.put(key, record, target.lease_number)], [op.read(key)])

    def outcome(held: Claim, done: bool, revision: int, key: Kv | None) -> int:
        return revision if done else key.mod_revision if key is not None else 0

    return await _each(etcd, keys, claims, lambda held: held.topic, operation, outcome)


async def remove(etcd: Etcd, litter: Mapping[str, int]) -> None:
    """Deletes keys that say nothing as they were last written at a revision. What is written since stays, and what was
    not done is done when it is in the way again."""

    async def attempt(batch: Sequence[str]) -> dict[str, bool]:
        done = await etcd.txn([], [op.nested([op.unchanged(key, litter[key])], [op.delete(key)]) for key in batch])
        return dict.fromkeys(batch, done.succeeded)

    for key in await _in_batches(litter, lambda key: key, attempt):
        log.warning("removed a key that no gateway wrote and that kept a topic", key=key)


async def _each(
    etcd: Etcd,
    keys: Keys,
    items: Iterable[Item],
    topic_of: Callable[[Item], str],
    operation: Callable[[Item], Operation],
    outcome: Callable[[Item, bool, int, Kv | None], Answer],
) -> dict[str, Answer]:
    """`outcome` is told whether the item's transaction was carried out, at which revision, and else what its owner key
    holds."""

    async def attempt(batch: Sequence[Item]) -> dict[str, Answer]:
        try:
            done = await etcd.txn([], [operation(item) for item in batch])
        except EtcdUnknown:
            found = await etcd.read_all([keys.owner(topic_of(item)) for item in batch])
            return {topic_of(i): outcome(i, False, 0, key) for i, key in zip(batch, found, strict=True)}
        answers = {}
        for item, result in zip(batch, done.results, strict=True):
            assert isinstance(result, TxnResult)
            key = None if result.succeeded or not result.results else _only(result.results[0])
            answers[topic_of(item)] = outcome(item, result.succeeded, done.revision, key)
        return answers

    return await _in_batches(items, topic_of, attempt)


def _only(found: tuple[Kv, ...] | TxnResult | None) -> Kv | None:
    assert isinstance(found, tuple)
    return found[0] if found else None


async def _in_batches(
    items: Iterable[Item],
    text_of: Callable[[Item], str],
    attempt: Callable[[Sequence[Item]], Awaitable[dict[str, Answer]]],
) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for batch in batches(items, text_of):
        try:
            answers |= await attempt(batch)
        except LeaseLost:
            raise
        except (EtcdRefused, EtcdUnknown) as error:
            log.warning("outcome not known", topics=len(batch), detail=error.detail)
            break  # the next batch would fare no better
    return answers


def batches(items: Iterable[T], text_of: Callable[[T], str]) -> Iterator[list[T]]:
    """What fits in one request, by the topic or the key of each: a client that asks for long topics must not keep those
    of others from being claimed. Who asks batch by batch can tell what is gained or lost before the next."""
    batch: list[T] = []
    chars = 0
    for item in items:
        more = len(text_of(item))
        if batch and (len(batch) == BATCH or chars + more > BATCH_CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(item)
        chars += more
    if batch:
        yield batch
