"""Paths in this checkout, and the code that its manual shows."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository's top folder."""


def manual_code(page: str, language: str) -> list[str]:
    """Return the code blocks of this language in a page of the manual, such as `howto/web-page.md`."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
