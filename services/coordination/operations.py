"""The values that the etcd client takes and returns, and the builders of its transactions. Pure: no I/O.

The rest of Pollcast sees only these dataclasses and functions; protobuf messages stay in this file and in the client.
Keys are strings: bytes that are not UTF-8 are kept by `surrogateescape`, because an operator may store any key.
Thousands of values are made while topics change their owners; those of which there are many are named tuples, which
take a third of the time of frozen dataclasses to make.

Reference: https://etcd.io/docs/v3.5/learning/api/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from etcd3 import etcdrpc
from google.protobuf.unknown_fields import UnknownFieldSet

# --- values -------------------------------------------------------------------------------------------------------


class Kv(NamedTuple):
    """A key as etcd stores it. `lease` is 0 when the key has no lease."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


class KeyEvent(NamedTuple):
    """A put or a delete of one key. The `kv` of a delete holds only the key and the revision of the delete. `previous`
    is filled in by the mirror: what it kept of the key until now (the whole Kv, unless the mirror keeps less), or None
    when it had none."""

    kv: Kv
    deleted: bool = False
    previous: Any = None


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """The events of one watch that etcd sent together: all events of each revision among them. `revision` is the last
    event's. They are converted from protobuf only when they are taken, so that a batch of any size can be taken in
    slices."""

    parts: tuple[Any, ...]  # the protobuf messages, more than one when etcd sent fragments
    revision: int

    @property
    def events(self) -> tuple[KeyEvent, ...]:
        """All events, in order."""
        return tuple(parse_event(event) for part in self.parts for event in part.events)

    def slices(self, size: int) -> Iterator[list[KeyEvent]]:
        """Yield the events in order, at most `size` at a time."""
        for part in self.parts:
            for start in range(0, len(part.events), size):
                yield [parse_event(event) for event in part.events[start : start + size]]

    def picked(self, wants: Callable[[str], bool], size: int) -> Iterator[list[KeyEvent]]:
        """Look at the keys of the events in order, at most `size` at a time, and yield the events of those that are
        wanted; the others are not converted."""
        for part in self.parts:
            for start in range(0, len(part.events), size):
                some = part.events[start : start + size]
                yield [parse_event(each) for each in some if wants(each.kv.key.decode("utf-8", "surrogateescape"))]


@dataclass(frozen=True, slots=True)
class Listing:
    """The keys under a prefix as of one revision, in key order."""

    kvs: tuple[Kv, ...]
    revision: int


class TxnResult:
    """The result of a transaction. `succeeded`: whether its comparisons held. `revision` is the mod_revision of
    every key that it wrote."""

    __slots__ = ("_responses", "revision", "succeeded")

    def __init__(self, response: Any, revision: int) -> None:
        """`response` is the protobuf TxnResponse, `revision` that of the outermost transaction."""
        self.succeeded: bool = response.succeeded
        self.revision = revision
        self._responses = response.responses

    @property
    def results(self) -> tuple[tuple[Kv, ...] | TxnResult | None, ...]:
        """One entry per operation, converted when asked for: the keys found by a `read`, the TxnResult of a `nested`,
        None for any other."""
        return tuple(_parse_result(part, self.revision) for part in self._responses)


# --- comparisons and operations of a transaction ------------------------------------------------------------------

Compare = Any  # etcdrpc.Compare
Operation = Any  # etcdrpc.RequestOp


def absent(key: str) -> Compare:
    """Return a comparison that holds when the key does not exist."""
    return etcdrpc.Compare(
        key=to_bytes(key), target=etcdrpc.Compare.CREATE, result=etcdrpc.Compare.EQUAL, create_revision=0
    )


def unchanged(key: str, mod_revision: int) -> Compare:
    """Return a comparison that holds when the key exists and was last written at this revision."""
    return etcdrpc.Compare(
        key=to_bytes(key), target=etcdrpc.Compare.MOD, result=etcdrpc.Compare.EQUAL, mod_revision=mod_revision
    )


def on_lease(key: str, lease: int) -> Compare:
    """Return a comparison that holds when the key exists and is attached to this lease."""
    return etcdrpc.Compare(key=to_bytes(key), target=etcdrpc.Compare.LEASE, result=etcdrpc.Compare.EQUAL, lease=lease)


def none_under(prefix: str) -> Compare:
    """Return a comparison that holds when no key has the prefix.

    etcd compares an empty range as one key with create_revision 0.
    """
    return etcdrpc.Compare(
        key=to_bytes(prefix),
        range_end=range_end(prefix),
        target=etcdrpc.Compare.CREATE,
        result=etcdrpc.Compare.EQUAL,
        create_revision=0,
    )


def some_under(prefix: str) -> Compare:
    """Return a comparison that holds when at least one key has the prefix.

    `> 0` holds for every existing key and not for an empty range.
    """
    return etcdrpc.Compare(
        key=to_bytes(prefix),
        range_end=range_end(prefix),
        target=etcdrpc.Compare.CREATE,
        result=etcdrpc.Compare.GREATER,
        create_revision=0,
    )


def put(key: str, value: bytes, lease: int = 0) -> Operation:
    """Return an operation that stores the value under the key, attached to the lease (0: to none)."""
    return etcdrpc.RequestOp(request_put=etcdrpc.PutRequest(key=to_bytes(key), value=value, lease=lease))


