"""The HTTP policy: which servers of strangers may be connected to, how much an answer may bring, and
for how long.

Each client applies it in the way of its library: `web.web_access` (images), `web.remote_store`
and `web.bounded_answer` (shards), `tracking_guard.bounded_http` (MLflow). Each bounds a whole answer in
time, counts its bytes as they come, and pauses as long as we say, whatever `Retry-After` asks for.
Addresses are checked where a connection is made, so for each redirect, and a name that resolves to
another address the second time gains nothing.
"""

import ipaddress
import socket
import string
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

MAX_URL_CHARS = 8_192
MAX_REDIRECTS = 5

PRIVATE_ADDRESS = "private_address"
TOO_MANY_BYTES = "too_many_bytes"
REFUSED_URL = "refused_url"

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NEVER_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "::/96",
            "::ffff:0:0:0/96",
            "fec0::/10",
            "64:ff9b:1::/48",
            "192.0.0.0/24",
            "168.63.129.16/32",
        ),
    )
)
"""What Python's table leaves out: IPv4 in its old wrappings, site-local addresses, translation
within a network, protocol assignments, and the address of Azure's services on each machine.
"""


class RefusedAccess(OSError):  # noqa: N818 - names what was met; its text begins with the reason for the ledger
    """A connection or an answer that the policy does not allow."""


class BoundedBody:
    """The body of an answer, taken part by part."""

    def __init__(self, max_bytes: int, announced: int = 0) -> None:
        """Begin.

        Args:
            announced: Length by the headers; one that is too large is not read at all.

        Raises:
            RefusedAccess: If it is.
        """
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._require(announced)

    def add(self, part: bytes) -> None:
        """Append a part.

        Raises:
            RefusedAccess: If all parts together are longer than allowed.
        """
        self._parts.append(part)
        self._size_bytes += len(part)
        self._require(self._size_bytes)

    def extend(self, parts: Iterable[bytes]) -> bytes:
        """Append parts; returns the whole. Errors as of `add`."""
        for part in parts:
            self.add(part)
        return self.whole()

    def whole(self) -> bytes:
        """All parts."""
        return b"".join(self._parts)

    def _require(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise RefusedAccess(f"{TOO_MANY_BYTES}: allowed are {self._max_bytes:,}")


def plain_url(url: Any) -> str | None:
    """The URL in ASCII, or None if it is none that may be fetched: http or https, a host, no
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
            known = host.encode("idna").decode()
            text = parts._replace(netloc=known if port is None else f"{known}:{port}").geturl()
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


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, as do those of IPv4 that it may wrap."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if any(found in network for network in _NEVER_PUBLIC):
        return False
    if isinstance(found, ipaddress.IPv6Address):
        wrapped = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in _NAT64:
            wrapped.append(ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF))
        if not all(is_public(str(inner)) for inner in wrapped if inner is not None):
            return False
        if found.ipv4_mapped is not None:
            return True
    return found.is_global and not found.is_multicast


def require_public(address: str, host: str = "") -> None:
    """Refuse to connect to an IP address, which `host` has resolved to.

    Raises:
        RefusedAccess: If it is not public.
    """
    if not is_public(address):
        raise RefusedAccess(f"{PRIVATE_ADDRESS}: {host or 'it'} is {address}")


def addresses_of(host: str, port: int | None = None) -> list[str]:
    """The IP addresses of a host; an OSError if it has none."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public_server(url: str) -> bool:
    """Whether a server is on the public internet and asked directly: it has no business in leading
    us elsewhere. Behind a proxy, addresses are the proxy's.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme in getproxies() and not proxy_bypass(host):
        return False
    try:
        return all(map(is_public, addresses_of(host)))
    except OSError:  # the request will say so
        return False


def connect_to_public(
    address: tuple[str, int], timeout: Any = None, source_address: Any = None
) -> socket.socket:
    """As `socket.create_connection`, to public addresses alone.

    Raises:
        RefusedAccess: If the host has none.
        OSError: If none of them answers.
    """
    host, port = address
    found = addresses_of(host, port)
    failure: OSError = RefusedAccess(f"{PRIVATE_ADDRESS}: {host} is {', '.join(found[:3])}")
    for where in filter(is_public, found):
        try:
            return socket.create_connection((where, port), timeout, source_address)
        except OSError as error:
            failure = error
    raise failure
