"""The history of etcd as a process knows it, by which it notices that etcd has lost its data. Pure.

etcd is linearizable, so its revisions only grow, and what it once held at a revision it holds there for ever. It has
lost its data, and a new **incarnation** begins, when

- another cluster id answers than before;
- a linearizable answer has a lower revision than one that was known when its request was sent;
- it does not hold the **witness**: the latest write that this process knows, which must still be the one that happened
  at its revision. The witness is checked whenever a stream of watches begins. It finds an etcd that was restored from a
  snapshot, which keeps the cluster's id, even when others have written so much since that its revision is higher than
  before.

An answer that is not linearizable (of a keep-alive, or of a watch) may come from a member that is behind. When its
revision is lower than a known one, that is a reason to ask, no proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from etcd3 import etcdrpc

from pollcast.services.coordination import operations as op

FUTURE = "required revision is a future revision"
"""Text of etcd's error for a read as of a revision that it has not reached."""

COMPACTED = "compacted"
"""Text of etcd's error for a read as of a revision that it does not keep any more."""


class Witness(NamedTuple):
    """A write that happened at a revision: a put of this value on this lease, or a deletion (the value is None)."""

    revision: int
    key: bytes
    value: bytes | None
    lease: int


class History:
    """The known part of etcd's history: `cluster_id` (0 until etcd has answered once), the highest `revision` of a
    linearizable answer or an event, the highest revision `heard` in any answer, and the number of this
    `incarnation`."""

    def __init__(self) -> None:
        self.cluster_id = 0
        self.revision = 0
        self.heard = 0
        self.incarnation = 0
        self.witness: Witness | None = None

    def begin_anew(self) -> None:
        """Begin a new incarnation, of whichever cluster answers next."""
        self.cluster_id = 0
        self.revision = self.heard = 0
        self.witness = None
        self.incarnation += 1

    def check_cluster(self, cluster_id: int) -> str | None:
        """Record the id of the cluster that answers. Return why etcd has lost its data, or None."""
        if not cluster_id or cluster_id == self.cluster_id:
            return None
        before, self.cluster_id = self.cluster_id, cluster_id
        return f"cluster {cluster_id:x} answers, before it was {before:x}" if before else None

    def check_revision(self, revision: int, floor: int) -> str | None:
        """Record the revision of a linearizable answer; `floor` is the highest that was known when its request was
        sent. Return why etcd has lost its data, or None."""
        if revision < floor:
            return f"revision {revision} is answered, before it was {floor}"
        self.revision = max(self.revision, revision)
        return None

    def hear(self, revision: int) -> bool:
        """Record the revision of any answer. Return whether etcd should be asked, because more was known before."""
        self.heard = max(self.heard, revision)
        return revision < self.revision

    def saw(self, event: Any) -> None:
        """Record an event of a watch (protobuf) as the witness, when it is the latest."""
        kv = event.kv
        if self.witness is None or kv.mod_revision > self.witness.revision:
            value = None if event.type == event.DELETE else kv.value
            self.witness = Witness(kv.mod_revision, kv.key, value, kv.lease)
            self.revision = max(self.revision, kv.mod_revision)

    def wrote(self, request: Any, response: Any, *, checked: bool) -> None:
        """Record a put of this process (the requests and responses of Put and Txn) as the witness. `checked` is whether
        the present stream of watches has checked the witness: one that the next stream has to check stays, because
        etcd may have been restored before this put."""
        revision = response.header.revision
        if self.witness is not None and (not checked or revision <= self.witness.revision):
            return
        put = first_put(request, response)
        if put is not None:
            self.witness = Witness(revision, put.key, put.value, put.lease)


def first_put(request: Any, response: Any) -> Any | None:
    """Return the first put that was carried out for this request, or None when nothing was put."""
    if isinstance(request, etcdrpc.PutRequest):
        return request
    if not isinstance(request, etcdrpc.TxnRequest):
        return None
    operations = request.success if response.succeeded else request.failure
    for operation, result in zip(operations, response.responses, strict=False):
        match operation.WhichOneof("request"):
            case "request_put":
                return operation.request_put
            case "request_txn":
                found = first_put(operation.request_txn, result.response_txn)
                if found is not None:
                    return found
    return None


def witness_requests(witness: Witness) -> list[Any]:
    """Build the requests that read the witness's key as of its revision and as of the one before. They are no
    transaction, because an etcd at its space quota refuses those."""
    return [etcdrpc.RangeRequest(key=witness.key, revision=witness.revision - back) for back in (0, 1)]


def holds(witness: Witness, responses: Sequence[Any]) -> bool:
    """Return whether etcd's answers to `witness_requests` show that the witness happened at its revision."""
    now, before = (op.parse_first(response.kvs) for response in responses)
    if witness.value is None:
        return now is None and before is not None
    return now is not None and (now.mod_revision, now.value, now.lease) == (
        witness.revision,
        witness.value,
        witness.lease,
    )
