"""Which addresses of the network are open to everybody."""

from ipaddress import IPv4Address, IPv6Address, ip_network

EMBEDDING = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"), ip_network("2002::/16"), ip_network("2001::/32"))
"""IPv6 addresses that lead on to an IPv4 address, which may be any."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Is this the address of a machine on the open internet?"""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in EMBEDDING):
            return False
    return address.is_global and not address.is_multicast
