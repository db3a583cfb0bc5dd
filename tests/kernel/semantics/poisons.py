"""What a container with NET_RAW can make others believe of addresses: for docs/frames.md."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable

from tests.kernel.semantics.stage import Stage, serial
from tests.lab import packets
from tests.lab.node import VETH_LINK_LOCAL, Layout, Node, Pod

_ALL_NODES, _ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
_OVERRIDE = 0x20000000
_TRUE_MAC = "02:00:00:00:00:01"


class Attack:
    """The pod ``a`` against the isolated pod ``s``, about the pod ``b``."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.bridged = stage.layout is Layout.BRIDGE
        self.attacker, self.victim, self.other = (stage.pods[name] for name in "asb")
        node = stage.near
        self.gateway4 = node.gateway4 if self.bridged else "169.254.1.1"
        self.gateway6 = node.gateway6 if self.bridged else VETH_LINK_LOCAL
        self.node_device = "cni0" if self.bridged else self.other.veth

    def send(self, kind: int, body: bytes, to: str, *, source: str = "") -> None:
        """Send a frame, from the attacker's hardware address unless it is given, and wait until it is in."""
        macs = bytes.fromhex((to + (source or self.attacker.mac)).replace(":", ""))
        packets.send_frame(self.attacker, macs + struct.pack("!H", kind) + body)
        self.stage.lab.settle()

    def arp(self, operation: int, address: str, target: str, to: str) -> None:
        """Say by ARP that an address is the attacker's."""
        own = bytes.fromhex(self.attacker.mac.replace(":", ""))
        body = struct.pack("!HHBBH", 1, 0x800, 6, 4, operation) + own + socket.inet_aton(address)
        self.send(0x806, body + bytes(6) + socket.inet_aton(target), to)

    def advertise(self, address: str, to: str, mac: str) -> None:
        """Say the same by neighbour discovery, from the attacker's own source."""
        own = bytes.fromhex(self.attacker.mac.replace(":", ""))
        body = struct.pack("!I", _OVERRIDE) + socket.inet_pton(socket.AF_INET6, address) + b"\x02\x01" + own
        self.send(packets.ETH_P_IPV6, packets.icmp(self.attacker.v6, to, 136, 0, body, hops=255), mac)

    def believed(self, who: Pod | Node, address: str, tell: Callable[[], None], device: str = "eth0") -> bool:
        """Whether somebody takes an address for the attacker's, after having known better."""
        who.netns.sysctl({f"net.ipv4.neigh.{device}.locktime": 0})
        who.netns.ip(f"neigh replace {address} lladdr {_TRUE_MAC} dev {device} nud stale")
        # An entry of this moment is not overwritten by a reply.
        self.stage.lab.settle()
        tell()
        shown = who.netns.run(("ip", "-j", "neigh", "show", address, "dev", device))
        who.netns.ip(f"neigh del {address} dev {device}")
        return any(entry.get("lladdr") == self.attacker.mac for entry in json.loads(shown))

    def arrives(self, at: Pod, packet: Callable[[bytes], bytes], mac: str) -> bool:
        """Whether a frame comes out of a pod's link."""
        tag = b"<tag-%08d>" % serial()
        with packets.sniff(at, tag) as found:
            self.send(packets.ETH_P_IP if packet(tag)[0] >> 4 == 4 else packets.ETH_P_IPV6, packet(tag), mac)
            return found.count() > 0

    def to_node(self) -> str:
        """Return the hardware address at which the attacker reaches its node."""
        return self.attacker.gateway_mac


def _arp_to_pod(a: Attack) -> bool:
    return a.believed(a.victim, a.other.v4, lambda: a.arp(2, a.other.v4, a.victim.v4, a.victim.mac))


def _arp_of_gateway(a: Attack) -> bool:
    return a.believed(a.victim, a.gateway4, lambda: a.arp(1, a.gateway4, a.gateway4, packets.BROADCAST_MAC))


