"""The environment of the services that `pollcast up` starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pollcast.services.local import ports
from pollcast.services.local.child import Child
from pollcast.services.local.cluster import LocalCluster, Options
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.local.up import catalog_of, environment_of
from pollcast.services.process.settings import EtcdSettings


@pytest.mark.parametrize(
    ("given", "delay"),
    [
        ({}, "0"),
        ({"POLLCAST_DRAIN_DELAY": "7"}, "7"),
        ({"POLLCAST_DRAIN_DELAY_FILE": "/run/delay"}, None),
    ],
)
def test_gateways_that_end_all_at_once_wait_for_no_load_balancer_unless_they_are_told_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str], delay: str | None
) -> None:
    for name in ("POLLCAST_DRAIN_DELAY", "POLLCAST_DRAIN_DELAY_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    cluster = LocalCluster(Options(), tmp_path, EtcdSettings())
    environment = environment_of(cluster, tmp_path / "catalog.toml", "gateway-1", "127.0.0.1:0")
    assert environment["POLLCAST_GRPC"] == "127.0.0.1:0"
    assert environment.get("POLLCAST_DRAIN_DELAY") == delay
    assert environment.get("POLLCAST_DRAIN_DELAY_FILE") == given.get("POLLCAST_DRAIN_DELAY_FILE")


def test_everything_is_on_ipv6_where_a_machine_has_no_ipv4(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ports, "loopback", lambda: "::1")
    with EtcdServer.start(tmp_path / "etcd", 1, fsync=False) as etcd:
        assert etcd.endpoint.startswith("[::1]:")
    server = PostgresServer(Child("postgres", ["postgres"], tmp_path / "log"), 5432)
    assert server.url == "postgresql://postgres@[::1]:5432/postgres"
    environment = environment_of(
        LocalCluster(Options(), tmp_path, EtcdSettings()), tmp_path / "c", "poller-1", "[::1]:0"
    )
    assert environment["POLLCAST_GRPC"] == "[::1]:0"


def test_a_catalogue_that_is_a_symbolic_link_stays_one_for_the_services(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "catalog.toml").write_text(f'[queries.q]\nsql = "select {version}"\n')
    data, file = tmp_path / "..data", tmp_path / "catalog.toml"  # as in a ConfigMap of Kubernetes
    data.symlink_to("1")
    file.symlink_to("..data/catalog.toml")
    given, _ = catalog_of(Options(catalog=file))
    data.unlink()
    data.symlink_to("2")
    assert "select 2" in given.read_text()


def test_services_get_a_database_url_only_where_a_query_is_polled_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHOP_URL", "postgresql://reader@db/shop")
    monkeypatch.delenv("POLLCAST_DATABASE_URL", raising=False)
    for url in ("", "postgresql://reader@db/bank"):
        cluster = LocalCluster(Options(), tmp_path, EtcdSettings(), database_url=url)
        environment = environment_of(cluster, tmp_path / "catalog.toml", "poller-1", "127.0.0.1:0")
        assert environment["SHOP_URL"] == "postgresql://reader@db/shop"
        assert environment.get("POLLCAST_DATABASE_URL", "") == url
