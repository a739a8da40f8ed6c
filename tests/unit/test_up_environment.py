"""The environment of the services that `pollcast up` starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pollcast.services.local.cluster import LocalCluster, Options
from pollcast.services.local.up import environment_of
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
    assert environment.get("POLLCAST_DRAIN_DELAY") == delay
    assert environment.get("POLLCAST_DRAIN_DELAY_FILE") == given.get("POLLCAST_DRAIN_DELAY_FILE")
