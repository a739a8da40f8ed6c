"""Versions: `"<epoch>-<seq>"`, ordered by (epoch, seq) as integers, opaque to clients (CONTRACT.md §1)."""

from __future__ import annotations

from typing import NamedTuple


class Version(NamedTuple):
    """`epoch` is the owner key's mod_revision, `seq` counts the results that differ within it, from 1."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @staticmethod
    def parse(text: str) -> Version | None:
        """What a client sent as `since`; None when it is no version (it then counts as absent)."""
        epoch, dash, seq = text.partition("-")
        if (
            not dash
            or len(text) > 40
            or not (epoch.isascii() and epoch.isdecimal() and seq.isascii() and seq.isdecimal())
        ):
            return None
        return Version(int(epoch), int(seq))
