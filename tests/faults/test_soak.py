"""The short form of `make soak`: a minute in which everything happens to a cluster, after which it holds what it did.

Memory is judged only in the long form, because that of a process grows for minutes after its start.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.soak.run import Plan, soak

PLAN = Plan(seconds=40.0, guests=10, flood=180, checks=1, nodes={"coordinator": 1, "poller": 2, "gateway": 2})


@pytest.mark.chaos
@pytest.mark.timeout(PLAN.seconds + 300)
async def test_a_cluster_ends_where_it_was_and_every_client_shows_the_database(tmp_path: Path) -> None:
    findings = await soak(PLAN, tmp_path)
    findings.show()
    assert findings.compared >= 100
    assert findings.faults == []
