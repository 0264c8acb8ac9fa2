"""Addresses of visitors: what counts as one visitor's."""

import ipaddress
from typing import Final

IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that a provider gives to one customer, who may use any address below them."""
IPV6_SITE_PREFIX: Final = 48
"""Bits of an IPv6 address that a provider gives to one site at most: whoever has one has 65,536 of the networks above."""
ADDRESSES_A_SITE: Final = 4
"""As how many visitors' addresses all those of a site count together."""
MAX_UNKNOWN: Final = 45


def visitor_address(address: str) -> str:
    """The address by which tries and quotas are counted: an IPv4 address, or the first half of an IPv6 one."""
    return _network(address, IPV6_PREFIX)


def visitor_network(address: str) -> str:
    """The network by which tries and quotas are counted, too: an IPv4 address, or the first 48 bits of an IPv6 one."""
    return _network(address, IPV6_SITE_PREFIX)


def _network(address: str, prefix: int) -> str:
    """An IPv4 address, or so many bits of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:MAX_UNKNOWN]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, prefix), strict=False))
