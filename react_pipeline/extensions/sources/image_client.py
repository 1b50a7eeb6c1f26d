"""The client for images at addresses that strangers wrote.

A table of URLs could make this machine call services of its own network (server-side request
forgery), and a server may send anything for as long as it likes. So each connection goes to an
address that was checked, at each redirect; each answer has a deadline and a size; what servers say
to robots is obeyed. Does not belong here: what makes an image usable (`downloads`), shards at
addresses that the user wrote (`corpus`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from urllib.robotparser import RobotFileParser

import httpx

from react_pipeline import __version__
from react_pipeline.corpus import BadImage
from react_pipeline.settings import DownloadConfig
from react_pipeline.web_policy import REFUSED_URL, plain_url

PRIVATE_ADDRESS = "private_address"

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""The part of IPv6 that servers of the internet are in; elsewhere are wrapped addresses of IPv4."""
_NEVER_PUBLIC = tuple(map(ipaddress.ip_network, ("2002::/16", "192.0.0.0/24", "168.63.129.16/32")))
"""Networks that Python's table leaves out: IPv4 wrapped by 6to4, protocol assignments, and the
address of Azure's services on each machine.
"""

MAX_REDIRECTS = 5
MAX_RESPONSE_BYTES = 32 << 20
ROBOT = "react-pipeline"
"""How `robots.txt` and `X-Robots-Tag` may name us."""
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
_WITH_VALUES = frozenset(
    {"max-image-preview", "max-snippet", "max-video-preview", "unavailable_after"}
)
"""Directives of `X-Robots-Tag` that have a colon and a value, as a robot has its directives."""
MAX_ROBOTS_CHARS = 500 << 10
"""Of a `robots.txt`; what comes after is not read (RFC 9309)."""
MAX_SERVERS = 1_000
"""Whose `robots.txt` is remembered."""
_ROBOTS_PATH = "/robots.txt"


class ImageClient:
    """A client of httpx for one event loop."""

    def __init__(self, settings: DownloadConfig) -> None:
        """Connect to nothing yet.

        Args:
            settings: With `allow_private_addresses`, any address is connected to, and the proxies
                of the environment are used: behind a proxy an address cannot be checked.
        """
        # No connection is used twice: one address may serve many names.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        only_public = not settings.allow_private_addresses
        self._seconds = settings.timeout_seconds
        self._robots: dict[str, asyncio.Task[RobotFileParser]] = {}
        self._client = httpx.AsyncClient(
            transport=PublicTransport(limits=limits) if only_public else None,
            limits=limits,
            timeout=None,  # noqa: S113 - `get` has a deadline as a whole
            follow_redirects=False,  # the client would read the body of each redirect
            # A few bytes of gzip may be gigabytes.
            headers={"User-Agent": f"{ROBOT}/{__version__}", "Accept-Encoding": "identity"},
        )
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(self, url: str, *, obey: bool = True) -> bytes:
        """Return what is at a URL.

        Args:
            obey: What the server says to robots; not while that is asked for.

        Raises:
            BadImage: If it is not available, with the reason for the ledger.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._read(url, obey=obey)
        except BadImage:
            raise
        except Exception as error:  # a server may make the libraries raise nearly anything
            detail = " ".join(str(error).split())[:200] or type(error).__name__
            raise BadImage(_reason(error), detail) from error

    async def _read(self, url: str, *, obey: bool) -> bytes:
        """Follow redirects, each of which address or `robots.txt` may forbid."""
        request = self._client.build_request("GET", url)
        for _ in range(MAX_REDIRECTS + 1):
            url = str(request.url)
            if plain_url(url) is None:
                raise BadImage(REFUSED_URL, f"redirected to {url[:200]!r}")
            if obey:
                rules = await self._robots_at(str(request.url.join(_ROBOTS_PATH)))
                if not rules.can_fetch(ROBOT, url):
                    raise BadImage("disallowed_by_robots", "robots.txt")
            answer = await self._client.send(request, stream=True)
            try:
                if answer.next_request is None:
                    if not answer.is_success:
                        raise BadImage(f"http_{answer.status_code}", answer.reason_phrase[:200])
                    if obey and opts_out(answer.headers):
                        raise BadImage("disallowed_by_header", "X-Robots-Tag")
                    return await _body(answer)
            finally:
                await answer.aclose()
            request = answer.next_request
        raise BadImage("unreachable", f"more than {MAX_REDIRECTS} redirects")

    async def _robots_at(self, address: str) -> RobotFileParser:
        if address not in self._robots:
            if len(self._robots) >= MAX_SERVERS:
                del self._robots[next(iter(self._robots))]
            self._robots[address] = asyncio.ensure_future(self._load_robots(address))
        # Many images wait for it, each with a deadline of its own.
        return await asyncio.shield(self._robots[address])

    async def _load_robots(self, address: str) -> RobotFileParser:
        try:
            text = (await self.get(address, obey=False)).decode("utf-8-sig", errors="replace")
        except BadImage as error:
            if not error.reason.startswith("http_4"):
                # A server that does not answer may do so at the next attempt.
                self._robots.pop(address, None)
                raise
            text = ""
        rules = RobotFileParser()
        rules.parse(text[:MAX_ROBOTS_CHARS].splitlines())
        return rules


class PublicTransport(httpx.AsyncHTTPTransport):
    """Connects to the addresses that were checked: a name that resolves to another one the second
    time gains nothing.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the first public address that accepts a connection.

        Raises:
            BadImage: If the host has no public address.
        """
        host = request.url.raw_host.decode("ascii")  # `host` would be in other letters again
        *others, last = await public_addresses(host, request.url.port)
        for address in others:
            with suppress(httpx.ConnectError):
                return await super().handle_async_request(_pinned(request, address))
        return await super().handle_async_request(_pinned(request, last))


async def public_addresses(host: str, port: int | None) -> list[str]:
    """Return the public IP addresses of a host.

    Raises:
        BadImage: With reason `private_address`, if it has none.
        OSError: If it has no address at all.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    public = list(filter(is_public, addresses))
    if not public:
        raise BadImage(PRIVATE_ADDRESS, f"{host} is {', '.join(addresses[:3])}")
    return public


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if any(ip in network for network in _NEVER_PUBLIC):
        return False
    return ip.is_global and not ip.is_multicast and (ip.version == 4 or ip in _GLOBAL_UNICAST)


def _pinned(request: httpx.Request, address: str) -> httpx.Request:
    # The header `Host` stays, and so does the name that the certificate must have.
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.raw_host.decode("ascii")},
    )


async def _body(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for part in answer.aiter_raw():
        body += part
        if len(body) > MAX_RESPONSE_BYTES:
            raise BadImage("too_many_bytes", f"allowed are {MAX_RESPONSE_BYTES:,}")
    return bytes(body)


def opts_out(headers: httpx.Headers) -> bool:
    """Return whether an answer asks all robots, or ours, not to use it (`X-Robots-Tag`)."""
    for value in headers.get_list("X-Robots-Tag"):
        robot = ""
        for part in value.lower().split(","):
            name, colon, rule = map(str.strip, part.partition(":"))
            if name in _WITH_VALUES:
                continue
            if not colon:
                rule = name
            elif " " not in name:  # else it is the time of a date
                robot = name
            if robot in ("", ROBOT) and rule in OPT_OUTS:
                return True
    return False


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if "CERTIFICATE" in str(error):
        return "bad_certificate"
    return "truncated" if "complete message body" in str(error) else "unreachable"
