"""A cluster for each test of this folder that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.world import World, start_world


@pytest.fixture
async def world(tmp_path: Path, etcd_endpoint: str, namespace: str, database: str) -> AsyncIterator[World]:
    """On the servers that all tests share."""
    async with start_world(tmp_path, [etcd_endpoint], database, namespace) as world:
        yield world
