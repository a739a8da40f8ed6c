"""pollcast.services.compact: what is kept of JSON takes the room that it needs."""

from __future__ import annotations

import tracemalloc

from pollcast.gateway import phoenix
from pollcast.services.coordination.keys import DemandRecord

KEPT = 1000


def test_what_is_kept_takes_the_room_that_it_needs() -> None:
    tracemalloc.start()
    try:
        kept = [phoenix.quote(f"live:orders?n={n}") for n in range(KEPT)]
        kept += [DemandRecord("gateway-1", f"{n}").encode() for n in range(KEPT)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == 2 * KEPT
    assert size < 2 * KEPT * 400
