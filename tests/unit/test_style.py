"""The house style of docstrings: whole sentences that a reader understands without their neighbours."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.repository import ROOT

FOLDERS = ("services", "coordinator", "gateway", "poller", "clients", "bench", "model", "tests", "web")
FRAGMENT = re.compile(
    r"(Of|Who|Whom|Whose|That|Those|So|What|Whatever|How|Where|When|Why|Which|If|It|They|These|Such|See the module)\b"
)


def docstrings(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring: of modules, classes, functions, and below constants."""
    for node in ast.walk(ast.parse(file.read_text())):
        for statement in getattr(node, "body", ()) if isinstance(getattr(node, "body", ()), list) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                text = statement.value.value
                if isinstance(text, str):
                    yield statement.lineno, text


def sources() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in listed.split() if name.startswith(FOLDERS) and "_pb2" not in name]
    return [file for file in files if file.is_file()]  # git lists a file that was just removed until that is committed


def test_no_docstring_begins_as_a_fragment() -> None:
    fragments = [
        f"{file.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for file in sources()
        for line, text in docstrings(file)
        if FRAGMENT.match(text)
    ]
    assert not fragments, "begin with a verb, or with the noun that is defined:\n" + "\n".join(fragments)


@pytest.mark.parametrize("text", ["Of one run.", "What a topic costs.", "See the module."])
def test_fragments_are_found(text: str, tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(f'"""{text}"""\n\nN = 1\n"""Number of topics."""\n\n\ndef f() -> None:\n    """Return."""\n')
    assert [(line, bool(FRAGMENT.match(found))) for line, found in docstrings(file)] == [
        (1, True),
        (4, False),
        (8, False),
    ]
