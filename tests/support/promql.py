"""Selectors and labels in an expression of PromQL, as the alerts and the dashboard have them: no subqueries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

GROUPING = re.compile(r"\b(?:by|on)\s*\(([^()]*)\)")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
SELECTOR = re.compile(r"\b([a-z_:][a-z0-9_:]*)\b(?!\s*\()(\{[^}]*\})?")
WORDS = frozenset({"and", "or", "unless", "bool", "offset", "by", "on"})


@dataclass(frozen=True)
class Selector:
    """A metric's name and its matchers: label, operator, value."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether a series of the metric with these labels is selected. It must have every label itself."""
        return all(label in labels and _holds(labels[label], how, value) for label, how, value in self.matchers)


def _holds(label: str, how: str, value: str) -> bool:
    match how:
        case "=":
            return label == value
        case "!=":
            return label != value
        case "=~":
            return re.fullmatch(value, label) is not None
        case _:
            return re.fullmatch(value, label) is None


def selectors(expression: str) -> list[Selector]:
    """Return what the expression selects."""
    bare = GROUPING.sub(" ", re.sub(r"\[[^\]]*\]", "", expression))
    return [
        Selector(found[1], tuple(MATCHER.findall(found[2] or "")))
        for found in SELECTOR.finditer(bare)
        if found[1] not in WORDS
    ]


def grouped(expression: str) -> set[str]:
    """Return the labels by which the expression groups or joins series."""
    return {label.strip() for labels in GROUPING.findall(expression) for label in labels.split(",") if label.strip()}
