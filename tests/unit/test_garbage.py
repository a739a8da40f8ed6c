"""The garbage collector of a service works in portions, which do not stop the event loop for long."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from collections import deque
from pollcast.services.process import garbage

garbage.tune()
collected = []
gc.callbacks.append(lambda phase, info: phase == "stop" and collected.append((info["generation"], info["collected"])))
kept = deque(maxlen=30_000)  # each object outlives the collection of the youngest ones, and is garbage then
for _ in range(1_000_000):
    cycle = []
    cycle.append(cycle)
    kept.append(cycle)
print(max(generation for generation, _ in collected), max(found for _, found in collected))
"""


def test_garbage_is_collected_in_portions_without_looking_at_every_object() -> None:
    printed = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    generation, most = map(int, printed.split())
    assert generation == 1
    assert 10_000 < most < 50_000
