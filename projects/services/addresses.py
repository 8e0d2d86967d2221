"""Which addresses Ratchet may call by itself: public ones, and those that the operator allows.

Whoever may name an endpoint could otherwise have us knock on doors that only we can reach: the engine, a
cloud's metadata, the operator's own network.
"""

from __future__ import annotations

import ipaddress
import socket

from django.conf import settings

from projects.errors import Invalid

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PrivateAddress(Invalid):
    """The host is, or resolves to, an address that only this machine or its network reaches."""

    code = "private_address"

    def __init__(self, host: str) -> None:
        super().__init__(
            f"{host[:200]} is no public address. An operator can allow its network in WEBHOOK_NETWORKS.",
            param="url",
        )


def refuse_private(host: str) -> None:
    """For an address that is written out, or a name that is always this machine. Names are resolved later."""
    try:
        literal: Address | None = ipaddress.ip_address(host)
    except ValueError:
        literal = None
        # What inet_aton takes for an address: 127.1, 2130706433, 0x7f.1
        try:
            literal = ipaddress.ip_address(socket.inet_aton(host))
        except OSError:
            if host.rstrip(".").lower() == "localhost" or host.lower().endswith(".localhost"):
                literal = ipaddress.ip_address("127.0.0.1")
    if literal is not None and not is_allowed(literal):
        raise PrivateAddress(host)


def resolve_public(host: str, port: int) -> str:
    """The address to connect to. All that the name resolves to must be allowed.

    Raises PrivateAddress, and OSError when the name leads nowhere. Who connects uses exactly this address, so
    that a second look-up cannot give another one.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    for address in addresses:
        if not is_allowed(ipaddress.ip_address(address)):
            raise PrivateAddress(host)
    return addresses[0]


def is_allowed(address: Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if mapped is not None:
        address = mapped
    if any(address in ipaddress.ip_network(network) for network in settings.WEBHOOK_NETWORKS):
        return True
    return address.is_global and not address.is_multicast
