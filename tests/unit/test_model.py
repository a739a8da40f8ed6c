"""model/check.py parses the output of spin. `make model`, which needs spin, checks the model itself."""

from __future__ import annotations

import pytest
from model.check import BROKEN, CHECKS, LONG, MODELS, parse, steps_of

HOLDS = """
State-vector 148 byte, depth reached 57, errors: 0
  2647476 states, stored
 13211013 transitions (= stored+matched)
  531.906\ttotal actual memory usage

pan: elapsed time 15.2 seconds
"""
FAILS = "pan:1: assertion violated (slow_update>=accepted) (at depth 42)\n" + HOLDS.replace("errors: 0", "errors: 3")


def test_a_check_without_errors_holds() -> None:
    result = parse(HOLDS)
    assert (result.failure, result.states, result.seconds, result.memory_mb) == (None, 2647476, 15.2, 531.906)


def test_a_failure_is_reported() -> None:
    assert parse(FAILS).failure == "assertion violated (slow_update>=accepted) (at depth 42)"


@pytest.mark.parametrize(
    "output",
    [
        "",
        "error: max search depth too small\n" + HOLDS,
        "pan: reached -DMEMLIM bound\n" + HOLDS,
        HOLDS.replace("errors: 0", "errors: 1"),
    ],
)
def test_a_search_that_was_cut_short_never_holds(output: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse(output)


def test_a_counterexample_has_its_steps_and_the_violated_rule() -> None:
    trail = (
        "spin: warning, something\n"
        "          poller 0 sends a claim\n"
        "spin: /x/ownership.pml:2, Error: assertion violated\n"
        "spin: text of failed assertion: assert(1)\n"
        "spin: trail ends after 13 steps\n"
    )
    assert steps_of(trail, "first\n    assert(DEMANDED);\n") == ("poller 0 sends a claim", "WRONG: assert(DEMANDED);")


def test_each_model_is_checked_and_each_broken_rule_is_one_of_its_model() -> None:
    assert {check.model for check in CHECKS} == {path.stem for path in MODELS.glob("*.pml")}
    for check in CHECKS + LONG + BROKEN:
        source = (MODELS / f"{check.model}.pml").read_text()
        assert all(f"def {name}" in source or f"defined({name})" in source for name in check.defines), check.what


def test_each_model_has_a_counterexample() -> None:
    assert {check.model for check in BROKEN} == {check.model for check in CHECKS}
