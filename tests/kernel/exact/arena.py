"""Where clusters are programmed and packets sent: made once, with fixed places that every cluster is put on.

Two nodes, ``here`` policed and ``there`` not, and a pod for each address that random clusters use, on one
or the other, whatever a cluster's objects say of it: an address that no object claims is a stranger's. Behind
the underlay is the rest of the world: one host that has every other address that is asked about.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agent.net import Protocol, address_text, family_of
from agent.spec.verdict import Packet
from tests.build import packed
from tests.lab.lab import Lab
from tests.lab.node import Layout, Node
from tests.lab.place import Place
from tests.lab.probe import Flow, Verdict
from tests.property.words import HERE

# Pods of here first; the last is another node's though its addresses lie in the range of here.
_HERE = (
    ("2.0.0.0", "2000::"),
    ("10.244.1.9", "fd00:10:244:1::9"),
    ("10.244.1.10", "fd00:10:244:1::a"),
    ("10.244.1.11", "fd00:10:244:1::b"),
    ("10.244.1.12", "fd00:10:244:1::c"),
    ("10.244.1.127", "fd00:10:244:1::7fff"),
    ("128.0.0.0", "8000::"),
)
_THERE = (
    ("10.244.0.9", "fd00:10:244::9"),
    ("111.255.255.255", "6fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("223.255.255.255", "fd00:10:244:2::c"),
    ("10.244.1.128", "fd00:10:244:1::8000"),
)

PORTS = (
    *(1, 2, 9, 52, 53, 54, 79, 80, 81, 82, 83, 84, 85, 86, 89, 90, 91),
    # Edges of long lists of ports.
    *(999, 1000, 1001, 1002, 1009, 1010, 1011, 1012, 1033, 1034, 1035, 1036, 1037, 1041, 1042, 1043),
    *(1044, 1045, 1046, 1047, 1089, 1090, 1091),
    *(8079, 8080, 8081, 8082, 65533, 65534, 65535),
)
"""What every place answers on, TCP, UDP and SCTP: the edges of every port and range of random clusters."""

_OPEN = 80
"""The port by which it is shown that addresses can reach each other."""

_UNUSABLE = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.244.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "172.18.0.0/16", "224.0.0.0/3"),
        *("::/16", "fd00:10:244::/48", "fd00:172:18::/64", "fe80::/9", "ff00::/8"),
    )
)
"""Where no stranger can be: what is on a node's own links, and what is never routed."""


class Ends(NamedTuple):
    """Addresses that packets can go between. ``near`` are those of pods on the policed node."""

    near: tuple[bytes, ...]
    far: tuple[bytes, ...]


class Arena:
    """A lab of one layout; a context manager that leaves nothing behind."""

    def __init__(self, layout: Layout | str) -> None:
        self.layout = Layout(layout)
        self._stack = contextlib.ExitStack()
        with self._stack:
            self.lab = self._stack.enter_context(Lab())
            self.here: Node = self.lab.node(HERE, self.layout)
            there = self.lab.node("there", self.layout)
            self._places: dict[bytes, Place] = {}
            for node, pods in ((self.here, _HERE), (there, _THERE)):
                for number, addresses in enumerate(pods):
                    pod = self.lab.pod(node, f"{node.name}-{number}", addresses)
                    self._places |= {packed(address): pod for address in addresses}
            self.ends = Ends(
                tuple(packed(address) for pair in _HERE for address in pair),
                tuple(packed(address) for pair in (*_THERE, (there.v4, there.v6)) for address in pair),
            )
            self._places |= {packed(there.v4): there, packed(there.v6): there}
            self._world = self.lab.host("world")
            self.lab.underlay.ip(
                f"route add default via {self._world.v4}", f"route add default via {self._world.v6}"
            )
            self._strangers: set[bytes] = set()
            for place in {*self._places.values(), self._world}:
                self.lab.serve(place, tcp=PORTS, udp=PORTS, sctp=PORTS)
            self.lab.serve(self.here, tcp=[_OPEN])
            self.lab.pin_neighbours()
            self._prove_open()
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def kernel(self) -> Iterator[None]:
        """Be on the policed node, as the agent is."""
        with self.here.netns.acted_in():
            yield

    def reaches(self, address: bytes) -> bool:
        """Whether packets can come from an address and go there."""
        return address in self._places or not any(
            ipaddress.ip_address(address) in network for network in _UNUSABLE
        )

    def probe(self, packets: Sequence[Packet]) -> list[Verdict]:
        """Send each packet as the first of a new connection; return what became of them."""
        ends = {end for packet in packets for end in packet[:2]}
        self._settle_strangers(ends - self._places.keys() - self._strangers)
        return self.lab.probe([self._flow(packet) for packet in packets], grace=0.002)

    def _settle_strangers(self, new: set[bytes]) -> None:
        if new:
            self._world.netns.ip(
                *(f"addr add {address_text(a)}/{8 * len(a)} dev lo{' nodad' * (len(a) == 16)}" for a in new)
            )
            self._strangers |= new
            # The policed node itself is never judged: it shows that packets find their way there and back.
            wanted = [Flow(self.here, address_text(a), Protocol.TCP, _OPEN) for a in new]
            wanted += [
                Flow(self._world, self.here.address(family_of(a)), Protocol.TCP, _OPEN, address_text(a))
                for a in new
            ]
            self.lab.wait_for(dict.fromkeys(wanted, Verdict.ALLOWED))

    def _prove_open(self) -> None:
        """Show, before there is any policy, that nothing else stops a packet between pods."""
        pairs = [
            ends
            for near in self.ends.near
            for other in self.ends.near + self.ends.far
            if len(near) == len(other) and near != other
            for ends in ((near, other), (other, near))
        ]
        flows = [self._flow(Packet(*ends, Protocol.TCP, _OPEN)) for ends in pairs]
        self.lab.wait_for(dict.fromkeys(flows, Verdict.ALLOWED))

    def _flow(self, packet: Packet) -> Flow:
        source, destination = address_text(packet.source), address_text(packet.destination)
        place = self._places.get(packet.source)
        return Flow(place or self._world, destination, Protocol(packet.protocol), packet.port, source)
