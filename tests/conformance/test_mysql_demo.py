"""`pollcast up --demo mysql`: a whole cluster on MariaDB, without the demo's query on PostgreSQL, which takes long."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

from pollcast.services.local.cluster import Options
from pollcast.services.local.mysql_demo import CATALOG
from pollcast.services.local.up import catalog_of
from tests.support.cluster import Cluster, cluster
from tests.support.waiting import eventually_sync


def snapshot(up: Cluster, topic: str) -> list[dict[str, Any]]:
    """Return the rows of a topic."""
    connection = http.client.HTTPConnection(up.gateway(), timeout=15)
    try:
        connection.request("GET", f"/live/{topic}")
        rows: list[dict[str, Any]] = json.loads(connection.getresponse().read())["rows"]
        return rows
    finally:
        connection.close()


FLAGS = ("--demo", "mysql", "--pollers", "1", "--gateways", "1", "--coordinators", "0")


def test_the_demo_shows_a_busy_shop_in_mariadb(tmp_path: Path, etcd_endpoint: str, namespace: str) -> None:
    assert catalog_of(Options(demo="mysql"))[0] == CATALOG
    catalog = tmp_path / "shop.toml"
    shop, _, bank = CATALOG.read_text().partition("[queries.branches]")
    assert "pgbench_branches" in bank
    assert "[queries." not in bank
    catalog.write_text(shop)
    environment = {"POLLCAST_NAMESPACE": namespace}
    flags = (*FLAGS, "--etcd", etcd_endpoint, "--catalog", str(catalog))
    with cluster(tmp_path / "data", *flags, environment=environment) as up:
        assert up.database_url == ""  # no query is polled there, so no PostgreSQL is started
        assert [row["region"] for row in snapshot(up, "sales")] == ["east", "north", "south", "west"]
        eventually_sync(lambda: snapshot(up, "latest_orders?limit=2"))
        seen = snapshot(up, "latest_orders?limit=2")[0]
        assert set(seen) == {"order", "region", "total", "status", "at"}
        assert seen["at"].endswith("+00:00")
        eventually_sync(lambda: snapshot(up, "latest_orders?limit=2")[0]["order"] > seen["order"])
        assert snapshot(up, "orders_of?regions=nowhere") == []
        assert {row["status"] for row in snapshot(up, "orders_of")} <= {"open", "paid", "cancelled"}
