"""Moving a topic to a poller, at an operator's word.

One transaction rebinds the owner key to the target's lease, as a hand-over does, and pins the topic there. The pin
hangs on the target's lease: while that poller lives, the topic is not given to another, and comes back to it when
somebody deletes the owner key; it goes when the poller goes, and when the topic is released. The owner before learns of
it from the owner key and stops.
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


async def move_topic(etcd: Etcd, keys: Keys, topic: str, poller: str) -> int:
    """Makes the poller the owner of the canonical topic and returns the epoch, which stays where it owns it already.

    UnknownTopic when nobody wants the topic, UnknownNode when no such poller is ready; EtcdError, or TimeoutError after
    5 s, when it is not known to be done."""
    async with asyncio.timeout(MOVE_SECONDS):
        while True:
            owner, target = await etcd.read_all([keys.owner(topic), keys.node("poller", poller)])
            node = _ready(target, poller)
            if owner is None and not (await etcd.range(keys.demands(topic))).kvs:
                raise UnknownTopic(f"nobody watches {topic!r} now")
            try:
                epoch = await _try(etcd, keys, topic, owner, node)
            except EtcdUnknown as error:
                log.info("reading back what became of a move", topic=topic, detail=error.detail)
                continue
            if epoch is not None:
                log.info("topic moved", topic=topic, to=poller, epoch=epoch)
                return epoch


def _ready(target: Kv | None, poller: str) -> NodeRecord:
    """Raises UnknownNode."""
    if target is None:
        raise UnknownNode(f"no poller {poller!r} is in the cluster")
    try:
        node = NodeRecord.decode(target.value)
    except ValueError as error:
        raise UnknownNode(f"the entry of poller {poller!r} is garbled: {error}") from None
    if node.state != "ready" or node.lease_number != target.lease:
        raise UnknownNode(f"poller {poller!r} is {node.state}")
    return node


async def _try(etcd: Etcd, keys: Keys, topic: str, owner: Kv | None, node: NodeRecord) -> int | None:
    """The epoch; None when something has changed meanwhile."""
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
