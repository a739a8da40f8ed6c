"""Paths in this checkout."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository's top folder."""
