"""From the addresses that random clusters are made of to addresses that packets can be sent to.

Random pods have 0.0.0.1 and 255.255.255.255, where corners are; no packet goes there. What matters of an
address is only which networks hold it with which other addresses, so the whole address space is turned by a
map that keeps every common prefix: networks stay networks of the same length, and hold the same pods.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.kube.model import IPBlock, NetworkPolicy, Object, Peer, Pod, Rule
from agent.net import Network
from tests.build import packed
from tests.property.networks import network_of

IMAGES = tuple(
    (packed(one), packed(other))
    for one, other in (
        ("0.0.0.1", "2.0.0.1"),
        ("10.0.0.1", "10.244.1.9"),
        ("10.0.0.2", "10.244.1.10"),
        ("10.0.0.3", "10.244.1.11"),
        ("10.0.0.4", "10.244.1.12"),
        ("10.0.0.127", "10.244.1.127"),
        ("10.0.0.128", "10.244.1.128"),
        ("10.0.1.1", "10.244.0.9"),
        ("127.255.255.255", "111.255.255.255"),
        ("128.0.0.0", "128.0.0.0"),
        ("255.255.255.255", "223.255.255.255"),
        ("::1", "2000::1"),
        ("fd00::1", "fd00:10:244:1::9"),
        ("fd00::2", "fd00:10:244:1::a"),
        ("fd00::3", "fd00:10:244:1::b"),
        ("fd00::4", "fd00:10:244:1::c"),
        ("fd00::7fff", "fd00:10:244:1::7fff"),
        ("fd00::8000", "fd00:10:244:1::8000"),
        ("fd00:0:0:1::1", "fd00:10:244::9"),
        ("7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "6fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("8000::", "8000::"),
    )
)
"""Each address of random pods and what becomes of it. First and last of networks stay first and last."""


def common_prefix(one: bytes, other: bytes) -> int:
    """Return the number of leading bits that two addresses of one family share."""
    difference = int.from_bytes(one) ^ int.from_bytes(other)
    return 8 * len(one) - difference.bit_length()


def image(address: bytes) -> bytes:
    """Return what becomes of an address: as :data:`IMAGES` say, and near them what is as near to theirs."""
    nearest = max(
        (pair for pair in IMAGES if len(pair[0]) == len(address)),
        key=lambda pair: common_prefix(pair[0], address),
    )
    bits = int.from_bytes(address) ^ int.from_bytes(nearest[0]) ^ int.from_bytes(nearest[1])
    return bits.to_bytes(len(address))


def relabelled(objects: Sequence[Object]) -> tuple[Object, ...]:
    """Return a cluster's objects with the images of all addresses and networks."""
    return tuple(_object(found) for found in objects)


def _object(found: Object) -> Object:
    if isinstance(found, Pod):
        return msgspec.structs.replace(found, addresses=tuple(map(image, found.addresses)))
    if isinstance(found, NetworkPolicy):
        return msgspec.structs.replace(found, ingress=_rules(found.ingress), egress=_rules(found.egress))
    return found


def _rules(rules: tuple[Rule, ...] | None) -> tuple[Rule, ...] | None:
    if rules is None:
        return None
    return tuple(Rule(tuple(map(_peer, rule.peers)), rule.ports) for rule in rules)


def _peer(peer: Peer) -> Peer:
    if peer.block is None:
        return peer
    cidr, excepts = peer.block
    return peer._replace(block=IPBlock(_network(cidr), tuple(sorted(map(_network, excepts)))))


def _network(network: Network) -> Network:
    return network_of(image(network.address), network.prefix)
