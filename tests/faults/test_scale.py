"""The short form of `python -m bench scale`: a cluster of 14 nodes, of which eleven are simulated by the product's own
coordination. Its bounds are on counts, which do not depend on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.scale.cluster import Size, cluster
from bench.scale.measure import Result, measure

SIZE = Size(topics=400, pollers=10, gateways=3, served=100, kind="product")

NODES = 1 + SIZE.pollers + SIZE.gateways


@pytest.fixture
async def result(tmp_path: Path, database: str) -> Result:
    """The measurements of this size."""
    async with cluster(SIZE, tmp_path, database) as running:
        return await measure(running, rest_seconds=3.0)


async def test_what_a_cluster_of_many_nodes_asks_of_etcd_is_bounded(result: Result) -> None:
    start, rest, churn = result.start, result.rest, result.churn
    assert churn is not None
    assert result.lost == 0, "sessions were lost"
    assert result.listings[0] == result.listings[1], "a mirror listed again although no watch broke"

    moved = start.changes - 2 * SIZE.topics  # a topic's demand and its owner are one change each, and so is a move
    assert moved <= SIZE.topics, "a topic was handed over twice"
    assert start.etcd["proposals"] <= SIZE.topics, "claims are not gathered"
    assert start.etcd["events"] <= start.changes * (NODES + 3), "a node receives changes more than once"

    assert rest.changes == 0
    assert rest.etcd["proposals"] == 0
    assert rest.etcd["ranges"] == 0
    assert rest.etcd["watch requests"] <= NODES * rest.seconds, "each watch asks for its progress"

    gone = min(1000, len(SIZE.others) // 4)
    assert churn.changes <= 6 * gone, "a topic that comes and goes makes four changes, and balancing as many as two"
    assert churn.etcd["proposals"] <= 2 * gone

    loads = [result.owned_by.get(f"poller-{n}", 0) for n in range(1, SIZE.pollers + 1)]
    assert sum(loads) == SIZE.topics
