"""Fixtures of the tests that need etcd, in addition to those of tests/conftest.py."""

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
    """An etcd that only this test uses and may break."""
    breakable = BreakableEtcd(tmp_path)
    yield breakable
    breakable.close()


@pytest.fixture
def keys(namespace: str) -> Keys:
    """The keys of this test's namespace."""
    return Keys(namespace)


@pytest.fixture
async def etcd(etcd_endpoint: str) -> AsyncIterator[Etcd]:
    """A client of the etcd that all tests share."""
    async with Etcd.open(EtcdSettings(etcd=(etcd_endpoint,))) as client:
        yield client
