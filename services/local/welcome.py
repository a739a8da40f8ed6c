"""The summary that `pollcast up` prints when the cluster is ready: its addresses, and commands to try."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.local.cluster import ETCD_PORT, LocalCluster
from pollcast.services.local.embedded import program


def show(console: Console, cluster: LocalCluster, catalog: Catalog) -> None:
    """Print the address of each node and server, and commands to try."""
    by_role: dict[str, list[str]] = {}
    for record in cluster.records.values():
        address = record.http if record.role == "gateway" else record.grpc
        by_role.setdefault(record.role, []).append(f"{record.node} {address}")
    for role in ("gateway", "poller", "coordinator"):
        console.print(f"  {role + 's':<13}{'   '.join(by_role.get(role, ['none']))}", markup=False)
    console.print(f"  {'etcd':<13}{'   '.join(cluster.settings.etcd)}", markup=False)
    if cluster.postgres is not None:
        console.print(f"  {'PostgreSQL':<13}{cluster.postgres.url}", markup=False)
    if cluster.mariadb is not None:
        console.print(f"  {'MariaDB':<13}{cluster.mariadb.url_of('shop')}", markup=False)
    console.print(f"  {'logs':<13}{cluster.data_dir / 'logs'}\n", markup=False)
    console.print("Try, in another terminal:", markup=False)
    for line in _suggestions(cluster, catalog):
        console.print(f"  {line}", markup=False)
    console.print("Ctrl-C stops everything.", markup=False)


def _suggestions(cluster: LocalCluster, catalog: Catalog) -> Iterator[str]:
    topic = example(catalog)
    gateway = next((r.http for r in cluster.records.values() if r.role == "gateway"), None)
    endpoints = ",".join(cluster.settings.etcd)
    if gateway is not None:
        yield f"http://{gateway}/ in a browser"
    if topic is not None and gateway is not None:
        yield f"curl -N -H 'Accept: text/event-stream' {_quoted(f'http://{gateway}/live/{topic}')}"
        where = "" if endpoints == f"127.0.0.1:{ETCD_PORT}" else f"POLLCAST_ETCD={endpoints} "
        yield f"{where}{_nearest(Path(sys.executable).with_name('pollcast'))} watch {_quoted(topic)}"
    if cluster.etcd is not None:
        etcdctl = _nearest(Path(program("etcdctl")))
        yield f"{etcdctl} {_quoted(f'--endpoints={endpoints}')} get --prefix {cluster.settings.namespace}"


def example(catalog: Catalog) -> str | None:
    """Return a topic to try: of a query without required parameters, or else of any, with gaps for their values.

    The busiest query of the demo comes first. Return None for a catalogue without queries.
    """
    gaps = {
        query.name: "&".join(f"{p.name}=…" for p in query.params.values() if p.required and p.claim is None)
        for query in catalog.queries.values()
    }
    simple = [query.name for query in catalog.queries.values() if not any(p.required for p in query.params.values())]
    name = "richest_tellers" if "richest_tellers" in simple else next(iter([*simple, *gaps]), None)
    return name if name is None or not gaps[name] else f"{name}?{gaps[name]}"


def _quoted(text: str) -> str:
    return f"'{text}'" if {"?", "["} & {*text} else text


def _nearest(path: Path) -> Path:
    """Return `path` relative to the current folder when it is below it, else unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
