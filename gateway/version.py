"""Versions of a result: `"<epoch>-<seq>"`, opaque to clients (docs/reference/README.md#vocabulary)."""

from __future__ import annotations

from typing import NamedTuple


class Version(NamedTuple):
    """A version, ordered by epoch and then by seq.

    `epoch` is the mod_revision of the owner key; `seq` counts the differing results within the epoch, from 1.
    """

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @staticmethod
    def parse(text: str) -> Version | None:
        """Return the version that a client spelled, None when it is malformed, which counts as absent."""
        epoch, dash, seq = text.partition("-")
        if (
            not dash
            or len(text) > 40
            or not (epoch.isascii() and epoch.isdecimal() and seq.isascii() and seq.isdecimal())
        ):
            return None
        return Version(int(epoch), int(seq))
