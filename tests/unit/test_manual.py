"""Every citation of the manual leads somewhere, and nothing cites a document that users do not have."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.manual import anchors, links, slug
from tests.support.repository import ROOT

FIXED = {
    "README": "vocabulary",
    "catalogue": "queries parameters types sql checking-a-catalogue",
    "topics": "spellings canonical-topics values invalid-topics",
    "channels": "connecting messages join snapshot delta status resuming presence leave tokens slow-clients versions "
    "errors close-codes limits draining",
    "http": "json-snapshots server-sent-events errors queries health metrics the-page cross-origin-requests",
    "grpc": "livequery cluster feed report status-codes health-and-reflection",
    "etcd": "keys nodes demand owners presence leader pins-and-drains transactions lost-data",
    "commands": "make up services check token topics nodes watch top exit-status cluster-json",
    "settings": "cluster gateway poller coordinator",
    "security": "tokens roles claims origins limits tls etcd-access secrets-in-logs",
    "metrics": "gateway poller coordinator coordination",
    "guarantees": "one-poll one-owner failover cleanup etcd-outage isolation",
}
"""The anchors of the reference that code and other pages may cite, by page."""

CITATION = re.compile(r"\bdocs/[\w./-]+?\.md\b(?:#([\w-]+))?")
LINE_ANCHOR = re.compile(r"L\d+(-L\d+)?")

OLD_CONTRACT = "CONTRACT" + ".md"
SECTION_SIGN = "\N{SECTION SIGN}"


@lru_cache(maxsize=1)
def tracked() -> tuple[tuple[Path, str], ...]:
    """Return the text files that git tracks, each with its text."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            try:
                found.append((path, path.read_text(encoding="utf-8")))
            except UnicodeDecodeError:
                continue
    return tuple(found)


def lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text with their numbers from 1."""
    return enumerate(text.splitlines(), 1)


def where(path: Path, line: int) -> str:
    """Return `file:line`, relative to the repository."""
    return f"{path.relative_to(ROOT)}:{line}"


def none_of(what: str, wrong: list[str]) -> None:
    """Fail with one line for each finding; pass when there is none."""
    if wrong:
        pytest.fail(f"{len(wrong)} {what}:\n" + "\n".join(wrong), pytrace=False)


def missing(target: Path, anchor: str | None) -> str | None:
    """Return what is wrong with a link to this file and anchor; None when it leads somewhere."""
    if not target.exists():
        return "no such file"
    if not anchor or (target.suffix != ".md" and LINE_ANCHOR.fullmatch(anchor)):
        return None
    if target.suffix != ".md":
        return "only Markdown files have anchors"
    if anchor in anchors(target):
        return None
    return f"no such heading; {target.name} has: {', '.join(sorted(anchors(target)))}"


@pytest.mark.parametrize("page", FIXED)
def test_a_page_of_the_reference_has_the_anchors_that_others_may_cite(page: str) -> None:
    path = ROOT / "docs" / "reference" / f"{page}.md"
    assert path.exists(), f"{path.relative_to(ROOT)} is missing"
    absent = set(FIXED[page].split()) - anchors(path)
    assert not absent, f"{path.relative_to(ROOT)} has no heading for: {', '.join(sorted(absent))}"


def test_a_citation_names_a_page_and_a_heading_that_exist() -> None:
    wrong = [
        f"{where(path, number)}: {match[0]}: {reason}"
        for path, text in tracked()
        for number, line in lines(text)
        for match in CITATION.finditer(line)
        if (reason := missing(ROOT / match[0].partition("#")[0], match[1]))
    ]
    none_of("citations lead nowhere", wrong)


def test_a_relative_link_or_image_leads_to_a_file_and_a_heading_that_exist() -> None:
    wrong = []
    for path, _ in tracked():
        if path.suffix != ".md":
            continue
        for number, target in links(path):
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            name, _, anchor = target.partition("#")
            if reason := missing((path.parent / unquote(name)).resolve() if name else path, anchor or None):
                wrong.append(f"{where(path, number)}: {target}: {reason}")
    none_of("links lead nowhere", wrong)


def test_nothing_cites_the_contract_that_only_its_authors_have() -> None:
    wrong = [
        f"{where(path, number)}: {line.strip()[:100]}"
        for path, text in tracked()
        for number, line in lines(text)
        if OLD_CONTRACT in line or (SECTION_SIGN in line and ROOT / "docs" not in path.parents)
    ]
    none_of("lines cite it, or a section by its sign: cite docs/reference instead", wrong)


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("Server-sent events", "server-sent-events"),
        ("The `cluster.json` file", "the-clusterjson-file"),
        ("What a *client* may cost, and why", "what-a-client-may-cost-and-why"),
        ("max_rows", "max_rows"),
        ("[Topics](topics.md): spellings", "topics-spellings"),
    ],
)
def test_an_anchor_is_made_of_a_heading_as_github_makes_it(heading: str, expected: str) -> None:
    assert slug(heading) == expected
