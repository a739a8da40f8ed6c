"""The move of a topic to a poller that an operator names (docs/reference/grpc.md#cluster).

One transaction rebinds the owner key to the target's lease, as a hand-over does, and pins the topic there. The pin is
on the target's lease: while that poller lives, the topic is not given to another poller, and comes back to it when
somebody deletes the owner key. The pin goes when the poller goes or the topic is released. The former owner sees the
owner key change and stops.
"""

from __future__ import annotations

import asyncio

from pollcast.services import clock
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord, OwnerRecord, PinRecord
from pollcast.services.coordination.operations import Kv
from pollcast.services.errors import EtcdUnknown, UnknownNode, UnknownTopic
from pollcast.services.process import logs

log = logs.get_logger("move_topic")

MOVE_SECONDS = 5.0
"""Deadline of a move, in seconds."""


async def move_topic(etcd: Etcd, keys: Keys, topic: str, poller: str) -> int:
    """Make the poller the owner of the canonical topic and return its epoch, which is unchanged when it is the owner
    already.

    Raises UnknownTopic when the topic has neither an owner nor demand, UnknownNode when no such poller is ready, and
    EtcdError, or TimeoutError after MOVE_SECONDS, when the result is not known."""
    async with asyncio.timeout(MOVE_SECONDS):
        while True:
            owner, target = await etcd.read_all([keys.owner(topic), keys.node("poller", poller)])
            node = _ready(target, poller)
            if owner is None and not (await etcd.range(keys.demands(topic))).kvs:
                raise UnknownTopic(f"nobody watches {topic!r} now")
            try:
                epoch = await _move_once(etcd, keys, topic, owner, node)
            except EtcdUnknown as error:
                log.info("result of a move not known, reading it back", topic=topic, detail=error.detail)
                continue
            if epoch is not None:
                log.info("topic moved", topic=topic, to=poller, epoch=epoch)
                return epoch


def _ready(target: Kv | None, poller: str) -> NodeRecord:
    """Return the poller's record. Raises UnknownNode when it is not a ready poller."""
    if target is None:
        raise UnknownNode(f"no poller {poller!r} is in the cluster")
    try:
        node = NodeRecord.decode(target.value)
    except ValueError as error:
        raise UnknownNode(f"the entry of poller {poller!r} is garbled: {error}") from None
    if node.state != "ready" or node.lease_number != target.lease:
        raise UnknownNode(f"poller {poller!r} is {node.state}")
    return node


async def _move_once(etcd: Etcd, keys: Keys, topic: str, owner: Kv | None, node: NodeRecord) -> int | None:
    """Return the epoch, or None when the owner or the poller has changed meanwhile."""
    key, lease = keys.owner(topic), node.lease_number
    compare = [op.on_lease(keys.node("poller", node.node), lease)]
    pin = op.put(keys.pin(topic), PinRecord(node.node).encode(), lease)
    if owner is not None and owner.lease == lease:
        done = await etcd.txn([*compare, op.unchanged(key, owner.mod_revision)], [pin])
        return owner.mod_revision if done.succeeded else None
    if owner is None:
        compare += [op.absent(key), op.some_under(keys.demands(topic))]
    else:
        compare.append(op.unchanged(key, owner.mod_revision))
    record = OwnerRecord(node.node, node.grpc or "", clock.now_rfc3339())
    done = await etcd.txn(compare, [op.put(key, record.encode(), lease), pin])
    return done.revision if done.succeeded else None
