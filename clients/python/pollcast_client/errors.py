"""The exceptions of this client."""

from __future__ import annotations


class PollcastClientError(Exception):
    """The base class of this client's exceptions."""


class Refused(PollcastClientError):
    """The gateway's refusal of a connection, a join or a message; repeating it unchanged does not help.

    `reason` is a word of the protocol: `unknown_query`, `invalid_params`, `forbidden`, `unauthorized`,
    `too_many_topics`, `invalid_payload`, `invalid_message`, … `detail` explains it in a sentence for people. `topic` is
    the topic that the refusal is about, None when it is about the connection.
    """

    def __init__(self, reason: str, detail: str, topic: str | None = None) -> None:
        super().__init__(f"{topic}: {reason}: {detail}" if topic else f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.topic = topic


class ProtocolViolated(PollcastClientError):
    """A message that the protocol excludes, such as a delta that does not fit the result.

    A correct gateway never causes it. The result that the client holds of the topic can no longer be trusted.
    """
