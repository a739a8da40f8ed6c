"""Definitions of queries, the difference between two catalogues, and the looks at a catalogue's file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.definitions import catalogue_hash, definition, definitions, difference
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.process.catalogue_file import ABSENT_LOOKS, Looks

BASE = """
[queries.q]
sql = "select id from t where a = %(a)s"
key = ["id"]
[queries.q.params]
a = "int"
"""

COSMETIC = {
    "a comment": BASE + "# more\n",
    "a title": BASE.replace("key", 'title = "Q"\nkey'),
    "roles": BASE.replace("key", 'roles = ["r"]\nkey'),
    "the long form": BASE.replace('a = "int"', 'a = { type = "int" }'),
    "a default that is written out": BASE.replace("key", 'interval = "1s"\nlinger = "5s"\nkey'),
}

CHANGES = {
    "sql": BASE.replace("from t", "from u"),
    "key": BASE.replace('key = ["id"]', ""),
    "interval": BASE.replace("key", 'interval = "2s"\nkey'),
    "timeout": BASE.replace("key", 'timeout = "2s"\nkey'),
    "linger": BASE.replace("key", 'linger = "2s"\nkey'),
    "presence": BASE.replace("key", "presence = true\nkey"),
    "max_rows": BASE.replace("key", "max_rows = 7\nkey"),
    "max_bytes": BASE.replace("key", 'max_bytes = "1MiB"\nkey'),
    "together": BASE.replace("key", "together = false\nkey"),
    "probe": BASE.replace("key", 'probe = "select 1"\nkey'),
    "refresh": BASE.replace("key", 'refresh = "7s"\nkey'),
    "min_interval": BASE.replace("key", 'min_interval = "70ms"\nkey'),
    "listen": BASE.replace("key", 'listen = "c"\nkey'),
    "settings": BASE.replace("key", 'settings = { "app.a" = "a" }\nkey'),
    "source": BASE.replace("key", 'source = "shop"\nkey') + "[sources.shop]\nurl_env = 'A'",
    "kind": BASE + "[sources.default]\nkind = 'postgresql-plain'",
    "type": BASE.replace('"int"', '"text"'),
    "list": BASE.replace('"int"', '"int[]"'),
    "default": BASE.replace('"int"', '{ type = "int", default = 1 }'),
    "max": BASE.replace('"int"', '{ type = "int", max = 1 }'),
    "optional": BASE.replace('"int"', '{ type = "int", optional = true }'),
    "claim": BASE.replace('"int"', '{ type = "int", claim = "c" }'),
    "another claim": BASE.replace('"int"', '{ type = "int", claim = "d" }'),
}


def parse(text: str) -> Catalog:
    """Return the catalogue of a text."""
    return catalogue.parse(text, "test.toml")


def test_how_a_source_is_reached_changes_the_catalogue_and_no_definition() -> None:
    moved = BASE.replace("key", 'source = "shop"\nkey') + "[sources.shop]\nurl_env = 'A'"
    hashes = set()
    for fields in ("", "\npool = 2", "\nstatements_per_minute = 9", "\n[sources.other]\nurl_env = 'B'"):
        found = CatalogueInForce(parse(moved + fields))
        assert found.definitions == definitions(parse(moved))
        hashes.add(found.hash)
    assert len(hashes) == 4


def test_what_nobody_can_see_is_no_part_of_a_definition() -> None:
    expected = definition(parse(BASE).queries["q"])
    assert {what: definition(parse(text).queries["q"]) for what, text in COSMETIC.items()} == dict.fromkeys(
        COSMETIC, expected
    )


def test_every_other_field_is_part_of_it() -> None:
    found = {what: definition(parse(text).queries["q"]) for what, text in {"": BASE, **CHANGES}.items()}
    assert len(set(found.values())) == len(found), found


def hash_of(catalog: Catalog) -> str:
    """Return the hash of a catalogue."""
    return catalogue_hash(catalog, definitions(catalog))


def test_the_hash_of_a_catalogue_heeds_roles_and_titles_but_neither_order_nor_comments() -> None:
    other = BASE.replace("queries.q", "queries.r")
    assert hash_of(parse(BASE + other)) == hash_of(parse(other + "# x\n" + BASE))
    hashes = {hash_of(parse(text)) for text in (BASE, COSMETIC["a title"], COSMETIC["roles"])}
    assert len(hashes) == 3


POOL = [BASE, COSMETIC["roles"], COSMETIC["a title"], CHANGES["sql"], CHANGES["claim"]]
CATALOGUES = st.dictionaries(st.sampled_from("abcde"), st.sampled_from(POOL), min_size=1).map(
    lambda found: parse("".join(text.replace("queries.q", f"queries.{name}") for name, text in found.items()))
)


@given(CATALOGUES, CATALOGUES)
def test_a_difference_names_each_query_that_is_not_as_before_once(before: Catalog, after: Catalog) -> None:
    old, new = definitions(before), definitions(after)
    found = difference(before, old, after, new)
    parts = (found.added, found.gone, found.changed, found.guarded)
    assert sum(map(len, parts)) == len(frozenset().union(*parts))
    assert found.added == new.keys() - old.keys()
    assert found.gone == old.keys() - new.keys()
    assert found.changed == {name for name in old.keys() & new.keys() if old[name] != new[name]}
    same = (old.keys() & new.keys()) - found.changed
    assert found.guarded == {name for name in same if before.queries[name].roles != after.queries[name].roles}
    back = difference(after, new, before, old)
    assert (back.added, back.gone, back.changed, back.guarded) == (
        found.gone,
        found.added,
        found.changed,
        found.guarded,
    )
    in_force = CatalogueInForce(before)
    assert in_force.replace(CatalogueInForce(after)) == found
    assert (in_force.generation, in_force.hash, in_force.definition("none")) == (1, hash_of(after), "")


@given(st.lists(st.sampled_from([b"0", b"1", b"2", None])))
def test_a_content_is_tried_once_and_only_when_two_looks_in_a_row_show_it(shown: list[bytes | None]) -> None:
    looks, tried, absent = Looks(b"0"), [b"0"], 0
    before: bytes | None = None
    for content in shown:
        absent = absent + 1 if content is None else 0
        due = looks.look(content)
        if content is None:
            assert due == (absent == ABSENT_LOOKS)
            if due:
                tried.append(b"absent")
        else:
            assert due == (content == before and content != tried[-1])
            if due:
                tried.append(content)
        before = content


def test_a_hangup_has_any_content_tried_at_once() -> None:
    looks = Looks(b"0")
    assert looks.look(b"0", forced=True)
    assert looks.look(b"1", forced=True)
    assert not looks.look(b"1")
    assert not looks.look(None)
    assert looks.look(None, forced=True)
    assert not looks.look(b"1")
    assert looks.look(b"1")  # it was reported as absent, so what comes back is read
