"""Rules of `pollcast doctor` about etcd: its members, its space, its speed and its clocks. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from pollcast.services.cli.doctor.finding import Finding, ok, seconds, size, some, warning, wrong
from pollcast.services.cli.doctor.observations import EtcdSeen, Member, Write

OLDEST = (3, 5)
"""Oldest version of etcd that Pollcast is tested with."""

UNSAFE = ((3, 5, 0), (3, 5, 3))
"""First and last version of etcd 3.5 that may lose or differ in data after a crash (etcd-io/etcd#13766)."""

FULL_SHARE, FILLING_SHARE = 0.95, 0.8
"""Shares of etcd's quota from which it counts as full, and as filling up."""

DEFAULT_QUOTA = 2 * 1024**3
"""Quota of an etcd that is not configured, in bytes."""

SLOW_READ, SLOW_WRITE = 0.1, 0.1
"""Times above which a read or a write counts as slow, in seconds."""

CLOCK_SECONDS = 2.0
"""Difference of two clocks that is worth a warning, in seconds."""

SPACE = (
    "Compact and defragment it (etcdctl compact, defrag), disarm the alarm (etcdctl alarm disarm), "
    "and run it with --auto-compaction-retention"
)

ADVICE = (
    ("user name is empty", "Set POLLCAST_ETCD_USER and POLLCAST_ETCD_PASSWORD: etcd requires a user."),
    ("authentication failed", "Correct POLLCAST_ETCD_USER and POLLCAST_ETCD_PASSWORD."),
    ("permission denied", "Grant the user the namespace's keys (deploy/etcd-role.sh), or correct POLLCAST_NAMESPACE."),
    (
        "certificate verify failed",
        "Correct POLLCAST_ETCD_CA, or the host in POLLCAST_ETCD: it must be in the certificate.",
    ),
    ("certificate required", "Set POLLCAST_ETCD_CERT and POLLCAST_ETCD_KEY: etcd takes only clients that have one."),
    ("bad certificate", "Correct POLLCAST_ETCD_CERT and POLLCAST_ETCD_KEY: etcd does not accept the certificate."),
    ("TLS only", "Set POLLCAST_ETCD_CA, the certificates that etcd's own is verified with."),
    ("speaks no TLS", "Unset POLLCAST_ETCD_CA, or run etcd with TLS."),
    ("no leader", "Start the missing members: a majority must be alive."),
    ("database space exceeded", f"{SPACE}."),
)
"""Parts of problems, in etcd's or OpenSSL's words, and what to do about them."""


def about_etcd(etcd: EtcdSeen) -> Iterator[Finding]:
    """Judge etcd as a whole and each of its endpoints."""
    for member in etcd.endpoints:
        yield from about_member(member)
    answering = [member for member in etcd.endpoints if member.problem is None]
    yield from _about_identity(answering, etcd.members, silent=len(etcd.endpoints) - len(answering))


def about_member(member: Member) -> Iterator[Finding]:
    """Judge one endpoint."""
    name = f"etcd {member.endpoint}"
    if member.problem is not None:
        yield wrong(name, member.problem, advice(member.problem, "Start it, or correct POLLCAST_ETCD."))
        return
    found = list(_faults_of(member, name))
    yield from found
    if not any(finding.level == "wrong" for finding in found):
        quota = f" of {size(member.quota_bytes)}" if member.quota_bytes else ""
        read = f", a read takes {seconds(member.read_seconds)}" if member.read_seconds is not None else ""
        yield ok(name, f"version {member.version}, {size(member.stored_bytes)}{quota} stored{read}")


def advice(problem: str, otherwise: str) -> str:
    """Return what to do about a problem in etcd's words."""
    return next((what for part, what in ADVICE if part in problem.lower() or part in problem), otherwise)


def parsed(version: str) -> tuple[int, ...]:
    """Return the numbers of a version: `"3.5.1"` → `(3, 5, 1)`; empty when it has none."""
    numbers = version.partition("-")[0].split(".")
    return tuple(map(int, numbers)) if all(number.isdecimal() for number in numbers) else ()


def _faults_of(member: Member, name: str) -> Iterator[Finding]:
    version = parsed(member.version)
    if version and version[:2] < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        yield wrong(
            name, f"version {member.version} is older than {oldest}", "Upgrade it, one minor version at a time."
        )
    elif UNSAFE[0] <= version < UNSAFE[1]:
        yield warning(name, f"version {member.version} may lose data in a crash", "Upgrade it to 3.5.12 or later.")
    for alarm in member.alarms:
        yield _about_alarm(alarm, name)
    if not member.leader_id and not member.alarms:
        yield wrong(name, "it has no leader", "Start the missing members: a majority must be alive.")
    if member.read_problem is not None and member.leader_id:
        why = member.read_problem
        yield wrong(name, f"it refuses reads: {why}", advice(why, "Check its log."))
    quota = member.quota_bytes or DEFAULT_QUOTA
    share = member.stored_bytes / quota
    if share >= FILLING_SHARE and not any("NOSPACE" in alarm for alarm in member.alarms):
        text = f"{share:.0%} of its quota of {size(quota)} is used" + ("" if member.quota_bytes else ", by default")
        advised = f"{SPACE}; it takes no writes when it is full."
        yield wrong(name, text, advised) if share >= FULL_SHARE else warning(name, text, advised)
    if member.read_seconds is not None and member.read_seconds > SLOW_READ:
        yield warning(name, f"a read takes {seconds(member.read_seconds)}", "Check the network to it and its disk.")
    yield from about_clock(name, member.clock_offset)


def _about_alarm(alarm: str, name: str) -> Finding:
    if "NOSPACE" in alarm:
        return wrong(name, "its quota is used up, so it takes no writes (alarm NOSPACE)", f"{SPACE}.")
    if "CORRUPT" in alarm:
        return wrong(name, f"its data is corrupt ({alarm})", "Replace the member that differs from the others.")
    return wrong(name, alarm, advice(alarm, "Check its log."))


def about_clock(name: str, offset: float | None) -> Iterator[Finding]:
    """Judge the difference between the clock of another machine and this one's."""
    if offset is not None and abs(offset) > CLOCK_SECONDS:
        where = "ahead of" if offset > 0 else "behind"
        yield warning(name, f"its clock is {seconds(abs(offset))} {where} this machine's", "Run NTP on both.")


def _about_identity(answering: list[Member], members: int | None, *, silent: int) -> Iterator[Finding]:
    """Judge whether the endpoints are members of one cluster, and all of them."""
    clusters: defaultdict[int, list[str]] = defaultdict(list)
    for member in answering:
        clusters[member.cluster_id].append(member.endpoint)
    if len(clusters) > 1:
        listed = "; ".join(" and ".join(endpoints) for endpoints in clusters.values())
        yield wrong("etcd", f"the endpoints are {len(clusters)} clusters: {listed}", "Name the members of one only.")
        return
    leaders = {member.leader_id for member in answering if member.leader_id}
    if len(leaders) > 1:
        yield warning("etcd", "its members follow different leaders", "Check the network between them; try again.")
    different = sorted({member.version for member in answering})
    if len(different) > 1:
        yield warning("etcd", f"its members have different versions: {some(different)}", "Complete the upgrade.")
    named = len({member.member_id for member in answering}) + silent
    if members is not None and named < members:
        yield warning(
            "etcd",
            f"it has {members} members, and the settings name {named} of them",
            "Name all of them in POLLCAST_ETCD, so that services can do without any one.",
        )
    if members is not None and members % 2 == 0:
        yield warning("etcd", f"it has {members} members", "Run an odd number: one less endures as much.")


def about_write(write: Write) -> Iterator[Finding]:
    """Judge a write."""
    if write.problem is not None:
        why = write.problem
        yield wrong("etcd", f"it takes no writes: {why}", advice(why, "Check its log, and that a majority is alive."))
    elif write.seconds is not None and write.seconds > SLOW_WRITE:
        yield warning(
            "etcd",
            f"a write takes {seconds(write.seconds)}",
            "Give it a disk of its own: it waits for the disk at each write (etcd_disk_wal_fsync_duration_seconds).",
        )
    elif write.seconds is not None:
        yield ok("etcd", f"a write takes {seconds(write.seconds)}")
