"""Rules of `pollcast doctor` about the nodes: which there are, whether they answer, and whether they match. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from pollcast.services.cli.doctor.etcd_rules import about_clock
from pollcast.services.cli.doctor.finding import Finding, ok, some, warning, wrong
from pollcast.services.cli.doctor.observations import KeysSeen, NodeSeen
from pollcast.services.process.addresses import is_loopback

PATH = "Check that it runs, and that the network lets this machine reach"
"""Beginning of the advice about an address that is not reached."""


def about_cluster(keys: KeysSeen, nodes: Sequence[NodeSeen]) -> Iterator[Finding]:
    """Judge which nodes there are, and who leads."""
    count = Counter(node.record.role for node in nodes)
    if not nodes:
        yield wrong("cluster", "no node is registered", "Start services, or correct POLLCAST_ETCD or _NAMESPACE.")
        return
    if not count["gateway"]:
        yield wrong("cluster", "no gateway is registered", "Start one (pollcast gateway): clients reach nothing.")
    ready = sum(node.record.role == "poller" and node.record.state == "ready" for node in nodes)
    if not count["poller"]:
        yield wrong("cluster", "no poller is registered", "Start one (pollcast poller): no result is updated.")
    elif not ready:
        yield wrong("cluster", "no poller is ready", "See what is said about each of them: no result is updated.")
    if not count["coordinator"]:
        advised = "Start one (pollcast coordinator): the cluster is not audited, and topics can't be listed."
        yield warning("cluster", "no coordinator is registered", advised)
    elif keys.leader is None:
        yield wrong("cluster", "no coordinator leads", "Check that coordinators reach etcd: read their logs.")
    elif not any(node.record.node == keys.leader for node in nodes):
        yield warning("cluster", f"the leader {keys.leader} is not registered", "Try again: it may have just died.")
    yield from _about_versions(nodes)
    yield from _about_catalogues(nodes)
    yield ok("cluster", ", ".join(f"{count[role]} {role}{'' if count[role] == 1 else 's'}" for role in sorted(count)))


def about_nodes(nodes: Sequence[NodeSeen]) -> Iterator[Finding]:
    """Judge each node."""
    exposed = [node for node in nodes if not is_loopback(node.record.grpc)]
    for node in nodes:
        found = list(_about_node(node, reached_by_others=bool(exposed) and node not in exposed))
        yield from found
        if not any(finding.level == "wrong" for finding in found):
            yield ok(_name(node), f"{node.record.state}, HTTP {node.record.http}, gRPC {node.record.grpc}")


def _name(node: NodeSeen) -> str:
    name, role = node.record.node, node.record.role
    return name if role in name else f"{role} {name}"


def _about_node(node: NodeSeen, *, reached_by_others: bool) -> Iterator[Finding]:
    name, record = _name(node), node.record
    if reached_by_others:
        yield wrong(
            name,
            f"it advertises {record.grpc}, which only its own machine reaches, while other nodes are elsewhere",
            "Set POLLCAST_ADVERTISE, and serve POLLCAST_GRPC and _HTTP on an address that others reach.",
        )
    elif node.grpc_problem is not None:
        yield wrong(
            name,
            f"gRPC at {record.grpc} is not reached from here: {node.grpc_problem}",
            f"{PATH} it; correct its POLLCAST_ADVERTISE otherwise.",
        )
    elif node.serving is False and record.state == "ready":
        yield wrong(name, "its gRPC health is NOT_SERVING, though it is registered as ready", "Read its log.")
    if node.http_problem is not None and not reached_by_others:
        advised = f"{PATH} {record.http} (probes and Prometheus need it as well)."
        yield warning(name, f"HTTP at {record.http} is not reached from here: {node.http_problem}", advised)
    yield from _about_readiness(node, name)
    yield from about_clock(name, node.clock_offset)
    if node.findings:
        listed = ", ".join(f"{number} {kind}" for kind, number in sorted(node.findings.items()))
        yield wrong(name, f"its audit of the cluster finds {listed}", "Read the `finding` lines in its log.")


def _about_readiness(node: NodeSeen, name: str) -> Iterator[Finding]:
    said = node.readiness
    reason = said.get("reason")
    if node.record.state == "draining":
        yield warning(name, "it is draining", "Wait until it has ended, or start another.")
    elif node.record.state == "starting" or node.ready is False:
        yield wrong(name, f"it is not ready: {reason or 'it is starting'}", "Repair that, or read its log.")
    if said.get("etcd") in ("unreachable", "not reached"):
        yield wrong(name, "it does not reach etcd", "Check the network between it and etcd, and its POLLCAST_ETCD.")
    database, sources = said.get("database"), said.get("sources")
    if isinstance(database, str) and database != "ok" and not (reason and database in str(reason)):
        one = "its database" if sources is None else "a source"
        which = "POLLCAST_DATABASE_URL" if sources is None else "URL of that source"
        yield wrong(
            name, f"it does not reach {one}: {database}", f"Start the database, or correct the poller's {which}."
        )


def _about_versions(nodes: Sequence[NodeSeen]) -> Iterator[Finding]:
    by_version: defaultdict[str, list[str]] = defaultdict(list)
    for node in nodes:
        by_version[node.record.version].append(node.record.node)
    if len(by_version) > 1:
        listed = "; ".join(f"{version}: {some(names)}" for version, names in sorted(by_version.items()))
        yield warning("cluster", f"nodes have different versions ({listed})", "Complete the upgrade.")


def _about_catalogues(nodes: Sequence[NodeSeen]) -> Iterator[Finding]:
    by_hash: defaultdict[str, list[str]] = defaultdict(list)
    for node in nodes:
        if node.catalogue:
            by_hash[node.catalogue].append(node.record.node)
    if len(by_hash) > 1:
        listed = "; ".join(f"{catalogue}: {some(names)}" for catalogue, names in sorted(by_hash.items()))
        yield warning(
            "cluster",
            f"nodes have different catalogues ({listed})",
            "Give all of them the same: a topic is polled only by pollers that have its gateway's definition.",
        )
