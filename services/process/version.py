"""The version of the software that this process runs."""

from __future__ import annotations

from importlib import metadata

VERSION = metadata.version("pollcast")
