"""Checks of the files that settings name for TLS and tokens, made before anything starts.

The checks keep nothing: services read the files themselves. No message holds any of a file's content.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

from pollcast.services.process import jwks


def tls_problems(ca: Path | None, cert: Path | None, key: Path | None) -> Iterator[tuple[str, str]]:
    """Yield `("ca" | "cert" | "key", reason)` for each unusable file. Files are PEM; the key has no passphrase."""
    unreadable = {}
    for which, path in (("ca", ca), ("cert", cert), ("key", key)):
        if path is not None and (reason := unreadable_because(path)):
            unreadable[which] = reason
    yield from unreadable.items()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None and "ca" not in unreadable:
        try:
            context.load_verify_locations(cafile=ca)
        except ssl.SSLError:
            yield "ca", f"{ca} holds no certificate in PEM"
    if cert is not None and key is not None and not unreadable.keys() & {"cert", "key"}:
        try:
            context.load_cert_chain(cert, key, password=lambda: b"")
        except ssl.SSLError:
            yield "key", f"{key} is not the private key, in PEM and without a passphrase, of the certificate in {cert}"


def key_set_problem(path: Path) -> str | None:
    """Return why the file is not a JWK set that tokens can be verified with; None when it is one."""
    try:
        jwks.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        return f"{path} can't be read: {error.strerror}"
    except ValueError as error:
        return f"{path} {error}"
    return None


def unreadable_because(path: Path) -> str | None:
    """Return why the file cannot be read; None when it can."""
    try:
        path.read_bytes()
    except OSError as error:
        return f"{path} can't be read: {error.strerror}"
    return None
