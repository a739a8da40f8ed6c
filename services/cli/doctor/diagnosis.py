"""The command `pollcast doctor`, which looks at everything at once and prints what it finds.

Nothing hangs on a peer that is dead: every look has a deadline of its own, and all of them together take less than
TOTAL_SECONDS. Nothing is changed: a lease is granted and revoked, to time a write.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.query import DEFAULT_SOURCE
from pollcast.services.catalogue.source_kinds import POSTGRESQL
from pollcast.services.catalogue.sources import DEFAULT_URL_ENV, SourceEntry
from pollcast.services.cli.doctor.doctor_settings import DoctorSettings
from pollcast.services.cli.doctor.finding import Finding, skipped
from pollcast.services.cli.doctor.findings import diagnose
from pollcast.services.cli.doctor.look_at_database import look_at_database, look_at_listening
from pollcast.services.cli.doctor.look_at_etcd import look_at_etcd, look_at_write
from pollcast.services.cli.doctor.look_at_keys import look_at_keys, read_records
from pollcast.services.cli.doctor.look_at_nodes import look_at_nodes
from pollcast.services.cli.doctor.look_at_sources import look_at_source
from pollcast.services.cli.doctor.look_at_topics import look_at_topics
from pollcast.services.cli.doctor.observations import NodeSeen, Observations, ShellSeen, SourceSeen
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys
from pollcast.services.errors import CatalogInvalid, EtcdError, SettingsInvalid
from pollcast.services.process.settings import load, unknown_variables

TOTAL_SECONDS = 9.5
"""Maximum time for looking at everything, in seconds."""


@dataclasses.dataclass
class _Seen:
    """Observations so far."""

    observations: Observations

    def add(self, **parts: object) -> None:
        """Add parts of Observations."""
        self.observations = dataclasses.replace(self.observations, **parts)  # type: ignore[arg-type]


def examine(flags: Mapping[str, str | Path | None], without_effect: Sequence[str]) -> list[Finding]:
    """Return all findings about the cluster that these flags and the environment name.

    `without_effect` are the variables of libpq that were removed from the environment.
    """
    shell = ShellSeen(unknown=tuple(unknown_variables()), without_effect=tuple(without_effect))
    try:
        settings = load(DoctorSettings, **flags)
    except SettingsInvalid as error:
        problems = tuple((problem.field, problem.reason) for problem in error.problems)
        return diagnose(Observations(dataclasses.replace(shell, problems=problems)))
    shell, sources = _with_catalogue(dataclasses.replace(shell, pool=settings.pool), settings.catalog)
    seen = _Seen(Observations(shell))
    in_time = asyncio.run(_look(seen, settings, sources))
    found = diagnose(seen.observations)
    if not in_time:
        found.append(skipped("doctor", "not everything answered in time", "Run it again, nearer to the cluster."))
    return found


def shown(found: Sequence[Finding], *, as_json: bool) -> str:
    """Return the findings as text for a terminal, what is right first and what is wrong last, or as JSON."""
    wrong = sum(finding.level == "wrong" for finding in found)
    if as_json:
        return json.dumps({"ok": not wrong, "findings": [dataclasses.asdict(finding) for finding in found]})
    warnings = sum(finding.level == "warning" for finding in found)
    counted = f"{wrong} wrong, {warnings} warning{'' if warnings == 1 else 's'}"
    verdict = "Nothing is wrong" if not wrong else "Something is wrong"
    return "\n".join([*(finding.line for finding in found), f"{verdict}: {counted}."])


def _with_catalogue(shell: ShellSeen, file: Path | None) -> tuple[ShellSeen, list[SourceEntry]]:
    """Return the shell with the catalogue of this file, and the sources that its queries name."""
    if file is None:
        return shell, [SourceEntry()]
    try:
        catalog = catalogue.load(file)
    except CatalogInvalid as error:
        faults = tuple((f"catalogue {file}", str(problem)) for problem in error.problems)
        return dataclasses.replace(shell, problems=shell.problems + faults, catalogue=str(file)), [SourceEntry()]
    used = catalog.used_sources
    listening = {
        entry.name: tuple(name for name in catalog.queries_of(entry.name) if catalog.queries[name].listen is not None)
        for entry in used
    }
    shell = dataclasses.replace(
        shell, catalogue=str(file), listening=listening, polls_default=any(map(_is_default, used))
    )
    return shell, used


def _is_default(entry: SourceEntry) -> bool:
    """Return whether the source is the PostgreSQL of POLLCAST_DATABASE_URL, which is looked at in detail."""
    return entry.name == DEFAULT_SOURCE and entry.kind == POSTGRESQL.name and entry.url_env == DEFAULT_URL_ENV


async def _look(seen: _Seen, settings: DoctorSettings, sources: Sequence[SourceEntry]) -> bool:
    """Look at everything. Return whether all of it was seen in time."""
    try:
        async with asyncio.timeout(TOTAL_SECONDS), asyncio.TaskGroup() as tasks:
            tasks.create_task(_look_at_cluster(seen, settings))
            others = [entry for entry in sources if not _is_default(entry)]
            if seen.observations.shell.polls_default:
                tasks.create_task(_look_at_databases(seen, settings))
            tasks.create_task(_look_at_sources(seen, settings, others))
            tasks.create_task(_look_at_members(seen, settings))
    except TimeoutError:
        return False
    return True


async def _look_at_members(seen: _Seen, settings: DoctorSettings) -> None:
    seen.add(etcd=await look_at_etcd(settings))


async def _look_at_databases(seen: _Seen, settings: DoctorSettings) -> None:
    if settings.database_url is None:
        return
    url = settings.secret("database_url")()
    database = await look_at_database(url)
    seen.add(database=database)
    if settings.listen_url is not None:
        seen.add(listen=await look_at_listening(settings.secret("listen_url")(), own=True))
    elif database.problem is None:
        seen.add(listen=await look_at_listening(url, own=False))


async def _look_at_sources(seen: _Seen, settings: DoctorSettings, entries: Sequence[SourceEntry]) -> None:
    default = None if settings.database_url is None else settings.secret("database_url")
    listening = seen.observations.shell.listening
    found: dict[str, SourceSeen] = {}

    async def look(entry: SourceEntry) -> None:
        if entry.name == DEFAULT_SOURCE and entry.pool is None:
            entry = dataclasses.replace(entry, pool=settings.pool)
        found[entry.name] = await look_at_source(entry, default, os.environ, listening.get(entry.name, ()))
        seen.add(sources=tuple(found[each.name] for each in entries if each.name in found))

    await asyncio.gather(*map(look, entries))


async def _look_at_cluster(seen: _Seen, settings: DoctorSettings) -> None:
    keys = Keys(settings.namespace)
    nodes: list[NodeSeen] = []
    async with Etcd.open(settings) as etcd:
        try:
            records = await read_records(etcd, keys)
            pollers = {record.node for record, _ in records if record.role == "poller"}
            nodes, listed = await asyncio.gather(look_at_nodes(records, settings), look_at_keys(etcd, keys, pollers))
            seen.add(nodes=tuple(nodes), keys=listed)
        except EtcdError as error:
            seen.add(keys_problem=error.detail)
            return
        seen.add(write=await look_at_write(etcd))
    seen.add(topics=await look_at_topics(nodes, settings))
