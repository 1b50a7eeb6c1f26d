"""Public addresses: which servers of strangers may be connected to."""

import asyncio
import ipaddress
import socket

from react_pipeline.corpus import BadImage

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
    """Return whether an IP address belongs to the public internet, as do those of IPv4 that it may
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
