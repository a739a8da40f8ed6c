"""The judgements of `pollcast doctor`: a table of observations, and what is found in each."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from pollcast.services.cli.doctor.diagnosis import shown
from pollcast.services.cli.doctor.finding import some, wrong
from pollcast.services.cli.doctor.findings import diagnose
from pollcast.services.cli.doctor.http_get import least_offset
from pollcast.services.cli.doctor.look_at_nodes import plain
from pollcast.services.cli.doctor.observations import (
    DatabaseSeen,
    EtcdSeen,
    KeysSeen,
    ListenSeen,
    Member,
    NodeSeen,
    Observations,
    ShellSeen,
    SourceSeen,
    TopicsSeen,
    Trouble,
    Write,
)
from pollcast.services.coordination.keys import NodeRecord, NodeState
from pollcast.services.process.settings import Role

GB = 1024**3


def member(number: int, **fields: object) -> Member:
    """Return a member of etcd that is well."""
    healthy = Member(
        f"etcd-{number}:2379",
        version="3.5.21",
        cluster_id=7,
        member_id=number,
        leader_id=1,
        stored_bytes=20_000_000,
        quota_bytes=2 * GB,
        read_seconds=0.001,
        clock_offset=0.0,
    )
    return replace(healthy, **fields)  # type: ignore[arg-type]


def node(
    name: str, /, *, state: NodeState = "ready", version: str = "0.1.0", grpc: str | None = None, **fields: object
) -> NodeSeen:
    """Return a node that is well; its role is the first part of its name."""
    role = cast(Role, name.partition("-")[0])
    address, since = grpc or f"{name}:4001", "2026-01-31T12:00:00Z"
    record = NodeRecord(name, role, f"{name}:4000", address, 1, version, since, "1f", state)
    seen = NodeSeen(record, ready=True, readiness={"status": "ready", "etcd": "ok"}, serving=True, clock_offset=0.0)
    return replace(seen, **fields)  # type: ignore[arg-type]


ETCD = EtcdSeen((member(1), member(2), member(3)), members=3)
NODES = (node("gateway-1"), node("poller-1"), node("poller-2"), node("coordinator-1"))
DATABASE = DatabaseSeen(
    version="16.4", version_number=160004, user="reader", connections=97, in_use=12, trip_seconds=0.001
)
HEALTHY = Observations(
    ShellSeen(listening={"default": ("orders",)}),
    etcd=ETCD,
    write=Write(seconds=0.004),
    keys=KeysSeen(12, leader="coordinator-1"),
    nodes=NODES,
    database=DATABASE,
    listen=ListenSeen(),
    sources=(SourceSeen("lake", "duckdb", "LAKE_URL", seconds=0.002),),
    topics=TopicsSeen(live=3),
)


WRITES = {"privilege": "INSERT", "place": "shop.*"}
UNREACHED = {
    "status": "ready",
    "etcd": "ok",
    "database": "shop: no route",
    "sources": {"default": "ok", "shop": "no route"},
}


def seen(**parts: object) -> Observations:
    """Return the observations of a healthy cluster but for these parts."""
    return replace(HEALTHY, **parts)  # type: ignore[arg-type]


def etcd(**fields: object) -> Observations:
    """Return the observations of a cluster whose first member of etcd is not well."""
    return seen(etcd=replace(ETCD, endpoints=(member(1, **fields), member(2), member(3))))


def database(**fields: object) -> Observations:
    """Return the observations of a cluster whose database is not well."""
    return seen(database=replace(DATABASE, **fields))  # type: ignore[arg-type]


def nodes(*changed: NodeSeen) -> Observations:
    """Return the observations of a cluster some of whose nodes are not well."""
    by_name = {each.record.node: each for each in (*NODES, *changed)}
    return seen(nodes=tuple(by_name.values()))


def without(role: str) -> Observations:
    """Return the observations of a cluster without nodes of this role."""
    return seen(nodes=tuple(each for each in NODES if each.record.role != role))


def bad(level: str, about: str, *parts: str) -> tuple[str, str, tuple[str, ...]]:
    """Return a finding that is expected: its level, its subject, and parts of its text and its advice."""
    return level, about, parts


MIXED = bad("warning", "etcd", "its members have different versions", "Complete")

TABLE = [
    # --- etcd
    (etcd(problem="it refuses connections"), bad("wrong", "etcd etcd-1:2379", "refuses connections", "Start it")),
    (etcd(problem="it speaks TLS only"), bad("wrong", "etcd etcd-1:2379", "TLS", "POLLCAST_ETCD_CA")),
    (etcd(problem="it speaks no TLS"), bad("wrong", "etcd etcd-1:2379", "Unset POLLCAST_ETCD_CA")),
    (
        etcd(problem="certificate verify failed: Hostname mismatch"),
        bad("wrong", "etcd etcd-1:2379", "Hostname mismatch", "must be in the certificate"),
    ),
    (etcd(version="3.4.9"), bad("wrong", "etcd etcd-1:2379", "3.4.9", "Upgrade"), MIXED),
    (etcd(version="3.5.1"), bad("warning", "etcd etcd-1:2379", "3.5.1", "Upgrade"), MIXED),
    (etcd(cluster_id=8), bad("wrong", "etcd", "2 clusters: etcd-1:2379; etcd-2:2379 and etcd-3:2379", "Name")),
    (etcd(leader_id=0), bad("wrong", "etcd etcd-1:2379", "no leader", "majority")),
    (
        etcd(leader_id=0, alarms=("etcdserver: no leader",), read_problem="it does not answer"),
        bad("wrong", "etcd etcd-1:2379", "no leader", "majority"),
    ),
    (etcd(alarms=("memberID:1 alarm:NOSPACE ",)), bad("wrong", "etcd etcd-1:2379", "NOSPACE", "defrag", "disarm")),
    (etcd(alarms=("memberID:1 alarm:CORRUPT ",)), bad("wrong", "etcd etcd-1:2379", "corrupt", "Replace")),
    (etcd(stored_bytes=1.7 * GB), bad("warning", "etcd etcd-1:2379", "85% of its quota of 2 GB", "Compact")),
    (etcd(stored_bytes=1.99 * GB), bad("wrong", "etcd etcd-1:2379", "100%", "Compact")),
    (
        etcd(stored_bytes=1.7 * GB, quota_bytes=None),
        bad("warning", "etcd etcd-1:2379", "2 GB is used, by default", "Compact"),
    ),
    (etcd(read_seconds=0.4), bad("warning", "etcd etcd-1:2379", "a read takes 400 ms", "Check")),
    (
        etcd(read_problem="user name is empty"),
        bad("wrong", "etcd etcd-1:2379", "refuses reads: user name is empty", "Set POLLCAST_ETCD_USER"),
    ),
    (
        etcd(read_problem="authentication failed, invalid user ID or password"),
        bad("wrong", "etcd etcd-1:2379", "invalid user ID", "Correct POLLCAST_ETCD_USER"),
    ),
    (etcd(read_problem="permission denied"), bad("wrong", "etcd etcd-1:2379", "denied", "deploy/etcd-role.sh")),
    (etcd(clock_offset=-30.0), bad("warning", "etcd etcd-1:2379", "30 s behind", "NTP")),
    (
        seen(etcd=replace(ETCD, members=5)),
        bad("warning", "etcd", "5 members, and the settings name 3", "POLLCAST_ETCD"),
    ),
    (
        seen(etcd=EtcdSeen((member(1), member(2)), members=2)),
        bad("warning", "etcd", "it has 2 members", "odd number"),
    ),
    (etcd(version="3.6.0"), bad("warning", "etcd", "different versions: 3.5.21, 3.6.0", "Complete")),
    (seen(write=Write(seconds=0.5)), bad("warning", "etcd", "a write takes 500 ms", "disk")),
    (
        seen(write=Write(problem="etcd-1: RESOURCE_EXHAUSTED: etcdserver: mvcc: database space exceeded")),
        bad("wrong", "etcd", "it takes no writes", "defrag"),
    ),
    (seen(keys=None, keys_problem="no answer"), bad("wrong", "cluster", "no answer", "Repair")),
    # --- nodes
    (seen(nodes=()), bad("wrong", "cluster", "no node is registered", "POLLCAST_ETCD")),
    (without("gateway"), bad("wrong", "cluster", "no gateway", "Start one")),
    (without("poller"), bad("wrong", "cluster", "no poller", "Start one")),
    (without("coordinator"), bad("warning", "cluster", "no coordinator", "Start one")),
    (seen(keys=KeysSeen(12)), bad("wrong", "cluster", "no coordinator leads", "Check")),
    (seen(keys=KeysSeen(12, leader="coordinator-9")), bad("warning", "cluster", "coordinator-9", "Try again")),
    (
        nodes(node("poller-2", version="0.2.0")),
        bad("warning", "cluster", "(0.1.0: gateway-1, poller-1, coordinator-1; 0.2.0: poller-2)", "Complete"),
    ),
    (
        nodes(node("poller-1", catalogue="aa"), node("gateway-1", catalogue="bb")),
        bad("warning", "cluster", "different catalogues (aa: poller-1; bb: gateway-1)", "Give all of them the same"),
    ),
    (
        nodes(node("poller-2", grpc_problem="it refuses connections", http_problem="it refuses connections")),
        bad("wrong", "poller-2", "gRPC at poller-2:4001 is not reached from here", "POLLCAST_ADVERTISE"),
        bad("warning", "poller-2", "HTTP at poller-2:4000 is not reached from here", "Check"),
    ),
    (
        nodes(node("poller-2", grpc="127.0.0.1:4001", grpc_problem="it refuses connections", http_problem="it does")),
        bad("wrong", "poller-2", "advertises 127.0.0.1:4001, which only its own machine reaches", "ADVERTISE"),
    ),
    (nodes(node("poller-2", serving=False)), bad("wrong", "poller-2", "NOT_SERVING", "Read its log")),
    (nodes(node("gateway-1", clock_offset=12.5)), bad("warning", "gateway-1", "12.5 s ahead", "NTP")),
    (
        nodes(node("gateway-1", readiness={"status": "ready", "etcd": "not reached"})),
        bad("wrong", "gateway-1", "does not reach etcd", "Check the network"),
    ),
    (
        nodes(node("poller-2", readiness={"status": "ready", "etcd": "ok", "database": "FATAL: sorry"})),
        bad("wrong", "poller-2", "does not reach its database: FATAL: sorry", "Start the database"),
    ),
    (
        nodes(node("poller-2", state="starting", ready=False, readiness={"reason": "no: FATAL", "database": "FATAL"})),
        bad("wrong", "poller-2", "it is not ready: no: FATAL", "Repair"),
    ),
    (nodes(node("poller-2", state="draining", ready=False)), bad("warning", "poller-2", "draining", "Wait")),
    (
        nodes(node("poller-1", state="starting"), node("poller-2", state="starting")),
        bad("wrong", "cluster", "no poller is ready", "See"),
        bad("wrong", "poller-1", "it is starting", "Repair"),
        bad("wrong", "poller-2", "it is starting", "Repair"),
    ),
    (
        nodes(node("coordinator-1", findings={"unowned": 2, "unfair": 1})),
        bad("wrong", "coordinator-1", "finds 1 unfair, 2 unowned", "Read"),
    ),
    # --- keys and topics
    (
        seen(keys=replace(KeysSeen(9, leader="coordinator-1"), without_lease=("/pollcast/x",))),
        bad("warning", "keys", "/pollcast/x", "Delete"),
    ),
    (
        seen(keys=replace(KeysSeen(9, leader="coordinator-1"), unowned=("a", "b", "c", "d"))),
        bad("wrong", "topics", "4 topics have clients and no owner: a, b, c and 1 more", "Check"),
    ),
    (
        seen(keys=replace(KeysSeen(9, leader="coordinator-1"), strangers=(("a", "poller-9"),))),
        bad("wrong", "topics", "not registered: a (poller-9)", "Delete"),
    ),
    (
        seen(keys=replace(KeysSeen(9, leader="coordinator-1"), complete=False)),
        bad("skipped", "keys", "the first 9 keys", "Ask"),
    ),
    (seen(topics=TopicsSeen("no coordinator answers")), bad("skipped", "topics", "no coordinator answers", "Start")),
    (
        seen(topics=TopicsSeen(live=3, troubles=(Trouble("orders", "failed", 2, "orders?n=1", "no such column"),))),
        bad("wrong", "topics", "2 topics of orders are failed: no such column", "Correct", "watch 'orders?n=1'"),
    ),
    (
        seen(topics=TopicsSeen(live=3, troubles=(Trouble("orders", "stale", 1, "orders?n=1"),))),
        bad("wrong", "topics", "1 topic of orders is stale, such as orders?n=1", "Check"),
    ),
    # --- the database
    (seen(database=None), bad("skipped", "database", "not checked", "--database-url")),
    (
        seen(database=DatabaseSeen(problem="FATAL: password authentication failed"), listen=None),
        bad("wrong", "database", "password authentication failed", "POLLCAST_DATABASE_URL"),
    ),
    (database(version="9.6", version_number=90600), bad("wrong", "database", "9.6 is too old", "Upgrade")),
    (database(superuser=True, writable="public.t"), bad("warning", "database", "superuser", "postgres-role.sql")),
    (database(writable="public.orders"), bad("warning", "database", "to public.orders", "postgres-role.sql")),
    (database(connections=9), bad("wrong", "database", "2 pollers may need 10", "POLLCAST_POOL")),
    (database(in_use=97), bad("wrong", "database", "97 of 97 connections", "pg_stat_activity")),
    (database(in_use=95), bad("warning", "database", "95 of 97 connections", "max_connections")),
    (database(standby=True, lag_seconds=75.0), bad("warning", "database", "lags 75 s behind", "replication")),
    (database(standby=True), bad("warning", "database", "replayed nothing", "replication")),
    (database(trip_seconds=0.2), bad("warning", "database", "a round trip takes 200 ms", "nearer")),
    (
        seen(listen=ListenSeen("cannot execute LISTEN during recovery")),
        bad("wrong", "database", "orders can't be notified", "POLLCAST_LISTEN_URL"),
    ),
    (
        seen(listen=ListenSeen("it does not answer in time", own=True), shell=ShellSeen()),
        bad("wrong", "database to listen on", "does not answer", "POLLCAST_LISTEN_URL"),
    ),
    # --- other sources
    (
        seen(sources=(SourceSeen("shop", "mysql", "SHOP_URL", problem="Access denied for user 'me'"),)),
        bad("wrong", "source shop", "it can't be polled: Access denied", "correct SHOP_URL"),
    ),
    (
        seen(sources=(SourceSeen("shop", "mysql", "SHOP_URL", facts={"user": "me@%", **WRITES}),)),
        bad("warning", "source shop", "the user me@% may write: INSERT on shop.*", "may only read"),
    ),
    (
        seen(sources=(SourceSeen("shop", "mysql", "SHOP_URL", pool=8, facts={"connections": 15}),)),
        bad("wrong", "source shop", "it allows 15 connections, and 2 pollers may need 16", "the `pool` of the source"),
    ),
    (
        seen(sources=(SourceSeen("shop", "postgresql", "SHOP_URL", database=replace(DATABASE, superuser=True)),)),
        bad("warning", "source shop", "the user reader is a superuser", "deploy/postgres-role.sql"),
    ),
    (
        seen(
            sources=(
                SourceSeen(
                    "shop",
                    "postgresql",
                    "SHOP_URL",
                    database=DATABASE,
                    listen=ListenSeen("it is a standby"),
                    listening=("prices",),
                ),
            )
        ),
        bad("wrong", "source shop", "prices can't be notified of changes: it is a standby", "to the primary"),
    ),
    (
        seen(nodes=(*NODES[:1], node("poller-1", readiness=UNREACHED), *NODES[2:])),
        bad("wrong", "poller-1", "it does not reach a source: shop: no route", "URL of that source"),
    ),
    (
        seen(sources=(SourceSeen("shop", "mysql", "SHOP_URL", no_url="url_env names SHOP_URL, which is not set"),)),
        bad("skipped", "source shop", "not checked: url_env names SHOP_URL", "Set SHOP_URL here"),
    ),
    # --- the shell
    (
        seen(shell=replace(HEALTHY.shell, problems=(("POLLCAST_POOL", "is 0"),))),
        bad("wrong", "POLLCAST_POOL", "is 0", "does not start"),
    ),
    (
        seen(shell=replace(HEALTHY.shell, unknown=("POLLCAST_ETDC",))),
        bad("warning", "POLLCAST_ETDC", "no such", "name"),
    ),
    (seen(shell=replace(HEALTHY.shell, without_effect=("PGTZ",))), bad("warning", "settings", "PGTZ", "DATABASE_URL")),
]


def test_nothing_is_wrong_with_a_healthy_cluster() -> None:
    assert [finding for finding in diagnose(HEALTHY) if finding.level != "ok"] == []


@pytest.mark.parametrize(("observed", "expected"), [(row[0], list(row[1:])) for row in TABLE])
def test_each_fault_is_found_and_nothing_else(
    observed: Observations, expected: list[tuple[str, str, tuple[str, ...]]]
) -> None:
    found = [finding for finding in diagnose(observed) if finding.level != "ok"]
    assert [(finding.level, finding.about) for finding in found] == [(level, about) for level, about, _ in expected]
    for finding, (_, _, parts) in zip(found, expected, strict=True):
        assert [part for part in parts if part not in finding.line] == []
        assert finding.advice[0].isupper()
        assert finding.advice.endswith(".")
        assert "\n" not in finding.line


def test_an_unsuitable_pooler_matters_only_to_queries_that_listen() -> None:
    pooled = seen(listen=ListenSeen("a pooler"), shell=ShellSeen())
    assert [finding for finding in diagnose(pooled) if finding.level != "ok"] == []


def test_the_offset_of_a_clock_is_the_least_that_its_whole_seconds_allow() -> None:
    assert least_offset(100.0, 100.2, 100.3) == 0.0  # from 100.0 to 101.0
    assert least_offset(100.0, 101.5, 101.6) == -0.5
    assert least_offset(105.0, 100.2, 100.5) == 4.5


@pytest.mark.parametrize(
    ("details", "said"),
    [
        (
            "errors resolving a.invalid:4001: [field:hostname lookup error:address lookup failed for a.invalid:4001: "
            "Domain name not found]",
            "its name is not known here",
        ),
        ("Received http2 header with status: 404", "what answers there is not Pollcast"),
        (
            "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:10.0.0.1:80: Failed parsing HTTP/2 "
            "(Expected SETTINGS frame as the first frame, got frame type 79)",
            "what answers there is not Pollcast",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:1: Failed to connect to remote "
            "host: Connection refused",
            "it refuses connections",
        ),
    ],
)
def test_what_grpc_says_about_a_node_is_put_plainly(details: str, said: str) -> None:
    assert plain(details) == said


def test_the_words_of_others_may_end_with_a_full_stop() -> None:
    assert wrong("x", "Is it running?", "Start it.").line == "wrong    x: Is it running? Start it."


def test_many_names_are_cut() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcde")) == "a, b, c and 2 more"


def test_the_last_line_counts_what_is_wrong() -> None:
    assert shown(diagnose(HEALTHY), as_json=False).endswith("\nNothing is wrong: 0 wrong, 0 warnings.")
    assert shown([wrong("x", "is broken", "Repair it.")], as_json=False).splitlines() == [
        "wrong    x: is broken. Repair it.",
        "Something is wrong: 1 wrong, 0 warnings.",
    ]
    assert shown([wrong("x", "is broken", "Repair it.")], as_json=True) == (
        '{"ok": false, "findings": [{"level": "wrong", "about": "x", "found": "is broken", "advice": "Repair it."}]}'
    )
