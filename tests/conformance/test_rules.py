"""The table of kinds in docs/reference/sources.md says how many rules of the conformance suite each keeps."""

from __future__ import annotations

from pollcast.services.catalogue.source_kinds import KINDS
from tests.conformance.rules import rules
from tests.support.repository import ROOT


def test_the_manual_counts_the_rules_that_each_kind_keeps_and_those_that_do_not_apply() -> None:
    applying = rules().values()
    kept = {kind: sum(kind in kinds for kinds in applying) for kind in KINDS}
    assert kept["postgresql"] == len(applying)
    manual = (ROOT / "docs/reference/sources.md").read_text().splitlines()
    (head,) = (line for line in manual if line.startswith("| | `"))
    (row,) = (line for line in manual if line.startswith("| rules of the conformance suite"))
    names = [cell.strip(" `") for cell in head.split("|")[2:-1]]
    counts = [cell.strip() for cell in row.split("|")[2:-1]]
    assert dict(zip(names, counts, strict=True)) == {
        kind: f"{count}" + (f"; {len(applying) - count} not applicable" if count < len(applying) else "")
        for kind, count in kept.items()
    }
