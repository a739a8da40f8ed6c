"""The order of the tests (tests/support/order.py)."""

from __future__ import annotations

import itertools

from tests.support import order

FILES = [
    *(f"tests/browser/test_{n}.py" for n in range(5)),
    "tests/cluster/attacks/test_a.py",
    "tests/cluster/attacks/test_b.py",
    *(f"tests/cluster/test_{n}.py" for n in range(20)),
    *(f"tests/faults/test_{n}.py" for n in range(4)),
    *(f"tests/unit/gateway/test_{n}.py" for n in range(10)),
    *(f"tests/unit/test_{n}.py" for n in range(20)),
]
TESTS = [f"{file}::test_{n}[a/b::c]" for file in FILES for n in range(3)]


def test_the_longest_files_come_first_and_unit_tests_last_and_in_between() -> None:
    places = order.places(TESTS)
    inorder = sorted(TESTS, key=lambda test: places[order.piece(test)])
    pieces = [piece for piece, _ in itertools.groupby(inorder, order.piece)]
    assert len(pieces) == len(set(pieces)) == len(FILES) - 1  # no piece is torn apart
    assert pieces[:2] == ["tests/faults/test_0.py", "tests/faults/test_1.py"]
    kinds = [piece.split("/")[1] == "unit" for piece in pieces]
    assert kinds[-3:] == [True] * 3
    assert max(len(list(run)) for unit, run in itertools.groupby(kinds) if not unit) <= 2


def test_files_that_share_a_cluster_are_one_piece() -> None:
    assert order.piece("tests/cluster/attacks/test_a.py::test") == order.piece("tests/cluster/attacks/test_b.py::test")
    assert order.piece("tests/cluster/test_a.py::test[x::y]") == "tests/cluster/test_a.py"
    assert order.places([]) == {}
