"""The decision about a new client: whose page, which token, and whether there is room."""

from __future__ import annotations

import functools
from collections.abc import Callable
from urllib.parse import parse_qsl

from pollcast.gateway import phoenix
from pollcast.gateway.admission import Admission
from pollcast.gateway.departure import Departure
from pollcast.gateway.handshake import Offer
from pollcast.gateway.identity import Authenticator, Identity
from pollcast.gateway.origin import OriginPolicy
from pollcast.gateway.sockets import Sockets
from pollcast.gateway.wire import Receiver, Wire
from pollcast.services.auth import tokens as auth
from pollcast.services.errors import Draining, Forbidden, PollcastError
from pollcast.services.serving.refusals import refused

MAX_TOKEN_CHARS = 8192
"""Maximum length of a token in a handshake (docs/reference/channels.md#limits)."""

MAX_PAGES = 256
"""Number of allowed pairs of Origin and Host that are remembered."""

PLAIN_QUERY = f"vsn={phoenix.VSN}".encode()
"""The query of most handshakes, which needs no parsing."""


def foreign_page(*, origin: str, host: str) -> None:
    """Count and log a refused page, of a WebSocket or an HTTP request."""
    refused("origin", origin=origin, host=host)


class Entrance:
    """A gateway's decision about WebSocket handshakes and new sessions of long polling."""

    def __init__(
        self,
        sockets: Sockets,
        authenticator: Authenticator,
        origins: OriginPolicy,
        admission: Admission,
        departure: Departure,
    ) -> None:
        self._sockets = sockets
        self._authenticator = authenticator
        self._admission = admission
        self._departure = departure
        self._checked_page = functools.lru_cache(MAX_PAGES)(origins.check)  # an error is not remembered

    def admit(self, offer: Offer) -> Callable[[Wire], Receiver]:
        """Return a function that opens the client's socket.

        Raises Forbidden for a foreign page, another vsn or a bad token, Draining, and TooManyConnections.
        """
        self.check_page(offer.origin, offer.host)
        vsn, token = _parameters(offer.query)
        identity = self.identify(vsn, auth.bearer_from_subprotocols(offer.subprotocols) or token)
        return lambda wire: self._sockets.open(wire, identity)

    def check_page(self, origin: str | None, host: str) -> None:
        """Raise Forbidden for a foreign page. `origin` and `host` are the request's headers."""
        try:
            self._checked_page(origin, host)
        except Forbidden:
            foreign_page(origin=(origin or "")[:200], host=host[:200])
            raise

    def identify(self, vsn: str | None, token: str | None) -> Identity:
        """Return the identity of a new client. Raises Forbidden, Draining and TooManyConnections as `admit` does."""
        if vsn != phoenix.VSN:
            raise Forbidden(f"this server speaks vsn={phoenix.VSN} only")
        identity = self._identify(token)
        if self._departure.closing:
            raise Draining()
        self._admission.check()
        return identity

    def _identify(self, token: str | None) -> Identity:
        """Return the identity of the client that sent the token. Raises Forbidden."""
        if token is not None and len(token) > MAX_TOKEN_CHARS:
            reason = f"a token in a handshake has at most {MAX_TOKEN_CHARS} characters"
            refused("token", detail=reason)
            raise Forbidden(reason)
        try:
            return self._authenticator.identify(token)
        except PollcastError as error:
            raise Forbidden(error.detail) from None


def _parameters(query: bytes) -> tuple[str | None, str | None]:
    """Return the values of `vsn` and `token` in a raw query; the last one of each counts."""
    if query == PLAIN_QUERY:
        return phoenix.VSN, None
    found = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    return found.get("vsn"), found.get("token")
