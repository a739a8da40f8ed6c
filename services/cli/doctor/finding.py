"""One finding of `pollcast doctor`: a line that says what is right or wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "skipped", "warning", "wrong"]

SHOWN = 3
"""Maximum number of names in a finding."""


@dataclass(frozen=True)
class Finding:
    """A judgement about one subject. `advice` says what to do, and is empty for what is right."""

    level: Level
    about: str
    found: str
    advice: str = ""

    @property
    def line(self) -> str:
        """The finding as one line of text."""
        line = f"{self.level:<7}  {self.about}: {self.found}"
        if self.advice and not line.endswith((".", "?", "!")):  # the words of others may have a full stop
            line += "."
        return f"{line} {self.advice}" if self.advice else line


def ok(about: str, found: str) -> Finding:
    """Return a finding that all is well."""
    return Finding("ok", about, found)


def skipped(about: str, found: str, advice: str) -> Finding:
    """Return a finding that something was not looked at."""
    return Finding("skipped", about, found, advice)


def warning(about: str, found: str, advice: str) -> Finding:
    """Return a finding that something may go wrong."""
    return Finding("warning", about, found, advice)


def wrong(about: str, found: str, advice: str) -> Finding:
    """Return a finding that something is wrong now."""
    return Finding("wrong", about, found, advice)


def some(names: Sequence[str]) -> str:
    """Return the first names of many: `a, b, c and 4 more`."""
    shown = ", ".join(names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def seconds(time: float) -> str:
    """Format a time: `0.4 ms`, `1.2 s`."""
    return f"{time * 1000:.3g} ms" if time < 1 else f"{time:.3g} s"


def size(number: float) -> str:
    """Format a size in bytes: `20.5 MB`."""
    for unit in ("bytes", "KB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} GB"
