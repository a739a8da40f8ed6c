"""Observations of `pollcast doctor`: what was seen of a cluster, as plain values that rules judge (findings.py).

A field that is None could not be observed. Times are in seconds, sizes in bytes, and a `problem` is why something did
not answer, in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pollcast.services.coordination.keys import NodeRecord


@dataclass(frozen=True)
class Member:
    """One endpoint of etcd."""

    endpoint: str
    problem: str | None = None
    version: str = ""
    cluster_id: int = 0
    member_id: int = 0
    leader_id: int = 0
    """Member that leads, as this one sees it; 0 for none."""
    stored_bytes: int = 0
    quota_bytes: int | None = None
    alarms: tuple[str, ...] = ()
    """Reports of the member itself: alarms, and the lack of a leader."""
    read_seconds: float | None = None
    read_problem: str | None = None
    """Reason why a read that needs the leader was refused."""
    clock_offset: float | None = None
    """Least time by which its clock can differ from this machine's; positive when its clock is ahead."""


@dataclass(frozen=True)
class Write:
    """A write to etcd that leaves nothing behind: a lease, which is revoked at once."""

    seconds: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class EtcdSeen:
    """All endpoints of etcd that the settings name. `members` is the number of members that etcd has."""

    endpoints: tuple[Member, ...]
    members: int | None = None


@dataclass(frozen=True)
class DatabaseSeen:
    """The database that pollers poll, seen with the credentials of the settings."""

    problem: str | None = None
    version: str = ""
    version_number: int | None = None
    user: str = ""
    superuser: bool = False
    writable: str | None = None
    """One table that the user may write to."""
    statement_timeout_ms: int = 0
    """Time after which the server ends a statement unless a session says otherwise, in milliseconds; 0: never."""
    connections: int | None = None
    """Number of connections that this user may have at a time, those in use included."""
    in_use: int | None = None
    """Number of those that are in use, by any program."""
    standby: bool = False
    lag_seconds: float | None = None
    pooled: bool = False
    trip_seconds: float | None = None


@dataclass(frozen=True)
class ListenSeen:
    """The database that pollers listen on. `own` is true when it has a URL of its own."""

    problem: str | None = None
    own: bool = False


@dataclass(frozen=True)
class SourceSeen:
    """A source of the catalogue, beside the PostgreSQL of POLLCAST_DATABASE_URL."""

    name: str
    kind: str
    url_env: str
    problem: str | None = None
    no_url: str | None = None
    """Reason why it was not looked at."""
    pool: int = 4
    """Maximum number of connections of each poller to it."""
    seconds: float = 0.0
    """Time that a connection took, in seconds; 0 for the kind `postgresql`."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """Answers of a source of another kind than `postgresql` about itself (source_questions.py)."""
    database: DatabaseSeen | None = None
    """The source as a PostgreSQL, if it is one."""
    listen: ListenSeen | None = None
    """Whether it can be listened on, if queries do."""
    listening: tuple[str, ...] = ()
    """Queries that listen there."""

    def without_url(self, reason: str) -> SourceSeen:
        """Return it as one that was not looked at for this reason."""
        return replace(self, no_url=reason)

    def with_problem(self, problem: str) -> SourceSeen:
        """Return it as one with a problem."""
        return replace(self, problem=problem)

    def connected(self, seconds: float, facts: Mapping[str, object]) -> SourceSeen:
        """Return it as one to which a connection took this time, in seconds, and which says this of itself."""
        return replace(self, seconds=seconds, facts=facts)


@dataclass(frozen=True)
class NodeSeen:
    """A node that has an entry in etcd, and how it answers from here."""

    record: NodeRecord
    catalogue: str | None = None
    """Hash of its catalogue."""
    http_problem: str | None = None
    ready: bool | None = None
    """Whether `/readyz` is answered with 200."""
    readiness: Mapping[str, object] = field(default_factory=dict)
    """Body of `/readyz`."""
    grpc_problem: str | None = None
    serving: bool | None = None
    """Whether gRPC's health service answers SERVING."""
    clock_offset: float | None = None
    findings: Mapping[str, int] = field(default_factory=dict)
    """Number of the audit's findings by kind; only the leading coordinator has some."""


@dataclass(frozen=True)
class KeysSeen:
    """Pollcast's keys in etcd."""

    total: int
    leader: str | None = None
    """Node that the leader key names."""
    without_lease: tuple[str, ...] = ()
    unowned: tuple[str, ...] = ()
    """Topics that have had demand and no owner for some time."""
    strangers: tuple[tuple[str, str], ...] = ()
    """Topics whose owner has no entry, each with the owner's name."""
    complete: bool = True
    """False when there were too many keys to read all of them in time."""


@dataclass(frozen=True)
class Trouble:
    """The topics of one query in one state other than live. `reason` is that of one of them."""

    query: str
    state: str
    topics: int
    example: str
    reason: str | None = None


@dataclass(frozen=True)
class TopicsSeen:
    """The topics as a coordinator lists them."""

    problem: str | None = None
    live: int = 0
    troubles: tuple[Trouble, ...] = ()
    complete: bool = True


@dataclass(frozen=True)
class ShellSeen:
    """The settings of this shell."""

    problems: tuple[tuple[str, str], ...] = ()
    """Variables or files that are wrong, with the reasons."""
    unknown: tuple[str, ...] = ()
    """Variables with Pollcast's prefix that no service knows."""
    without_effect: tuple[str, ...] = ()
    """Variables of libpq."""
    catalogue: str | None = None
    """The catalogue's file, if it is given."""
    listening: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Queries of the catalogue with `listen`, by their source."""
    pool: int = 4
    polls_default: bool = True
    """Whether a query polls the PostgreSQL of POLLCAST_DATABASE_URL, as far as is known."""


@dataclass(frozen=True)
class Observations:
    """Everything that was seen. A part that is None was not looked at."""

    shell: ShellSeen
    etcd: EtcdSeen | None = None
    write: Write | None = None
    keys: KeysSeen | None = None
    keys_problem: str | None = None
    nodes: tuple[NodeSeen, ...] = ()
    database: DatabaseSeen | None = None
    listen: ListenSeen | None = None
    sources: tuple[SourceSeen, ...] = ()
    topics: TopicsSeen | None = None
