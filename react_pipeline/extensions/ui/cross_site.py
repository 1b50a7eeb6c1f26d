"""Cross-site requests: which requests of a browser a server on loopback refuses, by their headers.

A server without a password trusts whoever reaches it, and its user's browser can reach it on behalf
of any page they visit. Programs such as `curl` send none of these headers but `Host`, so they are
not refused.
"""

import re
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

LOOPBACK_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)
"""Names by which a browser on this machine calls it, at any port: a tunnel has another one."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def url_origin(url: str) -> str:
    """Scheme, name and port of an address, as the header `Origin` has them; "" for what is not a
    web address.
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower() if parts.scheme in ("http", "https") else ""


def refusal(method: str, header: Callable[[str], str | None], allowed: Collection[str] = ()) -> str:
    """Why a request is refused; "" if it is not.

    Args:
        method: The HTTP method; `GET` for a websocket.
        header: Gives a header of the request by its name, whatever its case.
        allowed: Origins such as `https://your.host:8300` by which browsers find this server behind
            a proxy.
    """
    host = (header("Host") or "").lower()
    if not LOOPBACK_HOST.fullmatch(host) and host not in {
        origin.partition("://")[2] for origin in allowed
    }:
        # A name of another site that leads here: DNS rebinding.
        return f"host {host!r} is not allowed: ask for 127.0.0.1 or localhost"
    origin = header("Origin")
    if origin is not None and origin.lower() not in {f"http://{host}", f"https://{host}", *allowed}:
        return f"origin {origin!r} is not allowed: a page of another site may not ask here"
    site = header("Sec-Fetch-Site")
    navigation = (header("Sec-Fetch-Mode"), header("Sec-Fetch-Dest")) == ("navigate", "document")
    if site not in (None, "same-origin", "none") and not (navigation and method in SAFE_METHODS):
        return f"a {site} request is not allowed, except to open a page by a link"
    return ""
