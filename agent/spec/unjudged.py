"""Addresses that name no host of a network: what packets from or to them meet in place of policy."""

from __future__ import annotations

import ipaddress

from agent.net import address_text

_ON_A_BRIDGE = (
    "between ports of a bridge it is dropped while the node has isolated pods, whatever policies say"
)


def never_judged(address: bytes) -> str:
    """Say why no policy ever meets a packet from or to an address; "" when one may."""
    one = ipaddress.ip_address(address)
    if one.is_loopback:
        return (
            f"{address_text(address)} is a loopback address: what is sent there stays in the pod, "
            "and no policy judges it"
        )
    if one.is_unspecified or one in _THIS_NETWORK:
        return f"{address_text(address)} is no host's address; ask about the address that is meant"
    return ""


def not_only_judged(address: bytes) -> str:
    """Say what else than policy decides about packets from or to an address; "" when nothing does.

    It is what docs/semantics.md says of bridges and of a pod's own node.
    """
    one, text = ipaddress.ip_address(address), address_text(address)
    if one.is_multicast:
        return f"{text} is a multicast address: {_ON_A_BRIDGE}"
    if one == _BROADCAST:
        return f"{text} is the broadcast address: {_ON_A_BRIDGE}, and no router forwards it"
    if one.is_link_local:
        routed = ", and no router forwards it" if one.version == 6 else ""
        return (
            f"{text} is a link-local address: {_ON_A_BRIDGE}{routed}; where it is the node's own, what the "
            "node's pods send there is never judged"
        )
    return ""


_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_BROADCAST = ipaddress.ip_address("255.255.255.255")
