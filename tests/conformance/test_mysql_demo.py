"""`pollcast up --demo mysql`: a whole cluster on MariaDB and PostgreSQL at once."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

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


def test_the_demo_shows_a_busy_shop_in_mariadb_and_a_bank_in_postgresql(
    tmp_path: Path, etcd_endpoint: str, namespace: str
) -> None:
    environment = {"POLLCAST_NAMESPACE": namespace}
    with cluster(tmp_path / "data", *FLAGS, "--etcd", etcd_endpoint, environment=environment) as up:
        assert [row["region"] for row in snapshot(up, "sales")] == ["east", "north", "south", "west"]
        eventually_sync(lambda: snapshot(up, "latest_orders?limit=2"))
        seen = snapshot(up, "latest_orders?limit=2")[0]
        assert set(seen) == {"order", "region", "total", "status", "at"}
        assert seen["at"].endswith("+00:00")
        eventually_sync(lambda: snapshot(up, "latest_orders?limit=2")[0]["order"] > seen["order"])
        assert snapshot(up, "orders_of?regions=nowhere") == []
        assert {row["status"] for row in snapshot(up, "orders_of")} <= {"open", "paid", "cancelled"}
        assert len(snapshot(up, "branches")) == 4
