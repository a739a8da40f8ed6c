"""docs/reference/settings.md lists every setting, and commands.md every flag of `up`, as the code has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click
import pytest
import typer.main
from pydantic_core import PydanticUndefined

from pollcast.services.cli import main as cli
from pollcast.services.process.settings import (
    CoordinatorSettings,
    EtcdSettings,
    GatewaySettings,
    PollerSettings,
    unknown_variables,
)
from tests.support.repository import ROOT

PAGE = ROOT / "docs" / "reference" / "settings.md"
COMMANDS_PAGE = PAGE.with_name("commands.md")

KINDS: dict[str, type[EtcdSettings]] = {"G": GatewaySettings, "P": PollerSettings, "C": CoordinatorSettings}
COMMANDS = {"G": "gateway", "P": "poller", "C": "coordinator"}

UNITS = {
    "workers": "processes",
    "lease_ttl": "seconds",
    "pool": "connections",
    "max_topics": "topics per socket",
    "join_rate": "joins per second and socket",
    "max_frame": "bytes",
    "max_connections": "connections per gateway",
    "drain_delay": "seconds",
}


def rows(text: str, columns: int) -> Iterator[list[str]]:
    """Yield the rows of all tables that have this number of columns, without the tables' headings."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if line.startswith("| `") and len(cells) == columns:
            yield [cells[0].strip("`"), *cells[1:]]


SETTINGS = {row[0]: row[1:] for row in rows(PAGE.read_text(), 6)}


def commands() -> dict[str, click.Command]:
    group: Any = typer.main.get_command(cli.app)
    found: dict[str, click.Command] = group.commands
    return found


def default_of(kind: type[EtcdSettings], field: str) -> str:
    info = kind.model_fields[field]
    if info.default_factory is not None:
        return "made up"
    if info.default is PydanticUndefined:
        return "required"
    if info.default in (None, ()):
        return "none"
    return f"`{','.join(info.default)}`" if isinstance(info.default, tuple) else f"`{_number(info.default)}`"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


FIELDS = sorted({field for kind in KINDS.values() for field in kind.model_fields})


def test_the_page_lists_every_setting_and_no_other() -> None:
    assert sorted(SETTINGS) == sorted(f"POLLCAST_{field.upper()}" for field in FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_setting_has_the_flag_default_and_unit_of_the_page(field: str) -> None:
    flag, users, default, unit, what = SETTINGS[f"POLLCAST_{field.upper()}"]
    letters = [letter for letter, kind in KINDS.items() if field in kind.model_fields]
    assert users == " ".join(letters)
    defaults = {letter: default_of(KINDS[letter], field) for letter in letters}
    if field == "catalog":
        assert defaults == {"G": "required", "P": "required", "C": "none"}
        assert default == "required"
        assert "Optional for coordinators" in what
    elif len(set(defaults.values())) == 1:
        assert default == defaults[letters[0]]
    else:
        first, rest = default.split(", ")
        assert {letter: first if letter == "G" else rest.split()[-1] for letter in letters} == defaults
    assert unit == UNITS.get(field, "")
    assert what
    for letter in letters:
        flags = {option for parameter in commands()[COMMANDS[letter]].params for option in parameter.opts}
        assert (f"--{field.replace('_', '-')}" in flags) == bool(flag)


def test_up_has_the_flags_and_defaults_of_the_page() -> None:
    section = COMMANDS_PAGE.read_text().partition("\n## up\n")[2].partition("\n## ")[0]
    documented = {row[0].split()[0]: row[1].strip("`") for row in rows(section, 3)}
    found = {
        parameter.opts[0]: "" if parameter.default in (None, False) else str(parameter.default)
        for parameter in commands()["up"].params
    }
    assert documented == found


def test_every_variable_that_the_code_reads_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.read_text()
    for folder in ("services", "gateway", "poller", "coordinator"):
        for file in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r"POLLCAST_[A-Z_]*[A-Z]", file.read_text()):
                assert name in page, f"{file}: {name}"
    for name in ("POLLCAST_AUTH_SECERT", "POLLCAST_TOKEN", "POLLCAST_POOL"):
        monkeypatch.setenv(name, "x")
    assert "POLLCAST_AUTH_SECERT" in unknown_variables()
    assert not {"POLLCAST_TOKEN", "POLLCAST_POOL"} & set(unknown_variables())


def test_no_secret_is_shown_by_help(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLLCAST_AUTH_SECRET", "POLLCAST_TOKEN", "POLLCAST_DATABASE_URL", "POLLCAST_ETCD_PASSWORD"):
        monkeypatch.setenv(name, "hunter2")
    for name, command in commands().items():
        with click.Context(command, info_name=name) as context:
            assert "hunter2" not in command.get_help(context)
