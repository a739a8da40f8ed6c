"""The subjects of the conformance suite, and which of its rules apply to each.

A rule is a test with the fixture `subject`. Most apply to every kind; one that cannot fail where something is missing
is marked with `needs`, and does not run there. docs/reference/sources.md has the counts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

CONNECTIONS = "connections"
"""The server sees connections, which it can end from its side."""

NETWORK = "network"
"""Pollers reach the server through a network, where connections break."""

CATALOGUE = "catalogue"
"""A catalogue can name the kind."""

TOGETHER = "together"
"""One statement polls several topics."""

needs = pytest.mark.needs
"""Mark of a rule that applies only where the subject has all of these things."""


class Entry(NamedTuple):
    """A subject of the suite."""

    module: str
    """The module whose `start(request)` provides the subject, or skips where it is missing."""
    has: frozenset[str]
    """The things that this subject has, of those that rules may need."""


SUBJECTS: Mapping[str, Entry] = {
    "postgresql": Entry("tests.conformance.postgresql", frozenset({CATALOGUE, CONNECTIONS, NETWORK, TOGETHER})),
    "postgresql-plain": Entry("tests.conformance.plain", frozenset({CATALOGUE, CONNECTIONS, NETWORK})),
    "mysql": Entry("tests.conformance.mysql", frozenset({CATALOGUE, CONNECTIONS, NETWORK})),
    "duckdb": Entry("tests.conformance.duckdb", frozenset({CATALOGUE})),
    "sqlite": Entry("tests.conformance.sqlite", frozenset()),
}
"""Each subject, by the name of its kind."""


def applies_to(rule: Callable[..., object]) -> list[str]:
    """Return the kinds to which a rule applies."""
    marks = getattr(rule, "pytestmark", [])
    needed = {each for mark in marks if mark.name == "needs" for each in mark.args}
    return [kind for kind, entry in SUBJECTS.items() if needed <= entry.has]


def rules() -> dict[str, list[str]]:
    """Return the name of each rule of the suite, with the kinds to which it applies."""
    files = [file for file in sorted(Path(__file__).parent.glob("test_*.py")) if "subject: Subject" in file.read_text()]
    found: dict[str, list[str]] = {}
    for file in files:
        for name, rule in vars(import_module(f"tests.conformance.{file.stem}")).items():
            if name.startswith("test_") and "subject" in inspect.signature(rule).parameters:
                found[name] = applies_to(rule)
    return found
