"""The transactions of ownership: claim, release and hand-over of topics, many of them nested in one request.

A `Claim` is created only when etcd has confirmed that the topic is ours, and carries its epoch. After a transaction
without a response, which may have been carried out or not, the owner keys are read back. A late transaction may still
be carried out after that. It is harmless: it holds only under its own comparisons, and the mirror of the owners shows
it. A topic whose result is not known is missing from the returned dict; the caller tries it again
(docs/reference/etcd.md#transactions).

An etcd at its space quota refuses every transaction, also one that only deletes, and takes plain deletes. A release is
then made of plain requests: read the owner key and the demand, delete the owner key. Demand or an owner that is written
between the two requests loses its owner, which is what `etcdctl del` does: the pollers claim the topic again, and the
epoch fences.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from pollcast.services import clock
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord, OwnerRecord
from pollcast.services.coordination.operations import Kv, Operation, TxnResult
from pollcast.services.coordination.session import Session
from pollcast.services.errors import EtcdFull, EtcdRefused, EtcdRejected, EtcdUnknown
from pollcast.services.process import logs

log = logs.get_logger("claims")

BATCH = 250
"""Maximum number of topics in a request. Each request is a commit of etcd and a message to every service."""

GROUP = 50
"""Number of topics in a nested transaction: etcd's default --max-txn-ops, 128, bounds the operations on each level,
together with those of the levels around it."""

READ_KEYS = 100
"""Maximum number of keys that are read back in a request."""

BATCH_CHARS = 128 * 1024
"""Maximum length of all topics in a request. Each occurs about five times in it, and etcd accepts 1.5 MiB."""

T = TypeVar("T")
Item = TypeVar("Item", str, "Claim")
ItemResult = TypeVar("ItemResult")


class Claim(NamedTuple):
    """A topic that this poller owns. `epoch` is the owner key's mod_revision, `lease` the lease that the key is on."""

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
    """Claim each topic that has demand and no owner. The value is None for a topic that has an owner or no demand.

    `garbled` maps topics whose owner key has an unreadable value to the key's mod_revision: they count as free. Raises
    LeaseLost when the session's lease is gone."""
    value, lease = record.encode(), session.lease
    put_if_free = op.put_if_free(value, lease)

    def operation(topic: str) -> Operation:
        key, demands = keys.owner(topic), keys.demands(topic)
        if not garbled or topic not in garbled:
            return put_if_free(key, demands)
        free = [op.unchanged(key, garbled[topic]), op.some_under(demands)]
        return op.nested(free, [op.put(key, value, lease)], [op.read(key)])

    def outcome(topic: str, done: bool, revision: int, key: Kv | None) -> Claim | None:
        if done:
            return Claim(topic, revision, session.lease)
        # An earlier attempt may have been carried out after it was given up.
        mine = key is not None and key.lease == session.lease
        return Claim(topic, key.mod_revision, session.lease) if mine and key is not None else None

    return await _each(etcd, keys, topics, lambda topic: topic, operation, outcome)


async def release(etcd: Etcd, keys: Keys, claims: Iterable[Claim]) -> dict[str, bool]:
    """Release each topic that is still ours and has no demand, and delete its pin. The value is True when the topic is
    no longer ours, False when it is kept because it has demand."""
    return await _release_if(etcd, keys, claims, unless_demanded=True)


async def let_go(etcd: Etcd, keys: Keys, claims: Iterable[Claim]) -> dict[str, bool]:
    """Release each topic that is still ours, even when it has demand, because this poller cannot poll it. The value is
    True when the topic is no longer ours."""
    return await _release_if(etcd, keys, claims, unless_demanded=False)


async def hand_over(etcd: Etcd, keys: Keys, claims: Iterable[Claim], target: NodeRecord) -> dict[str, int]:
    """Rebind each topic that is still ours to the target's lease, provided that the target's entry is on that lease.
    The value is the topic's epoch afterwards: unchanged when the topic is still ours, 0 when it has no owner."""
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


async def remove(etcd: Etcd, garbage: Mapping[str, int]) -> None:
    """Delete garbage keys, each given with its mod_revision. A key that was written since stays. A key whose deletion
    failed is deleted when it is in the way again."""
    for key in await delete_unchanged(etcd, garbage):
        log.warning("removed a key that no gateway wrote and that kept a topic from being released", key=key)


async def delete_unchanged(etcd: Etcd, keys: Mapping[str, int]) -> list[str]:
    """Delete each key that was last written at the given mod_revision, and return those that were deleted. A request
    that fails is logged and ends the attempt."""

    async def attempt(batch: Sequence[str]) -> dict[str, bool]:
        try:
            done = await _all(etcd, [op.nested([op.unchanged(key, keys[key])], [op.delete(key)]) for key in batch])
        except EtcdFull:
            return {key: await _delete_if_unchanged(etcd, key, keys[key]) for key in batch}
        return {key: result.succeeded for key, result in zip(batch, done, strict=True)}

    return [key for key, deleted in (await _in_batches(keys, lambda key: key, attempt)).items() if deleted]


