"""Memory of JSON that is kept: it must not hold on to orjson's buffers."""

from __future__ import annotations

import tracemalloc

from pollcast.gateway import phoenix
from pollcast.services.coordination.keys import DemandRecord

TEXTS = 1000
"""Number of texts of each kind."""


def test_kept_json_takes_memory_of_its_own_size() -> None:
    tracemalloc.start()
    try:
        kept = [phoenix.quote(f"live:orders?n={n}") for n in range(TEXTS)]
        kept += [DemandRecord("gateway-1", f"{n}").encode() for n in range(TEXTS)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == 2 * TEXTS
    assert size < 2 * TEXTS * 400
