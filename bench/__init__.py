"""Benchmarks: `python -m bench [name…]`, or `make bench`. Each prints tables that compare the product with a yardstick,
both measured in the same run."""

import os

# uvloop forks to start a process. gRPC's fork handlers would then restart gRPC's threads in the child, and one child in
# a hundred would crash before it executes its program. gRPC reads this variable when it is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
