"""The settings that `pollcast doctor` heeds: those by which services reach etcd, each other and the database."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from pollcast.services.errors import Problem, SettingsInvalid
from pollcast.services.process.settings import ServiceSettings


class DoctorSettings(ServiceSettings):
    """Settings of a look at a cluster."""

    catalog: Path | None = None
    database_url: SecretStr | None = None
    """Connection string of the polled PostgreSQL; None: it is not looked at."""
    listen_url: SecretStr | None = None
    """Connection string of the PostgreSQL to listen on for notifications; None: the polled one."""
    pool: int = Field(default=4, ge=1, le=1000)
    """Maximum number of connections of each poller."""

    @field_validator("database_url", "listen_url", mode="before")
    @classmethod
    def _url(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value


def of_data_dir(folder: Path) -> dict[str, str]:
    """Return the settings by which to reach the cluster that `pollcast up` runs on this folder.

    Raises SettingsInvalid when no cluster runs there.
    """
    file = folder / "cluster.json"
    try:
        found = json.loads(file.read_text())
        settings = {"etcd": ",".join(found["etcd"]), "namespace": str(found["namespace"])}
        url = str(found.get("database_url") or "")
    except (OSError, ValueError, KeyError, TypeError):
        reason = f"no cluster runs on {folder}: {file} can't be read, which `pollcast up` writes when it is ready"
        raise SettingsInvalid([Problem("pollcast doctor", "", "--data-dir", reason)]) from None
    return settings | ({"database_url": url} if url else {})
