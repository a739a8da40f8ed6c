"""Every error that Pollcast raises on purpose, named for its condition, with its representation on each interface.

`reason` is the word that WebSocket, SSE, JSON and gRPC report alike (docs/reference/channels.md#errors), `http` the
HTTP status (docs/reference/http.md#errors), `grpc` the name of a `grpc.StatusCode`
(docs/reference/grpc.md#status-codes) and `exit` a command's exit status (docs/reference/commands.md#exit-status). The
message is the `detail`: text for people that never holds SQL or a credential. The default message of an error is its
class's docstring.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar


def unwrapped(error: BaseException) -> BaseException:
    """Return the only error inside nested exception groups; `error` itself when it holds several or is no group."""
    first, *others = leaves(error)
    return error if others else first


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors inside nested exception groups, in their order; `error` itself when it is no group."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error


class PollcastError(Exception):
    """Pollcast met an unexpected error."""

    reason: ClassVar[str] = "internal"
    http: ClassVar[int] = 500
    grpc: ClassVar[str] = "INTERNAL"
    exit: ClassVar[int] = 1

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail or self.__doc__)

    @property
    def detail(self) -> str:
        """The message, for people."""
        return str(self)

    @property
    def explained(self) -> str:
        """The reason and the detail, for a status that has one text for both."""
        return f"{self.reason}: {self.detail}"


# --- requests that cannot be served ----------------------------------------------------------------------------


class UnknownQuery(PollcastError):
    """The catalogue has no query of that name."""

    reason, http, grpc = "unknown_query", 404, "NOT_FOUND"


class InvalidParams(PollcastError):
    """The topic's parameters are wrong."""

    reason, http, grpc = "invalid_params", 400, "INVALID_ARGUMENT"


class TopicTooLong(InvalidParams):
    """The topic is too long."""


class Unauthorized(PollcastError):
    """A valid token is required."""

    reason, http, grpc = "unauthorized", 401, "UNAUTHENTICATED"


class Forbidden(PollcastError):
    """The token does not allow this."""

    reason, http, grpc = "forbidden", 403, "PERMISSION_DENIED"


class InvalidPayload(PollcastError):
    """The payload has the wrong shape."""

    reason, http, grpc = "invalid_payload", 400, "INVALID_ARGUMENT"


class UnknownEvent(PollcastError):
    """There is no such event."""

    reason, http, grpc = "unknown_event", 400, "INVALID_ARGUMENT"


class TooManyTopics(PollcastError):
    """This socket has joined as many topics as it is allowed to."""

    reason, http, grpc = "too_many_topics", 429, "RESOURCE_EXHAUSTED"


class TooManyJoins(PollcastError):
    """This socket joins topics faster than it is allowed to."""

    reason, http, grpc = "too_many_joins", 429, "RESOURCE_EXHAUSTED"


class TooLarge(PollcastError):
    """The result does not fit into one message."""

    reason, http, grpc = "too_large", 500, "RESOURCE_EXHAUSTED"


class NoResult(PollcastError):
    """No result arrived in time."""

    reason, http, grpc = "timeout", 504, "UNAVAILABLE"


class Draining(PollcastError):
    """This node is shutting down; use another one."""

    reason, http, grpc = "draining", 503, "UNAVAILABLE"


class TooManyConnections(PollcastError):
    """This gateway has as many connections as it is allowed to."""

    reason, http, grpc = "too_many_connections", 503, "UNAVAILABLE"


class UnknownNode(PollcastError):
    """The cluster has no node of that name."""

    reason, http, grpc = "unknown_node", 404, "NOT_FOUND"


class UnknownTopic(PollcastError):
    """The topic has no client now."""

    reason, http, grpc = "unknown_topic", 404, "NOT_FOUND"


# --- configuration ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a configuration. `query` and `field` are empty for a fault outside of a query or a field."""

    file: str
    query: str
    field: str
    reason: str

    def __str__(self) -> str:
        where = ": ".join(p for p in (self.file, f"query {self.query}" if self.query else "", self.field) if p)
        return f"{where}: {self.reason}"


class ConfigurationInvalid(PollcastError):
    """The configuration is wrong; every problem is listed."""

    reason, exit = "invalid_configuration", 2

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class CatalogInvalid(ConfigurationInvalid):
    """The catalogue is wrong and is refused whole."""


class SettingsInvalid(ConfigurationInvalid):
    """The settings (flags, POLLCAST_*) are wrong."""


class CantListen(PollcastError):
    """The address to listen on cannot be bound."""


# --- coordination -------------------------------------------------------------------------------------------------


class EtcdError(PollcastError):
    """A request to etcd failed."""

    reason, http, grpc = "coordination", 503, "UNAVAILABLE"


class EtcdRefused(EtcdError):
    """etcd refused the request or could not be reached: the request was definitely not carried out."""


class EtcdUnreachable(EtcdRefused):
    """No etcd endpoint answers."""


class EtcdFull(EtcdRefused):
    """etcd has used up its space quota: it takes reads and plain deletes, and no transactions, puts or leases."""


class EtcdRejected(EtcdRefused):
    """etcd rejects the request for what it contains, so repeating it is useless: it is too large, has too many
    operations, or concerns a key that this user may not write."""


class NodeTaken(EtcdRefused):
    """The name of this node belongs to another live node."""


class EtcdUnknown(EtcdError):
    """etcd did not answer in time: whether the request was carried out is unknown. Read back before acting on it."""


class Compacted(EtcdError):
    """etcd no longer keeps the revision to watch from: list the keys again."""


class NewIncarnation(EtcdError):
    """etcd has lost its data: revisions from before mean nothing. List the keys again."""


class LeaseLost(EtcdError):
    """The lease no longer exists, and neither do its keys."""


# --- polling ------------------------------------------------------------------------------------------------------


class PollStale(PollcastError):
    """The database could not be reached or did not answer in time: a transient failure."""

    reason, http, grpc = "stale", 503, "UNAVAILABLE"


class PollFailed(PollcastError):
    """The query itself is at fault: the failure lasts until somebody changes the query or the data."""

    reason, http, grpc = "failed", 500, "FAILED_PRECONDITION"
