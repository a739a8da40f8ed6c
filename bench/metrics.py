"""The metrics of services, as a benchmark reads them: Prometheus' text format."""

from __future__ import annotations

import re
import urllib.request

READ_SECONDS = 60.0
"""Maximum time for an answer, in seconds."""

_SAMPLE = re.compile(r"(\w+)(\{.*\})? (\S+)")


def read(address: str) -> dict[str, float]:
    """Read the metrics of the service at this address, `host:port`: the sum of the samples of each name, and each
    sample with labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=READ_SECONDS) as answer:
        return parse(answer.read().decode())


def parse(text: str) -> dict[str, float]:
    """Parse Prometheus' text format, and return the sum of the samples of each name, and of each with its labels."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if match := _SAMPLE.fullmatch(line):
            name, labels, value = match.groups()
            found[name] = found.get(name, 0.0) + float(value)
            if labels:
                found[name + labels] = float(value)
    return found
