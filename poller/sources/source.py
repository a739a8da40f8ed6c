"""The seam between a poller and the databases that it polls: what each kind of source has to provide.

A **kind** of source (`postgresql`, `postgresql-plain`, `mysql`, `duckdb`) consists of two parts:

- A `Dialect` is pure. It turns a query and the values of topics into `Statement`s, and says what the kind cannot do.
- A `Driver` opens `Session`s. A session is one connection: it runs the statements of one `Trip` after the other, and
  adds the rows of each to its `Answer`.

Everything else is common to all kinds and is not written again for each: the pool and its reserve, the second attempt
after a lost connection (database.py, connections.py), budgets (budget.py), the guard that breaks a connection whose
server does not answer (guard.py), the encoding of rows that a driver delivers as values (row_encoder.py), the classes
of errors (faults.py), the answers of a trip (trips.py), the thread of a driver whose calls block (thread_session.py).
Neither dialects nor drivers know rounds, topics or gateways: a topic is here a mapping of parameters to values.
docs/howto/new-source.md says in which order a kind is written.

What a source must guarantee, whatever its kind (docs/reference/guarantees.md):

- Rows come in the order that the query gives them. Two statements over the same data give the same bytes.
- A statement reads one state of the database, and cannot write: its server refuses that, not this code.
- It ends after the trip's time: the server cancels it, or else the session does, and the server does not go on with it.
- It asks for at most `max_rows + 1` rows, and stops reading when `Answer.full` says so.
- An error is blamed on the statement while the connection works, and on the database only when the connection is lost.
- No message for clients (`PollError.cause`) contains SQL, identifiers, data or host names; `PollError.message` may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pollcast.poller.sources.outcome import LostConnection, Outcome, Trip
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.row_type import RowType
from pollcast.poller.sources.statement import Columns, Statement, Values
from pollcast.services.catalogue.query import Query

Url: TypeAlias = Callable[[], str]
"""Function that returns the present URL of a source."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """The abilities of a kind of source. What it cannot do is refused in the catalogue, or done in another way."""

    together: bool = False
    """Whether one statement can poll several topics (`Dialect.together`); else each topic has its own statement."""
    digests: bool = False
    """Whether statements can compare digests (`Dialect.digest`, `Dialect.description`); else rows are always sent."""
    trips: bool = False
    """Whether a session sends several statements in one round trip; else a trip has one statement."""


class Dialect(Protocol):
    """The pure part of a kind. Its statements return rows as `Answer.add` takes them, in the session's encoding."""

    @property
    def kind(self) -> str:
        """The name of the kind in the catalogue."""

    @property
    def can(self) -> Abilities:
        """The abilities of the kind."""

    def unbatchable(self, query: Query) -> str | None:
        """Return the reason why the query's topics cannot share a statement, for the author; None when they can."""

    def alone(self, query: Query, values: Values) -> Statement:
        """Return the statement that polls one topic."""

    def together(self, query: Query, topics: Sequence[Values]) -> Statement:
        """Return the statement that polls several topics with equal sharing keys (statement.py). Only if it `can`."""

    def digest(self, query: Query, topics: Sequence[Values], last: Sequence[int | None], columns: Columns) -> Statement:
        """Return the statement that polls one or several topics by their digests. Only if it `can`.

        `last` has each topic's last digest, or None so that its rows are sent in any case. `columns` are those for
        which the digests are made.
        """

    def description(self, query: Query, topics: Sequence[Values]) -> Statement:
        """Return a statement without rows whose columns are those of the query. Only if it `can` make digests."""

    def probe(self, query: Query) -> Statement:
        """Return the statement that runs the query's probe: its first row is returned as a row of topic 1."""


Description: TypeAlias = RowType | PollError | LostConnection
"""The type of a query's rows, or why it is not known."""


class Session(Protocol):
    """One connection to a server, made by `Driver.connect` and used by one trip at a time."""

    opened_at: float
    """Time when the connection was opened, in seconds on the event loop's clock."""

    @property
    def usable(self) -> bool:
        """Whether another trip can be made: the connection is neither broken nor within a transaction."""

    def look(self) -> None:
        """Read, without waiting, what the server has sent while the connection was idle, such as that it has ended."""

    async def run(self, trip: Trip) -> list[Outcome]:
        """Run the statements of the trip in their order, and return the outcomes of the first ones (at least of one).

        Each statement runs in a read-only transaction of its own, or what comes next to it, and has `trip.seconds`. An
        error ends that statement only; a lost connection ends the trip. For each statement the rows go to its answer
        (`Answer.add`), and its times are set: `latency`, `seconds`. Raises nothing but CancelledError, after which
        `close` is called; what the server still does must then end soon.
        """

    async def describe(self, query: Query, seconds: float) -> Description:
        """Have the server describe the query's rows, with sample values and within this time, without running it.

        What it raises, and what comes of that, is as for `run`.
        """

    async def close(self) -> None:
        """Close the connection. It must not wait for a server that does not answer, and raises nothing."""


class Driver(Protocol):
    """The part of a kind that does I/O."""

    def check_url(self, url: str) -> None:
        """Raise ValueError if the URL is none of this kind. The message does not repeat any part of it."""

    async def connect(self, url: str, node: str) -> Session:
        """Open a connection, within a few seconds, that names the node and later the query (names.py) if it can.

        Raises Unreachable (outcome.py) whose message is the server's words without the password.
        """


@dataclass(frozen=True, slots=True)
class SourceKind:
    """A kind of source. poller/source_kinds.py has all of them by name, and imports a kind when it is first used."""

    dialect: Dialect
    driver: Driver
    finite: bool = False
    """Whether no number of its rows can be NaN or infinite, which rows have as strings."""
