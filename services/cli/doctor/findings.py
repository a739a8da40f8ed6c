"""Findings of `pollcast doctor`: what is right and what is wrong in a cluster, judged from observations. Pure.

`diagnose` applies the rules of each part: the shell's settings, etcd, keys, nodes, topics and the database.
"""

from __future__ import annotations

from collections.abc import Iterator

from pollcast.services.catalogue.query import DEFAULT_SOURCE
from pollcast.services.cli.doctor import database_rules, etcd_rules, node_rules, source_rules, topic_rules
from pollcast.services.cli.doctor.finding import Finding, ok, skipped, warning, wrong
from pollcast.services.cli.doctor.observations import Observations, ShellSeen


def diagnose(seen: Observations) -> list[Finding]:
    """Return all findings, in the order in which they are shown."""
    found = list(about_shell(seen.shell))
    if seen.etcd is not None:
        found += etcd_rules.about_etcd(seen.etcd)
    if seen.write is not None:
        found += etcd_rules.about_write(seen.write)
    if seen.keys is not None:
        found += node_rules.about_cluster(seen.keys, seen.nodes)
        found += node_rules.about_nodes(seen.nodes)
        found += topic_rules.about_keys(seen.keys)
    elif seen.keys_problem is not None:
        found.append(
            wrong("cluster", f"its keys can't be read: {seen.keys_problem}", "Repair what is wrong about etcd first.")
        )
    if seen.topics is not None:
        found += topic_rules.about_topics(seen.topics)
    pollers = sum(node.record.role == "poller" for node in seen.nodes)
    if seen.database is not None:
        found += database_rules.about_database(seen.database, seen.shell.pool, pollers)
        if seen.listen is not None:
            found += database_rules.about_listening(seen.listen, seen.shell.listening.get(DEFAULT_SOURCE, ()))
    elif not seen.shell.problems and seen.shell.polls_default:
        found.append(skipped("database", "not checked", "Give --database-url, or set POLLCAST_DATABASE_URL."))
    for source in seen.sources:
        found += source_rules.about_source(source, pollers)
    return found


def about_shell(shell: ShellSeen) -> Iterator[Finding]:
    """Judge the settings of this shell."""
    for name, reason in shell.problems:
        yield wrong(name, reason, "Correct it: a service with this setting does not start.")
    for name in shell.unknown:
        yield warning(name, "there is no such setting", "Correct its name, or unset it (docs/reference/settings.md).")
    if shell.without_effect:
        names = ", ".join(shell.without_effect)
        yield warning(
            "settings",
            f"{names} have no effect on Pollcast",
            "Say how the database is reached in POLLCAST_DATABASE_URL.",
        )
    if not shell.problems:
        yield ok("settings", "no fault" + (f", catalogue {shell.catalogue}" if shell.catalogue else ""))
