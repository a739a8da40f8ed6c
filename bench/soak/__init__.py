"""An hour of truth: everything that happens to a cluster happens to it, and at the end nothing is left of it.

`python -m bench soak [--duration 1h]` (`make soak DURATION=1h`). After a warm-up, and again and again until the end,
the guests leave and the faults pause: then every process must hold what it held after the warm-up, etcd must have the
same keys, and each resident must show the rows of the database. The exit status is 1 when anything is not so, when a
client has received what it must not, or has ended for good.
"""

from __future__ import annotations

from bench.soak.run import run

__all__ = ["run"]
