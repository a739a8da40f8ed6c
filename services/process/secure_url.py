"""URLs from which a secret or a key may be fetched: over TLS, or from this machine. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

from pollcast.services.process.addresses import is_loopback, join_host_port


def secure_url(text: str) -> str:
    """Return the URL. Raises ValueError when it is not https://, or http:// on this machine, or holds a user."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not a URL such as https://id.example.org/keys") from None
    if "@" in parts.netloc:  # not quoted: it may hold a password
        raise ValueError("must hold no user and password")
    local = bool(host) and is_loopback(join_host_port(host or "", port or 80))
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise ValueError(f"{text!r} is not fetched securely: write https://, as in https://id.example.org/keys")
    return text
