"""Readers of one TOML table, field by field. Each gives the field's value or a Problem that names a valid form. Pure.

A reader receives the TOML value of one field and returns its meaning or raises ValueError; a `Table` collects these
errors as Problems and continues.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from pollcast.services.catalogue.values import canonical, kind, quoted
from pollcast.services.errors import Problem

MAX_DURATION: Final = 7 * 24 * 3600.0
"""Maximum duration in a catalogue, in seconds."""

_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

MAX_SIZE: Final = 2**30
"""Maximum size in a catalogue, in bytes."""

_SIZE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(KiB|MiB)")
_UNIT_BYTES: Final = {"KiB": 2**10, "MiB": 2**20}

T = TypeVar("T")


class Table:
    """One TOML table while it is read: take its fields one by one, then call `end`, which reports the unknown ones."""

    def __init__(self, values: dict[str, Any], file: str, query: str, prefix: str, problems: list[Problem]) -> None:
        self._values, self._file, self._query, self._prefix, self._problems = values, file, query, prefix, problems
        self._known: list[str] = []
        self._invalid = set[str]()

    def take(self, name: str, read: Callable[[Any], T]) -> T | None:
        """Return the field as `read` gives it; None when it is absent, or when `read` raises ValueError, which is added
        to the problems."""
        self._known.append(name)
        if name not in self._values:
            return None
        try:
            return read(self._values[name])
        except ValueError as error:
            self.problem(name, str(error))
            return None

    def raw(self, name: str) -> object:
        """Return the field's value as it was written, whether or not it is valid; None without one."""
        return self._values.get(name)

    def has(self, name: str) -> bool:
        """Return whether the table has this field, valid or not."""
        return name in self._values

    def valid(self, name: str) -> bool:
        """Return whether the field, which was taken, is absent or valid."""
        return name not in self._invalid

    def problem(self, name: str, reason: str) -> None:
        """Add a problem of this field."""
        self._invalid.add(name)
        self._problems.append(Problem(self._file, self._query, self._prefix + name, reason))

    def end(self, *known: str) -> None:
        """Add a problem for each field that was neither taken nor is `known`. Call it after the last `take`."""
        self._known += known
        for name in self._values:
            if name not in self._known:
                hint = did_you_mean(name, self._known) or f"; the known fields are {', '.join(self._known)}"
                self.problem(name, f"is not a known field{hint}")


def subtable(value: object) -> dict[str, Any]:
    """Read a table."""
    if not isinstance(value, dict):
        raise ValueError(f"must be a table, not {kind(value)}")
    return value


def string(value: object) -> str:
    """Read a string that is not blank."""
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {kind(value)}")
    if not value.strip():
        raise ValueError("is empty")
    return value


def boolean(value: object) -> bool:
    """Read a boolean."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, without quotes, not {kind(value)}")
    return value


def count(value: object) -> int:
    """Read an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be an integer, not {kind(value)}")
    if not 1 <= value < 2**31:
        raise ValueError(f"must be from 1 to {2**31 - 1}")
    return value


def duration(least: float) -> Callable[[object], float]:
    """Return a reader of durations from `least` seconds to MAX_DURATION, which reads `"500ms"` as 0.5 seconds."""

    def read(value: object) -> float:
        right = 'such as "500ms", "2s", "1.5s", "1m" or "1h"'
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise ValueError(f"has no unit: it must be a string with one, {right}")
        if not isinstance(value, str):
            raise ValueError(f"must be a duration, {right}, not {kind(value)}")
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ValueError(f"{quoted(value)} is not a duration: it must be a number and a unit, {right}")
        # Rounded to microseconds, so that "50ms" is exactly 0.05.
        seconds = round(float(match[1]) * _UNIT_SECONDS[match[2]] * 1e6) / 1e6
        if seconds < least:
            raise ValueError(f"{quoted(value)} is too short: at least {least * 1000:g}ms")
        if seconds > MAX_DURATION:
            raise ValueError(f"{quoted(value)} is too long: at most {MAX_DURATION / 3600:g}h")
        return seconds

    return read


def size(value: object) -> int:
    """Read a size, from 1 KiB to MAX_SIZE, as bytes."""
    right = 'such as "512KiB" or "4MiB"'
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f"has no unit: it must be a string with one, {right}")
    if not isinstance(value, str):
        raise ValueError(f"must be a size, {right}, not {kind(value)}")
    match = _SIZE.fullmatch(value)
    if match is None:
        raise ValueError(f"{quoted(value)} is not a size: it must be a number and a unit, {right}")
    bytes = round(float(match[1]) * _UNIT_BYTES[match[2]])
    if bytes < 1024:
        raise ValueError(f"{quoted(value)} is too small: at least 1KiB")
    if bytes > MAX_SIZE:
        raise ValueError(f"{quoted(value)} is too large: at most {MAX_SIZE >> 20}MiB")
    return bytes


def names_of(what: str) -> Callable[[object], tuple[str, ...]]:
    """Return a reader of lists of distinct names that are not blank; messages call them `what`."""

    def read(value: object) -> tuple[str, ...]:
        names = _strings(value, f"{what}, as a list of strings")
        if not all(name.strip() for name in names):
            raise ValueError(f"holds an empty name: it must be {what}")
        return _distinct(names)

    return read


def distinct_texts(value: object) -> tuple[str, ...]:
    """Read the values of an `enum`, as canonical texts."""
    values = _strings(value, "the allowed values, as a list of strings")
    if not values:
        raise ValueError("is empty: no value would be allowed")
    return _distinct(tuple(canonical("text", v) for v in values))


def _strings(value: object, right: str) -> tuple[str, ...]:
    """Read a list of strings; messages describe a valid one as `right`."""
    if not isinstance(value, list):
        raise ValueError(f"must be {right}, not {kind(value)}")
    if wrong := [v for v in value if not isinstance(v, str)]:
        raise ValueError(f"must be {right}; it holds {kind(wrong[0])}")
    return tuple(value)


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values. Raises ValueError when one occurs twice."""
    seen = set[str]()
    for value in values:
        if value in seen:
            raise ValueError(f"holds {quoted(value)} twice")
        seen.add(value)
    return values


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint to append to a message: the most similar known name; empty when none is similar."""
    close = difflib.get_close_matches(name, known, n=1) if len(name) <= 64 else []
    return f"; did you mean {close[0]!r}?" if close else ""
