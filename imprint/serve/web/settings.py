"""How the service is reached, and what is switched on."""

import ipaddress
from dataclasses import dataclass
from typing import Final

LOOPBACK_NAMES: Final = frozenset({"localhost", "ip6-localhost"})


@dataclass(frozen=True)
class WebSettings:
    """What the routes need to know about the outside."""

    host: str = "127.0.0.1"
    """The address that is listened on."""
    hosts: tuple[str, ...] = ()
    """Names under which the service is reached, beside addresses."""
    proxies: tuple[str, ...] = ()
    """Addresses of reverse proxies whose X-Forwarded-For and -Proto are believed."""
    guest: bool = False
    """Whether a guest may also come from elsewhere than this machine."""
    legacy: bool = False
    """Whether the form of 2023, `POST /`, is served."""
    grace: float = 10.0
    """Seconds that running answers have after the signal to end."""

    @property
    def public(self) -> bool:
        """Whether anybody but the users of this machine may reach the service."""
        return not is_loopback(self.host) or bool(self.proxies) or any(not is_loopback(name) for name in self.hosts)

    def allows_host(self, value: str) -> bool:
        """Whether a request may name this host: a browser that was led here by a foreign name (DNS rebinding) names that one.

        An address cannot be rebound; on loopback only those of loopback are ours.
        """
        name = host_name(value)
        if name is None:
            return False
        if name in LOOPBACK_NAMES or name in {host.lower().rstrip(".") for host in self.hosts}:
            return True
        return is_loopback(name) or (self.public and is_address(name))


def host_name(value: str) -> str | None:
    """The name or address of a Host header, without its port, in small letters; None where it is none."""
    text = value.strip().lower()
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        return name if bracket and is_address(name) and _is_port(rest) else None
    name, colon, port = text.partition(":")
    return name.rstrip(".") if name and _is_port(colon + port) else None


def _is_port(text: str) -> bool:
    return text == "" or (text.startswith(":") and text[1:].isascii() and text[1:].isdigit() and len(text) <= 6)


def is_address(name: str) -> bool:
    """Whether this is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether this address or name is of this machine alone."""
    if not is_address(name):
        return name in LOOPBACK_NAMES
    address = ipaddress.ip_address(name)
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)
