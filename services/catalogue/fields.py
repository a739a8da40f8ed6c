"""Reading one TOML table field by field: what TOML gave → what is meant, or a Problem that says what would be right.

Pure. The readers below take the value of one field and raise ValueError; a `Table` notes that, and goes on.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from pollcast.services.catalogue.values import canonical, kind, quoted
from pollcast.services.errors import Problem

MAX_DURATION: Final = 7 * 24 * 3600.0
"""Seconds."""

_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

T = TypeVar("T")


class Table:
    """One TOML table while it is read: fields are taken one by one, what is wrong is noted, what is left is unknown."""

    def __init__(self, values: dict[str, Any], file: str, query: str, prefix: str, problems: list[Problem]) -> None:
        self._values, self._file, self._query, self._prefix, self._problems = values, file, query, prefix, problems
        self._known: list[str] = []

    def take(self, name: str, read: Callable[[Any], T]) -> T | None:
        """The field as `read` gives it; None when it is absent or when `read` raises ValueError, which is noted."""
        self._known.append(name)
        if name not in self._values:
            return None
        try:
            return read(self._values[name])
        except ValueError as error:
            self.problem(name, str(error))
            return None

    def has(self, name: str) -> bool:
        return name in self._values

    def problem(self, name: str, reason: str) -> None:
        self._problems.append(Problem(self._file, self._query, self._prefix + name, reason))

    def end(self, *known: str) -> None:
        """Call when every field was taken but those `known` as well."""
        self._known += known
        for name in self._values:
            if name not in self._known:
                hint = did_you_mean(name, self._known) or f"; known are {', '.join(self._known)}"
                self.problem(name, f"is not a known field{hint}")


def subtable(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a table, not {kind(value)}")
    return value


def string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {kind(value)}")
    if not value.strip():
        raise ValueError("is empty")
    return value


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, without quotes, not {kind(value)}")
    return value


def count(value: object) -> int:
    """Reads an integer from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be an integer, not {kind(value)}")
    if not 1 <= value < 2**31:
        raise ValueError(f"must be from 1 to {2**31 - 1}")
    return value


def duration(least: float) -> Callable[[object], float]:
    """Reads `"500ms"` as 0.5: seconds, from `least` to MAX_DURATION."""

    def read(value: object) -> float:
        right = 'such as "500ms", "2s", "1.5s", "1m" or "1h"'
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise ValueError(f"has no unit: it must be a string with one, {right}")
        if not isinstance(value, str):
            raise ValueError(f"must be a duration, {right}, not {kind(value)}")
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ValueError(f"{quoted(value)} is not a duration: it must be a number and a unit, {right}")
        # By way of whole microseconds, so that "50ms" is 0.05 and nothing beside it.
        seconds = round(float(match[1]) * _UNIT_SECONDS[match[2]] * 1e6) / 1e6
        if seconds < least:
            raise ValueError(f"{quoted(value)} is too short: at least {least * 1000:g}ms")
        if seconds > MAX_DURATION:
            raise ValueError(f"{quoted(value)} is too long: at most {MAX_DURATION / 3600:g}h")
        return seconds

    return read


def names_of(what: str) -> Callable[[object], tuple[str, ...]]:
    """Reads a list of names: none empty, none twice."""

    def read(value: object) -> tuple[str, ...]:
        names = _strings(value, f"{what}, as a list of strings")
        if not all(name.strip() for name in names):
            raise ValueError(f"holds an empty name: it must be {what}")
        return _distinct(names)

    return read


def distinct_texts(value: object) -> tuple[str, ...]:
    """Reads the values of an `enum`, as canonical texts."""
    values = _strings(value, "the values allowed, as a list of strings")
    if not values:
        raise ValueError("is empty: no value would be allowed")
    return _distinct(tuple(canonical("text", v) for v in values))


def _strings(value: object, right: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be {right}, not {kind(value)}")
    if wrong := [v for v in value if not isinstance(v, str)]:
        raise ValueError(f"must be {right}; it holds {kind(wrong[0])}")
    return tuple(value)


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"holds {quoted(value)} twice")
    return values


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint to append to a message; empty when nothing known comes close."""
    close = difflib.get_close_matches(name, known, n=1) if len(name) <= 64 else []
    return f"; did you mean {close[0]!r}?" if close else ""
