"""Tables in Markdown, which are readable in a terminal and can be pasted into docs/design/performance.md."""

from __future__ import annotations

from collections.abc import Sequence


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table. The first column is text, the others are numbers."""
    cells = [list(head), *[[text(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    print(f"\n**{title}**\n")
    for number, row in enumerate(cells):
        print("| " + " | ".join(_aligned(cell, widths[at], at) for at, cell in enumerate(row)) + " |")
        if number == 0:
            print("|" + "|".join(("-" * (width + 1) + (":" if at else "-")) for at, width in enumerate(widths)) + "|")
    print(flush=True)


def text(value: object) -> str:
    """Return a cell's text: a number has two digits after the point below 100, and commas from 1,000 on."""
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -int(-len(ordered) * share // 1) - 1))]


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column else cell.ljust(width)
