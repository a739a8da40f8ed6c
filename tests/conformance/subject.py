"""A subject of the conformance suite: one kind of source on a real server, described by what the suite has to know.

Add one by a module in this folder with a function `start`, and name it in rules.py. What a subject cannot do, it says
by its dialect's abilities, or by leaving a field empty; nothing else may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pollcast.poller.sources.poll_error import Scope
from pollcast.poller.sources.source import SourceKind
from pollcast.services.catalogue.source_kinds import KINDS
from tests.conformance.rules import CATALOGUE, CONNECTIONS, NETWORK, TOGETHER


@dataclass(frozen=True)
class Sample:
    """A value of one of the source's types: an SQL expression, and the JSON that a row has for it."""

    sql: str
    json: str


@dataclass(frozen=True)
class Fault:
    """A query that fails in a certain way, whatever its rows. `reason` is a part of the reason for clients."""

    sql: str
    state: str
    scope: Scope
    reason: str


@dataclass(frozen=True)
class Spelling:
    """The words that the source's SQL spells in its own way."""

    integer: str = "int"
    text: str = "varchar(200)"
    decimal: str = "decimal(20, 4)"
    member: Callable[[str, str], str] = lambda column, name: f"{column} = any(%({name})s)"
    """A condition that a column is one of the values of a list parameter."""
    union: str = "({}) union all ({})"
    """All rows of two queries."""
    add_column: str = "alter table {table} add column {column} int default 7"
    drop_column: str = "alter table {table} drop column {column}"


@dataclass
class Subject:
    """One kind of source on a server."""

    kind: SourceKind
    url: str
    """The URL of an empty database, for a poller."""
    execute: Callable[[str], None]
    """Runs one statement as the owner of the database, and commits it."""
    samples: Sequence[Sample]
    """At least one value of each type, with its extremes."""
    slow: str
    """A SELECT that takes half a minute or more, and can be stopped."""
    writes: Sequence[str]
    """SELECTs that would write 'written' into the column `text` of the table `log`, as poll statements may not; the
    suite makes the table, and `prepare` what else they need."""
    faults: Sequence[Fault]
    """Queries that fail: at least one of each class of errors."""
    one_value: str
    """A query with the parameter `n` (int) that fails for n = 0 only, with an error of that topic."""
    spelling: Spelling = field(default_factory=Spelling)
    prepare: Sequence[str] = ()
    """Statements that run once, after the suite's tables were made."""
    parameters: Mapping[str, Sequence[tuple[str | None, str]]] = field(default_factory=dict)
    """For each type of parameter, values in canonical text and the JSON of a column that is the parameter."""
    running: Callable[[], int] | None = None
    """Returns how many statements of pollers run on the server now; None where that is not known."""
    disconnect: Callable[[], None] | None = None
    """Ends all connections of pollers from the server's side; None where there are none."""
    through: Callable[[str], str] | None = None
    """Returns the URL that leads through a proxy at `host:port`; None where there is no network."""
    address: str = ""
    """The server's `host:port`, with `through`."""

    @property
    def has(self) -> frozenset[str]:
        """The things that it has, of those that rules may need."""
        found = {
            CATALOGUE: self.kind.dialect.kind in KINDS,
            CONNECTIONS: self.disconnect is not None and self.running is not None,
            NETWORK: self.through is not None,
            TOGETHER: self.kind.dialect.can.together,
        }
        return frozenset(name for name, there in found.items() if there)
