"""The count of operations is the same on every run."""

from __future__ import annotations

import gc
from typing import Any

from tests.support.operations import operations


def test_a_collection_of_garbage_is_not_counted() -> None:
    collections = 0

    def called(_phase: str, _info: dict[str, Any]) -> None:
        nonlocal collections
        collections += 1

    def allocate() -> None:
        for _ in range(100):
            kept.append([])

    kept: list[list[int]] = []
    quiet = operations(allocate)
    threshold = gc.get_threshold()
    gc.callbacks.append(called)
    gc.set_threshold(10)
    try:
        allocate()
        assert collections > 0
        collections = 0
        assert operations(allocate) == quiet
        assert gc.isenabled()
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(called)