async def _delete_if_unchanged(etcd: Etcd, key: str, revision: int) -> bool:
    """Delete the key by plain requests if its mod_revision is this one; return whether it was deleted."""
    found = await etcd.get(key)
    return found is not None and found.mod_revision == revision and await etcd.delete(key)


async def _release_if(etcd: Etcd, keys: Keys, claims: Iterable[Claim], *, unless_demanded: bool) -> dict[str, bool]:
    """Delete the owner key and the pin of each topic that is still ours, unless it has demand and that matters. The
    value is True when the topic is no longer ours."""

    def operation(held: Claim) -> Operation:
        key = keys.owner(held.topic)
        compare = [op.unchanged(key, held.epoch)]
        if unless_demanded:
            compare.append(op.none_under(keys.demands(held.topic)))
        return op.nested(compare, [op.delete(key), op.delete(keys.pin(held.topic))], [op.read(key)])

    def outcome(held: Claim, done: bool, _: int, key: Kv | None) -> bool:
        return done or key is None or key.mod_revision != held.epoch

    async def plainly(held: Claim) -> bool:
        key = await etcd.get(keys.owner(held.topic))
        if key is not None and key.mod_revision == held.epoch:
            if unless_demanded and (await etcd.range(keys.demands(held.topic))).kvs:
                return False
            await etcd.delete(key.key)
            await etcd.delete(keys.pin(held.topic))
        return True

    return await _each(etcd, keys, claims, lambda held: held.topic, operation, outcome, plainly)


async def _each(
    etcd: Etcd,
    keys: Keys,
    items: Iterable[Item],
    topic_of: Callable[[Item], str],
    operation: Callable[[Item], Operation],
    outcome: Callable[[Item, bool, int, Kv | None], ItemResult],
    plainly: Callable[[Item], Awaitable[ItemResult]] | None = None,
) -> dict[str, ItemResult]:
    """Carry out one nested transaction per item. `outcome` receives the item, whether its transaction succeeded, the
    revision, and, if it did not succeed, the owner key. `plainly` does the same without a transaction, for an etcd that
    is full."""

    async def attempt(batch: Sequence[Item]) -> dict[str, ItemResult]:
        try:
            done = await _all(etcd, [operation(item) for item in batch])
        except EtcdFull:
            if plainly is None:
                raise
            return {topic_of(item): await plainly(item) for item in batch}
        except EtcdUnknown:
            found = await _read_back(etcd, [keys.owner(topic_of(item)) for item in batch])
            return {topic_of(i): outcome(i, False, 0, key) for i, key in zip(batch, found, strict=True)}
        answers = {}
        for item, result in zip(batch, done, strict=True):
            read = () if result.succeeded else result.results
            answers[topic_of(item)] = outcome(item, result.succeeded, result.revision, _only(read[0]) if read else None)
        return answers

    return await _in_batches(items, topic_of, attempt)


async def _all(etcd: Etcd, transactions: Sequence[Operation]) -> list[TxnResult]:
    """Carry out these nested transactions in one request, in groups of GROUP, and return their results in order."""
    groups = [op.nested([], transactions[at : at + GROUP]) for at in range(0, len(transactions), GROUP)]
    done = await etcd.txn([], groups)
    return [_nested(result) for group in done.results for result in _nested(group).results]


def _nested(found: tuple[Kv, ...] | TxnResult | None) -> TxnResult:
    assert isinstance(found, TxnResult)
    return found


async def _read_back(etcd: Etcd, keys: Sequence[str]) -> list[Kv | None]:
    """Read the keys after a transaction whose outcome is unknown."""
    return [kv for at in range(0, len(keys), READ_KEYS) for kv in await etcd.read_all(keys[at : at + READ_KEYS])]


def _only(found: tuple[Kv, ...] | TxnResult | None) -> Kv | None:
    assert isinstance(found, tuple)
    return found[0] if found else None


async def _in_batches(
    items: Iterable[Item],
    text_of: Callable[[Item], str],
    attempt: Callable[[Sequence[Item]], Awaitable[dict[str, ItemResult]]],
) -> dict[str, ItemResult]:
    """Attempt batch by batch. A batch that fails is logged and ends the loop, except for an item that etcd rejects for
    what it is: it is left out."""

    async def halving(batch: Sequence[Item]) -> dict[str, ItemResult]:
        try:
            return await attempt(batch)
        except EtcdRejected as error:
            if len(batch) == 1:
                log.warning(
                    "etcd rejects this transaction, the others go on", of=text_of(batch[0]), detail=error.detail
                )
                return {}
            half = len(batch) // 2
            return await halving(batch[:half]) | await halving(batch[half:])

    answers: dict[str, ItemResult] = {}
    for batch in batches(items, text_of):
        try:
            answers |= await halving(batch)
        except (EtcdRefused, EtcdUnknown) as error:
            log.warning("batch not confirmed by etcd", topics=len(batch), detail=error.detail)
            break  # the next batch would fail as well
    return answers


def batches(items: Iterable[T], text_of: Callable[[T], str]) -> Iterator[list[T]]:
    """Yield batches that fit in one request, by the length of each item's topic or key, so that a client with long
    topics does not keep the topics of others from being claimed."""
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
