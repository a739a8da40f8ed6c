"""Everything that this client raises on purpose."""

from __future__ import annotations


class PollcastClientError(Exception):
    """Something went wrong."""


class Refused(PollcastClientError):
    """The gateway refused: `reason` is its word (`unknown_query`, `invalid_params`, `forbidden`, `unauthorized`, …),
    `detail` is for people. Trying again without a change does not help."""

    def __init__(self, reason: str, detail: str, topic: str | None = None) -> None:
        super().__init__(f"{topic}: {reason}: {detail}" if topic else f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.topic = topic


class ProtocolViolated(PollcastClientError):
    """The gateway sent what the protocol excludes, such as a delta that does not fit. Never expected: what is known of
    the topic can't be trusted any more."""
