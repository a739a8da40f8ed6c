"""The command `pollcast nodes` where no coordinator can be asked (services/cli/listing.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pollcast.services.cli import listing
from pollcast.services.coordination.keys import NodeRecord
from pollcast.services.coordination.reach import NoCoordinator, NoEtcd, Refused
from pollcast.services.process.settings import ServiceSettings

COORDINATOR = NodeRecord("c1", "coordinator", None, "c1:1", 7, "1", "then", "1", "ready")


@pytest.mark.parametrize("error", [NoCoordinator(), Refused("no"), NoEtcd("gone"), TimeoutError(), PermissionError()])
async def test_nodes_are_listed_without_their_databases_when_no_coordinator_can_be_asked(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def nodes(_: object) -> list[NodeRecord]:
        return [COORDINATOR]

    @asynccontextmanager
    async def coordinator(_: object) -> AsyncIterator[None]:
        raise error
        yield

    monkeypatch.setattr(listing, "read_nodes", nodes)
    monkeypatch.setattr(listing, "some_coordinator", coordinator)
    await listing.show_nodes(ServiceSettings(), as_json=True)
    assert capsys.readouterr().out.endswith('"catalogue":null,"sources":null}]}\n')
