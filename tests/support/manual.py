"""The manual as tests read it: pages with their headings, links, examples and tables.

An example is a fenced block below an HTML comment `<!-- example: <page>.<name> -->`; a table that tests read stands
below `<!-- table: <page>.<name> -->`, and its cells are read without their backticks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.repository import ROOT

REFERENCE = ROOT / "docs" / "reference"

_FENCE = re.compile(r"^( {0,3})(```+|~~~+)(.*)$")
_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.+?)\s*#*\s*$")
_EXAMPLE = re.compile(r"^<!-- example: ([\w.]+) -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"^<!-- table: ([\w.]+) -->\n\|[^\n]*\n\|[^\n]*\n((?:\|[^\n]*\n)*)", re.MULTILINE)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^\s)>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_HTML_LINK = re.compile(r"<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")


@dataclass(frozen=True, slots=True)
class Example:
    """One example of the manual: the language of its fence and its text."""

    language: str
    text: str

    def json(self) -> Any:
        """Return the JSON value of the example."""
        return json.loads(self.text)


def examples(page: str) -> dict[str, Example]:
    """Return the examples of `docs/reference/<page>.md` by name. Raises AssertionError for a name that occurs twice or
    does not begin with the page's name."""
    found: dict[str, Example] = {}
    for name, language, text in _EXAMPLE.findall((REFERENCE / f"{page}.md").read_text()):
        assert name not in found, f"{page}.md has two examples {name}"
        assert name.startswith(f"{page}."), f"{page}.md has an example {name}, which should be {page}.<name>"
        found[name] = Example(language, text)
    return found


def table(name: str) -> list[tuple[str, ...]]:
    """Return the rows of the table `<page>.<name>` of the reference, without its head."""
    text = (REFERENCE / f"{name.partition('.')[0]}.md").read_text()
    rows = dict(_TABLE.findall(text))[name]
    return [tuple(cell.strip().strip("`") for cell in line.split("|")[1:-1]) for line in rows.splitlines()]


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a Markdown text with their numbers from 1, without fenced blocks."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        match = _FENCE.match(line)
        if fence:
            if match and match[2].startswith(fence) and not match[3].strip():
                fence = ""
        elif match:
            fence = match[2]
        else:
            yield number, line


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page: GitHub's slug of each heading, and explicit ids."""
    found: dict[str, int] = {}
    slugs: set[str] = set()
    text = page.read_text()
    for _, line in prose(text):
        if heading := _HEADING.match(line):
            base = slug(heading[1])
            seen = found.get(base, 0)
            found[base] = seen + 1
            slugs.add(f"{base}-{seen}" if seen else base)
    return frozenset(slugs | set(re.findall(r"<\w+[^>]*\b(?:id|name)=\"([^\"]+)\"", text)))


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading: lower case, punctuation dropped, spaces as hyphens."""
    plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    plain = re.sub(r"(?<![\w*])[*]+|[*]+(?![\w*])|`", "", plain)
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the targets of a page's links and images with their line numbers; those in code are left out."""
    lines = [""] * (page.read_text().count("\n") + 1)
    for number, line in prose(page.read_text()):
        lines[number - 1] = line
    text = re.sub(r"(`+).*?\1", lambda match: re.sub(r".", "x", match[0]), "\n".join(lines), flags=re.DOTALL)
    for pattern in (_LINK, _HTML_LINK):
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, match[1]
