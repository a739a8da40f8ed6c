"""The short form of `make soak`: everything happens to a cluster once, after which it holds what it held before."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.soak.run import Plan, soak

PLAN = Plan(seconds=0.0, guests=10, nodes={"coordinator": 1, "poller": 2, "gateway": 2})
"""A soak in which memory is not judged: that of a process grows for minutes after its start."""


@pytest.mark.chaos
@pytest.mark.timeout(400)
async def test_a_cluster_ends_where_it_was_and_every_client_shows_the_database(tmp_path: Path) -> None:
    findings = await soak(PLAN, tmp_path)
    findings.show()
    assert findings.compared >= 100
    assert findings.faults == []