def _arp_to_node(a: Attack) -> bool:
    def tell() -> None:
        a.arp(2, a.other.v4, a.gateway4, a.to_node())

    return a.believed(a.stage.near, a.other.v4, tell, a.node_device)


def _advertised_to_pod(a: Attack) -> bool:
    return a.believed(a.victim, a.other.v6, lambda: a.advertise(a.other.v6, a.victim.v6, a.victim.mac))


def _advertised_gateway(a: Attack) -> bool:
    return a.believed(a.victim, a.gateway6, lambda: a.advertise(a.gateway6, _ALL_NODES, _ALL_NODES_MAC))


def _advertised_to_node(a: Attack) -> bool:
    def tell() -> None:
        a.advertise(a.other.v6, a.gateway6, a.to_node())

    return a.believed(a.stage.near, a.other.v6, tell, a.node_device)


def _router(a: Attack) -> bool:
    source = "fe80::" + _interface_id(a.attacker.mac)

    def packet(tag: bytes) -> bytes:
        lifetimes = struct.pack("!BBHII", 64, 0, 1800, 0, 0)
        # An option of no known type, which receivers skip (RFC 4861, 4.6).
        return packets.icmp(
            source, _ALL_NODES, 134, 0, lifetimes + b"\xfd\x03" + tag + bytes(22 - len(tag)), hops=255
        )

    return a.arrives(a.other, packet, _ALL_NODES_MAC)


def _interface_id(mac: str) -> str:
    parts = bytearray.fromhex(mac.replace(":", ""))
    parts[0] ^= 2
    whole = parts[:3] + b"\xff\xfe" + parts[3:]
    return ":".join(whole[at : at + 2].hex() for at in range(0, 8, 2))


def _dhcp(a: Attack) -> bool:
    def packet(tag: bytes) -> bytes:
        return packets.udp(a.attacker.v4, a.other.v4, 68, tag, source_port=67)

    return a.arrives(a.other, packet, a.other.mac if a.bridged else a.to_node())


def _moved(a: Attack) -> bool:
    """Whether the bridge sends the attacker what is for another pod's hardware address."""
    tag = b"<tag-%08d>" % serial()
    a.send(0x88B5, b"\0" * 46, a.to_node(), source=a.other.mac)
    with packets.sniff(a.attacker, tag) as found:
        destination = a.other.mac if a.bridged else a.victim.gateway_mac
        packet = packets.udp(a.victim.v4, a.other.v4, 7, tag, source_port=serial())
        packets.send_frame(a.victim, packets.frame(a.victim.mac, destination, packet))
        a.stage.lab.settle()
        stolen = found.count() > 0
    # The owner has it back with its next frame.
    packets.send_frame(
        a.other, packets.frame(a.other.mac, a.to_node(), packets.udp(a.other.v4, a.gateway4, 7, tag))
    )
    a.stage.lab.settle()
    return stolen


POISONS: dict[str, Callable[[Attack], bool]] = {
    "ARP reply to a pod for another pod's address": _arp_to_pod,
    "gratuitous ARP for the gateway's address": _arp_of_gateway,
    "ARP reply to the node for another pod's address": _arp_to_node,
    "neighbour advertisement to a pod for another pod's address": _advertised_to_pod,
    "neighbour advertisement for the gateway's address": _advertised_gateway,
    "neighbour advertisement to the node for another pod's address": _advertised_to_node,
    "router advertisement": _router,
    "answer of a DHCP server to a pod that is not isolated": _dhcp,
    "another pod's hardware address as source: its traffic is led astray": _moved,
}


TRIES = 3
"""An address's owner may say something just then, and be believed again."""


def succeeds(stage: Stage) -> dict[str, str]:
    """Try each, until it succeeds; return "succeeds" or "fails"."""
    return {
        name: "succeeds" if any(attempt(Attack(stage)) for _ in range(TRIES)) else "fails"
        for name, attempt in POISONS.items()
    }