def delete(key: str) -> Operation:
    """Return an operation that deletes the key, if it exists."""
    return etcdrpc.RequestOp(request_delete_range=etcdrpc.DeleteRangeRequest(key=to_bytes(key)))


def read(key: str) -> Operation:
    """Return an operation that reads the key."""
    return etcdrpc.RequestOp(request_range=etcdrpc.RangeRequest(key=to_bytes(key)))


def nested(compare: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()) -> Operation:
    """Return an operation that is a transaction of its own: many small ones are sent and committed in one request."""
    operation = etcdrpc.RequestOp()
    txn = operation.request_txn  # filled in where it is, which saves a copy
    txn.SetInParent()
    txn.compare.extend(compare)
    txn.success.extend(success)
    txn.failure.extend(failure)
    return operation


def put_if_free(value: bytes, lease: int) -> Callable[[str, str], Operation]:
    """Return a function from a key and a prefix to the transaction, nested, that stores the value under the key when
    the key does not exist and some key has the prefix, and otherwise reads the key.

    One message is filled in and copied again and again, which takes a sixth of the time of building each anew."""
    pattern = nested([absent(""), some_under("/")], [put("", value, lease)], [read("")])
    txn = pattern.request_txn
    (is_absent, has_some), store, found = txn.compare, txn.success[0].request_put, txn.failure[0].request_range

    def filled_in(key: str, prefix: str) -> Operation:
        is_absent.key = store.key = found.key = to_bytes(key)
        has_some.key, has_some.range_end = to_bytes(prefix), range_end(prefix)
        copy = etcdrpc.RequestOp()
        copy.CopyFrom(pattern)
        return copy

    return filled_in


# --- conversion from and to protobuf, for the client ----------------------------------------------------------------


def to_bytes(key: str) -> bytes:
    """Encode a key for etcd."""
    return key.encode("utf-8", "surrogateescape")


def range_end(prefix: str) -> bytes:
    """Return the end of the range of all keys with this prefix. The prefix must not end in the byte 0xff."""
    start = to_bytes(prefix)
    return start[:-1] + bytes([start[-1] + 1])


def range_request(key: str, revision: int = 0) -> Any:
    """Build the request that reads one key as of a revision (0: now)."""
    return etcdrpc.RangeRequest(key=to_bytes(key), revision=revision)


def page_request(prefix: str, start: bytes, limit: int, revision: int) -> Any:
    """Build the request that lists at most `limit` keys with the prefix, beginning with the key `start`."""
    return etcdrpc.RangeRequest(key=start, range_end=range_end(prefix), limit=limit, revision=revision)


def watch_request(watch_id: int, key: bytes, end: bytes, start_revision: int) -> Any:
    """Build the request that begins a watch of the keys from `key` to before `end`.

    The stubs are older than two fields that etcd has had since 3.4, so these are appended as etcd encodes them:
    `watch_id` (7), by which the client chooses the watch's number, and `fragment` (8), which allows etcd to divide a
    batch that is larger than a message may be."""
    request = etcdrpc.WatchCreateRequest(key=key, range_end=end, start_revision=start_revision)
    request.MergeFromString(b"\x38" + _varint(watch_id) + b"\x40\x01")
    return etcdrpc.WatchRequest(create_request=request)


def cancel_request(watch_id: int) -> Any:
    """Build the request that ends a watch."""
    return etcdrpc.WatchRequest(cancel_request=etcdrpc.WatchCancelRequest(watch_id=watch_id))


def progress_request() -> Any:
    """Build the request to which etcd answers with its revision, on the stream of the watches."""
    return etcdrpc.WatchRequest(progress_request=etcdrpc.WatchProgressRequest())


def is_fragment(response: Any) -> bool:
    """Return whether more messages of the same batch follow this one (`fragment`, field 7, which the stubs lack)."""
    fields: Any = UnknownFieldSet(response)
    return any(field.field_number == 7 and field.data for field in fields)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def parse_kv(kv: Any) -> Kv:
    """Convert one protobuf KeyValue."""
    return Kv(kv.key.decode("utf-8", "surrogateescape"), kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def parse_first(kvs: Sequence[Any]) -> Kv | None:
    """Convert the first protobuf KeyValue; return None when there is none."""
    return parse_kv(kvs[0]) if kvs else None


def parse_event(event: Any) -> KeyEvent:
    """Convert one protobuf event of a watch."""
    if event.type == event.DELETE:
        kv = event.kv
        return KeyEvent(Kv(kv.key.decode("utf-8", "surrogateescape"), b"", 0, kv.mod_revision, 0), True)
    return KeyEvent(parse_kv(event.kv))


def parse_txn(response: Any) -> TxnResult:
    """Convert a protobuf TxnResponse."""
    return TxnResult(response, response.header.revision)


def _parse_result(part: Any, revision: int) -> tuple[Kv, ...] | TxnResult | None:
    """Convert the protobuf response to one operation; a nested response lacks the revision."""
    kind = part.WhichOneof("response")
    if kind == "response_txn":
        return TxnResult(part.response_txn, revision)
    return tuple(map(parse_kv, part.response_range.kvs)) if kind == "response_range" else None
