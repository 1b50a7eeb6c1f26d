"""The addresses of the web that may be fetched, by their text.

Does not belong here: which servers may be connected to, and how much an answer may bring (an
extension).
"""

import string
from typing import Any
from urllib.parse import quote, urlsplit

MAX_URL_CHARS = 8_192
REFUSED_URL = "refused_url"


def plain_url(url: Any) -> str | None:
    """Return the URL in ASCII, or None if it may not be fetched: http or https, a host, no
    credentials.

    A host in other letters is written as the network knows it (IDNA), all else percent-encoded.
    """
    if not isinstance(url, str) or len(url) > MAX_URL_CHARS:
        return None
    text = url.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname
        if host and not host.isascii() and "@" not in parts.netloc:
            ascii_host = host.encode("idna").decode()
            text = parts._replace(
                netloc=ascii_host if port is None else f"{ascii_host}:{port}"
            ).geturl()
    except ValueError:
        return None
    if (
        parts.scheme.lower() not in ("http", "https")
        or not host
        or "@" in parts.netloc
        or port == 0
    ):
        return None
    if any(ord(char) < 33 or ord(char) == 127 for char in text.replace(" ", "")):
        return None
    return quote(text, safe=string.punctuation)
