"""The examples of docs/reference/catalogue.md and the tables of docs/reference/topics.md, as the code reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.values import TYPES, canonical
from pollcast.services.cli.main import app
from pollcast.services.errors import PollcastError
from tests.support.manual import REFERENCE, examples, table

EXAMPLES = examples("catalogue")
OF_SOURCES = examples("sources")
CLAIMS = {"customer": "Ada"}
"""The claims of the token that the tables of topics.md assume."""


@pytest.fixture(scope="module")
def shop() -> catalogue.Catalog:
    """The catalogue that all examples of the reference use."""
    return catalogue.parse(EXAMPLES["catalogue.shop"].text, "shop.toml")


@pytest.mark.parametrize(
    "name", [name for name, example in (EXAMPLES | OF_SOURCES).items() if example.language == "toml"]
)
def test_a_catalogue_of_the_manual_is_accepted(name: str) -> None:
    assert catalogue.parse((EXAMPLES | OF_SOURCES)[name].text, "page").queries


def test_the_page_lists_every_field_and_its_example_uses_them_all() -> None:
    with pytest.raises(PollcastError) as refused:
        catalogue.parse(
            '[queries.a]\nsql = "select 1"\nxyz = 1\n[queries.a.params]\nb = { type = "int", xyz = 1 }', "f"
        )
    known = [set(each.split(", ")) for each in re.findall(r"the known fields are (.*)", refused.value.detail)]
    page = (REFERENCE / "catalogue.md").read_text()
    example = EXAMPLES["catalogue.fields"].text
    for field in set[str]().union(*known):
        assert re.search(rf"^\| [^|]*`{field}`", page, re.MULTILINE), f"no row describes {field}"
        assert field in example, f"the example does not use {field}"
    assert [len(fields) for fields in known] == [18, 9]


def test_the_types_of_the_pages_are_those_of_the_code() -> None:
    for page, section in (("catalogue", "Types"), ("topics", "Values")):
        text = (REFERENCE / f"{page}.md").read_text().partition(f"\n## {section}\n")[2].partition("\n#")[0]
        first_table = text.partition("| type |")[2].partition("\n\n")[0]
        assert tuple(re.findall(r"^\| `(\w+)` \|", first_table, re.MULTILINE)) == TYPES


def check(file: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Any]:
    """Run `pollcast check --json` on a catalogue; return its exit status and what it prints."""
    file.write_text(content)
    monkeypatch.chdir(file.parent)
    done = CliRunner().invoke(app, ["check", file.name, "--json"])
    return done.exit_code, json.loads(done.stdout)


def without_wording(answer: Any) -> Any:
    """Return the answer with its texts for people replaced, whose wording may change."""
    for problem in answer["problems"]:
        problem["reason"] = type(problem["reason"])
    for query in answer.get("queries", []):
        query["one_by_one_because"] = type(query["one_by_one_because"])
    return answer


def test_check_answers_as_the_manual_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = EXAMPLES["catalogue.shop"].text
    wrong = good.replace('"500ms"', '"10ms"')
    for content, status, example in ((good, 0, "catalogue.check.fine"), (wrong, 2, "catalogue.check.wrong")):
        exit_status, answer = check(tmp_path / "shop.toml", content, monkeypatch)
        assert exit_status == status
        assert without_wording(answer) == without_wording(EXAMPLES[example].json())


def test_every_example_of_the_page_is_tested() -> None:
    assert set(EXAMPLES) == {
        "catalogue.shop",
        "catalogue.fields",
        "catalogue.settings",
        "catalogue.check.fine",
        "catalogue.check.wrong",
    }


def rows(name: str, columns: int) -> Iterable[tuple[str, ...]]:
    """Return a table of topics.md; AssertionError when it has other columns."""
    found = table(name)
    assert found
    assert all(len(row) == columns for row in found)
    return found


@pytest.mark.parametrize(("spelling", "expected"), rows("topics.spellings", 2))
def test_a_spelling_has_the_canonical_topic_of_the_manual(
    shop: catalogue.Catalog, spelling: str, expected: str
) -> None:
    assert topics.parse(spelling, shop, CLAIMS).canonical == expected
    assert topics.parse_canonical(expected, shop).canonical == expected


@pytest.mark.parametrize(("spelling", "expected"), rows("topics.lists", 2))
def test_a_list_has_the_canonical_topic_of_the_manual(spelling: str, expected: str) -> None:
    deliveries = catalogue.parse(EXAMPLES["catalogue.fields"].text, "fields.toml")
    depot = "6f1c4c1e-6e2b-4b0e-9b0a-2f5d3c1a7e10"
    assert topics.parse(spelling, deliveries, {"depot": depot}).canonical == expected
    assert topics.parse_canonical(expected, deliveries).canonical == expected


@pytest.mark.parametrize(("kind", "sent", "expected"), rows("topics.values", 3))
def test_a_value_has_the_canonical_text_of_the_manual(kind: Any, sent: str, expected: str) -> None:
    assert canonical(kind, sent) == expected
    assert canonical(kind, expected) == expected


@pytest.mark.parametrize(("spelling", "reason"), rows("topics.invalid", 2))
def test_an_invalid_topic_is_refused_as_the_manual_states(shop: catalogue.Catalog, spelling: str, reason: str) -> None:
    with pytest.raises(PollcastError) as refused:
        topics.check_roles(topics.parse(spelling, shop, CLAIMS).query, roles=())
    assert refused.value.reason == reason
