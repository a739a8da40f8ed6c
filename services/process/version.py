"""The version of Pollcast that is installed."""

from __future__ import annotations

from importlib import metadata

VERSION = metadata.version("pollcast")
