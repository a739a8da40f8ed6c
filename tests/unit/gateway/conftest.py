"""One gateway in the test's own process, without etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.gateway_in_process import InProcessGateway, serving


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    """A gateway that serves WebSocket clients."""
    async with serving(tmp_path) as served:
        yield served
