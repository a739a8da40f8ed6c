"""Benchmarks: `python -m bench [name…]`, or `make bench`. Each prints tables, with its yardstick from the same run."""

import os

# uvloop forks to start a process. gRPC's fork handlers would then restart its threads in the child, and one child in a
# hundred would crash before it becomes the program. gRPC reads this when it is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
