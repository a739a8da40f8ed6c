"""Fixtures of the tests of coordination, beside those of conftest.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys
from pollcast.services.process.settings import EtcdSettings
from tests.support.breakable_etcd import BreakableEtcd


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[BreakableEtcd]:
    breakable = BreakableEtcd(tmp_path)
    yield breakable
    breakable.close()


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


@pytest.fixture
async def etcd(etcd_endpoint: str) -> AsyncIterator[Etcd]:
    async with Etcd.open(EtcdSettings(etcd=(etcd_endpoint,))) as client:
        yield client
