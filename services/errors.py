"""Every error that Pollcast raises on purpose, on one screen: named for the condition, each knowing how it is told.

`reason` is the word of CONTRACT.md §4 (WebSocket, SSE, JSON and gRPC say the same), `http` the HTTP status, `grpc` the
name of a `grpc.StatusCode`, `exit` a command's exit status. The message is the `detail`: for people, never SQL, never a
credential.
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
    """Something went wrong."""

    reason: ClassVar[str] = "internal"
    http: ClassVar[int] = 500
    grpc: ClassVar[str] = "INTERNAL"
    exit: ClassVar[int] = 1

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail or self.__doc__)

    @property
    def detail(self) -> str:
        return str(self)


# --- what a client asked for can't be had -------------------------------------------------------------------------


class UnknownQuery(PollcastError):
    """No query of that name is in the catalogue."""

    reason, http, grpc = "unknown_query", 404, "NOT_FOUND"


class InvalidParams(PollcastError):
    """The topic's parameters are wrong."""

    reason, http, grpc = "invalid_params", 400, "INVALID_ARGUMENT"


class Unauthorized(PollcastError):
    """A valid token is needed."""

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
    """This socket has joined as many topics as it may."""

    reason, http, grpc = "too_many_topics", 429, "RESOURCE_EXHAUSTED"


class TooManyJoins(PollcastError):
    """This socket joins faster than it may."""

    reason, http, grpc = "too_many_joins", 429, "RESOURCE_EXHAUSTED"


class NoResult(PollcastError):
    """No result came in time."""

    reason, http, grpc = "timeout", 504, "UNAVAILABLE"


class Draining(PollcastError):
    """This node is shutting down; use another."""

    reason, http, grpc = "draining", 503, "UNAVAILABLE"


class TooManyConnections(PollcastError):
    """This gateway is full."""

    reason, http, grpc = "too_many_connections", 503, "UNAVAILABLE"


class UnknownNode(PollcastError):
    """No node of that name is in the cluster."""

    reason, http, grpc = "unknown_node", 404, "NOT_FOUND"


class UnknownTopic(PollcastError):
    """Nobody watches that topic now."""

    reason, http, grpc = "unknown_topic", 404, "NOT_FOUND"


# --- configuration ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a configuration. `query` and `field` are empty where the fault is not in one."""

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
    """An address to serve on can't be bound."""


# --- coordination -------------------------------------------------------------------------------------------------


class EtcdError(PollcastError):
    """etcd did not do what was asked."""

    reason, http, grpc = "coordination", 503, "UNAVAILABLE"


class EtcdRefused(EtcdError):
    """etcd answered and refused, or could not be reached at all: the request was definitely not carried out."""


class EtcdUnreachable(EtcdRefused):
    """No endpoint of etcd answers."""


class NodeTaken(EtcdRefused):
    """Another live node has this name."""


class EtcdUnknown(EtcdError):
    """No answer in time: the request was carried out or was not. Read back before acting on it."""


class Compacted(EtcdError):
    """The revision to watch from is no longer kept: list again."""


class LeaseLost(EtcdError):
    """The lease is gone, and with it everything that hung on it."""


# --- polling ------------------------------------------------------------------------------------------------------


class PollStale(PollcastError):
    """Transient: the database was not reached, or did not answer in time."""

    reason, http, grpc = "stale", 503, "UNAVAILABLE"


class PollFailed(PollcastError):
    """Permanent until somebody changes something: the query itself is at fault."""

    reason, http, grpc = "failed", 500, "FAILED_PRECONDITION"
