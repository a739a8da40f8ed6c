"""The clients' READMEs: each documents every public name of its package."""

from __future__ import annotations

import re

import pytest

import pollcast_client
from tests.support.repository import ROOT


def exported_by_javascript() -> list[str]:
    """Return the names that `@pollcast/client` exports."""
    lists = re.findall(r"export (?:type )?\{(.*?)\}", (ROOT / "clients/js/src/index.ts").read_text())
    return [name.strip() for each in lists for name in each.split(",")]


@pytest.mark.parametrize("name", pollcast_client.__all__)
def test_the_python_clients_readme_documents_every_public_name(name: str) -> None:
    assert re.search(rf"`{name}\b", (ROOT / "clients/python/README.md").read_text())


@pytest.mark.parametrize("name", exported_by_javascript())
def test_the_javascript_clients_readme_documents_every_public_name(name: str) -> None:
    assert re.search(rf"`{name}\b", (ROOT / "clients/js/README.md").read_text())
