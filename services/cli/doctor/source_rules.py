"""Rules of `pollcast doctor` about the other sources of a catalogue, as pollers use them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pollcast.services.cli.doctor.database_rules import about_database, about_listening
from pollcast.services.cli.doctor.finding import Finding, ok, seconds, skipped, warning, wrong
from pollcast.services.cli.doctor.observations import SourceSeen

READER = "Give pollers a user who may only read."


def about_source(source: SourceSeen, pollers: int) -> Iterator[Finding]:
    """Judge a source. `pollers` is the number of pollers."""
    about = f"source {source.name}"
    if source.no_url is not None:
        yield skipped(about, f"not checked: {source.no_url}", f"Set {source.url_env} here as pollers have it.")
    elif source.problem is not None:
        yield wrong(about, f"it can't be polled: {source.problem}", f"Start it, or correct {source.url_env}.")
    elif source.database is not None:
        yield from about_database(source.database, source.pool, pollers, about)
        if source.listen is not None:
            yield from about_listening(source.listen, source.listening, about)
    else:
        yield from _about_facts(source, pollers, about)


def _about_facts(source: SourceSeen, pollers: int, about: str) -> Iterator[Finding]:
    facts = source.facts
    if facts.get("privilege"):
        user = f"the user {facts['user']}" if facts.get("user") else "its user"
        yield warning(about, f"{user} may write: {facts['privilege']} on {facts['place']}", READER)
    needed, connections = max(1, pollers) * source.pool, facts.get("connections")
    if isinstance(connections, int) and connections < needed:
        yield wrong(
            about,
            f"it allows {connections} connections, and {max(1, pollers)} pollers may need {needed}",
            "Raise its limit, or lower the `pool` of the source.",
        )
    named = {"version": "version", "user": "user", "time_zone": "time zone", "memory_limit": "memory limit"}
    parts = [f"{word} {facts[name]}" for name, word in named.items() if facts.get(name)]
    parts += [f"{facts['threads']} threads"] if facts.get("threads") else []
    parts += (
        ["the server is read-only"] if str(facts.get("read_only", "0")).lower() not in ("0", "off", "false") else []
    )
    yield ok(about, ", ".join([source.kind, *parts, f"a connection takes {seconds(source.seconds)}"]))
