"""The environment variables of other programs that would bend a process of Pollcast: those of libpq.

A shell may have `PGSSLMODE`, `PGOPTIONS`, `PGTZ` and the like for somebody's own database. libpq reads them for every
connection, and they would decide how Pollcast's connections behave, down to the rows that they return. So a process
removes them when it starts: a database's URL alone says how it is reached. The variables in KEPT only say where libpq
finds a file that a URL asks for (docs/reference/settings.md#environment-variables-of-other-programs).
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final

KEPT: Final = frozenset({"PGPASSFILE", "PGSERVICEFILE", "PGSYSCONFDIR"})
"""Variables of libpq that stay: places of the file of passwords and of the files of services."""

_NAMES = """
    PGHOST PGHOSTADDR PGPORT PGDATABASE PGUSER PGPASSWORD PGREQUIREAUTH PGCHANNELBINDING PGSERVICE
    PGOPTIONS PGAPPNAME PGSSLMODE PGREQUIRESSL PGSSLNEGOTIATION PGSSLCOMPRESSION PGSSLCERT PGSSLKEY
    PGSSLKEYLOGFILE PGSSLCERTMODE PGSSLROOTCERT PGSSLCRL PGSSLCRLDIR PGSSLSNI PGSSLMINPROTOCOLVERSION
    PGSSLMAXPROTOCOLVERSION PGMINPROTOCOLVERSION PGMAXPROTOCOLVERSION PGREQUIREPEER PGGSSENCMODE
    PGKRBSRVNAME PGGSSLIB PGGSSDELEGATION PGREALM PGCONNECT_TIMEOUT PGCLIENTENCODING
    PGTARGETSESSIONATTRS PGLOADBALANCEHOSTS PGTTY PGOAUTHDEBUG PGDATESTYLE PGTZ PGGEQO PGLOCALEDIR
"""

LIBPQ: Final = frozenset(_NAMES.split())
"""Variables that libpq reads, in this or a former version, and that do not stay (its manual, section 34.15)."""


def clear(environment: MutableMapping[str, str]) -> list[str]:
    """Remove the variables of libpq from an environment, and return the names of those that were there."""
    return sorted(name for name in LIBPQ if environment.pop(name, None) is not None)
