"""Access to web servers named by strangers: what may be connected to, how much is read, for how
long.

A table of URLs could make this machine call services of its own network (server-side request
forgery). So the address is checked where the connection is made, after names are resolved and for
every redirect: a name that resolves to another address the second time gains nothing.
"""

import http.client
import io
import ipaddress
import socket
import string
import time
import urllib.error
import urllib.request
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

MAX_RESPONSE_BYTES = 32 << 20
"""A larger answer is dropped unread."""
MAX_URL_CHARS = 8_192
MAX_REDIRECTS = 5

PRIVATE_ADDRESS = "private_address"
TOO_MANY_BYTES = "too_many_bytes"
REFUSED_URL = "refused_url"

_READ_AT_ONCE_BYTES = 1 << 20
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
    """A connection or an answer that the guard does not allow."""


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


def guarded_opener(*, allow_private_addresses: bool) -> urllib.request.OpenerDirector:
    """What `urllib.request.urlopen` uses once it is installed: http and https only, nothing of this
    host's files.

    With `allow_private_addresses` any address is connected to, and the proxies of the environment
    are used. Without, connections go to public addresses, directly: behind a proxy an address could
    not be checked.
    """
    opener = urllib.request.OpenerDirector()
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.ProxyHandler(None if allow_private_addresses else {}),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        _Web(only_public=not allow_private_addresses),
    ]
    for handler in handlers:
        opener.add_handler(handler)
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if plain_url(newurl) is None:
            raise RefusedAccess(f"{REFUSED_URL}: redirected to {newurl[:200]!r}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Web(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self, *, only_public: bool) -> None:
        super().__init__()
        self._only_public = only_public

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connection, only_public=self._only_public), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_TlsConnection, only_public=self._only_public), req)


class _Response(http.client.HTTPResponse):
    """An answer that ends after the connection's time-out as a whole, not per packet, and holds no
    more than it may.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_DeadlineReader(sock, self.fp.detach(), sock.gettimeout()))

    def read(self, amt: int | None = None) -> bytes:
        if amt is not None:
            return super().read(amt)
        parts = []
        # An answer that announces too much is not read at all.
        announced = self.length or 0
        size_bytes = announced if announced > MAX_RESPONSE_BYTES else 0
        while size_bytes <= MAX_RESPONSE_BYTES and (part := super().read(_READ_AT_ONCE_BYTES)):
            parts.append(part)
            size_bytes += len(part)
        if size_bytes > MAX_RESPONSE_BYTES:
            raise RefusedAccess(f"{TOO_MANY_BYTES}: allowed are {MAX_RESPONSE_BYTES:,}")
        if self.length:
            raise http.client.IncompleteRead(b"", self.length)
        return b"".join(parts)


class _DeadlineReader(io.RawIOBase):
    def __init__(
        self, sock: socket.socket, raw: io.RawIOBase, timeout_seconds: float | None
    ) -> None:
        self._sock = sock
        self._raw = raw
        self._deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Guarded:
    response_class: Any = _Response

    def __init__(self, *args: Any, only_public: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if only_public:
            self._create_connection = _connect_to_public


class _Connection(_Guarded, http.client.HTTPConnection):
    pass


class _TlsConnection(_Guarded, http.client.HTTPSConnection):
    pass


def _connect_to_public(
    address: tuple[str, int], timeout: Any = None, source_address: Any = None
) -> socket.socket:
    host, port = address
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    failure: OSError = RefusedAccess(f"{PRIVATE_ADDRESS}: {host} is {', '.join(found[:3])}")
    for where in filter(is_public, found):
        try:
            return socket.create_connection((where, port), timeout, source_address)
        except OSError as error:
            failure = error
    raise failure
