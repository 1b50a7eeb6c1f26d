"""Public addresses: which servers of strangers may be connected to.

Addresses are checked where a connection is made, so for each redirect, and a name that resolves to
another address the second time gains nothing.
"""

import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from react_pipeline.extensions.web.bounded_body import RefusedAccess

PRIVATE_ADDRESS = "private_address"

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


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, as do those of IPv4 that it may
    wrap.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if any(ip in network for network in _NEVER_PUBLIC):
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            wrapped.append(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF))
        if not all(is_public(str(inner)) for inner in wrapped if inner is not None):
            return False
    return ip.is_global and not ip.is_multicast


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
    addresses = addresses_of(host, port)
    failure: OSError = RefusedAccess(f"{PRIVATE_ADDRESS}: {host} is {', '.join(addresses[:3])}")
    for where in filter(is_public, addresses):
        try:
            return socket.create_connection((where, port), timeout, source_address)
        except OSError as error:
            failure = error
    raise failure
