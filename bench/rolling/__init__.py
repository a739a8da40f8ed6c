"""A rolling restart of everything behind a load balancer whose health checks take 5 s, with 10,000 clients.

`python -m bench rolling [--clients 10000] [--check 5]`. Coordinators, pollers and gateways are restarted one after the
other. No client may end for good or show other rows than the database. It prints how long the restart took, for how
long clients were without a connection, and how many came back within a second; the exit status is 1 on any fault.
"""

from __future__ import annotations

from bench.rolling.run import run

__all__ = ["run"]
