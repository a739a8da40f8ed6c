"""Whether this gateway should get clients (`/readyz`). Pure."""

from __future__ import annotations

from typing import Any


class Readiness:
    """Not ready before the first sync with etcd and while draining; an etcd outage later is only told."""

    def __init__(self) -> None:
        self.synced = False
        self.draining = False
        self.etcd_reached = False

    def answer(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and JSON."""
        etcd = "reached" if self.etcd_reached else "not reached"
        if self.draining:
            return 503, {"status": "draining", "reason": "this gateway is shutting down", "etcd": etcd}
        if not self.synced:
            return 503, {"status": "starting", "reason": "not in sync with etcd yet", "etcd": etcd}
        return 200, {"status": "ready", "etcd": etcd}
