"""How many connections each address has: no visitor takes all that the service has."""

import ipaddress
from collections import Counter
from collections.abc import Sequence
from typing import Final

from starlette.types import Receive, Scope, Send

from imprint.messages import Bilingual
from imprint.serve.store.addresses import ADDRESSES_A_SITE, visitor_address, visitor_network
from imprint.serve.web.errors import ApiError
from imprint.serve.web.settings import is_loopback

MAX_CONNECTIONS: Final = 4096
"""More than these are answered with 503 at once."""
MAX_PER_ADDRESS: Final = MAX_CONNECTIONS // 8
"""Most of them from one address, and four times as many from a site of IPv6 (/48); more are closed. A proxy, and this machine, have all."""
TOO_MANY_CONNECTIONS: Final = Bilingual(
    "The service has too many connections at this moment; try again.", "服务此刻的连接过多，请稍后再试。"
)


class ConnectionLimiter:
    """Counts the open connections by the address that they come from."""

    def __init__(self, proxies: Sequence[str] = ()) -> None:
        self._proxies = [ipaddress.ip_network(proxy, strict=False) for proxy in proxies]
        self._counts: Counter[str] = Counter()
        self._site_counts: Counter[str] = Counter()

    def admit(self, address: str) -> bool:
        """Count a connection; whether it may stay open."""
        visitor, site = visitor_address(address), visitor_network(address)
        self._counts[visitor] += 1
        self._site_counts[site] += 1
        are_few = self._counts[visitor] <= MAX_PER_ADDRESS and self._site_counts[site] <= ADDRESSES_A_SITE * MAX_PER_ADDRESS
        return are_few or is_loopback(address) or self._is_proxy(address)

    def release(self, address: str) -> None:
        """Count a connection no more."""
        for counts, key in ((self._counts, visitor_address(address)), (self._site_counts, visitor_network(address))):
            counts[key] -= 1
            if not counts[key]:
                del counts[key]

    @property
    def is_full(self) -> bool:
        """Whether there are more than the service has."""
        return self._counts.total() > MAX_CONNECTIONS

    def _is_proxy(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)


def unmapped_address(address: str) -> str:
    """An address without the form in which a socket for IPv6 names one of IPv4."""
    try:
        mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    except ValueError:
        return address
    return address if mapped is None else str(mapped)


async def reject(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of a connection that is too many."""
    await ApiError("engine_unavailable", TOO_MANY_CONNECTIONS, headers={"Connection": "close"}).response(None)(scope, receive, send)
