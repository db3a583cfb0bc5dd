"""Services as kube-proxy's iptables mode writes them in a node's own rules."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from agent.net import Family, Protocol
from tests.lab.node import Node
from tests.lab.place import Place

MASQUERADE_MARK = "0x4000"

_NAT = f"""*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark {MASQUERADE_MARK}/{MASQUERADE_MARK}
-A KUBE-POSTROUTING -m mark ! --mark {MASQUERADE_MARK}/{MASQUERADE_MARK} -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark {MASQUERADE_MARK}/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark {MASQUERADE_MARK}/{MASQUERADE_MARK} -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""


@dataclass(frozen=True)
class Service:
    """A Service: one cluster address per family, and its port on each endpoint.

    ``number`` tells it from others and makes its addresses: 10.96.0.0/16 and fd00:10:96::/112.
    """

    number: int
    protocol: Protocol
    port: int
    target_port: int
    endpoints: tuple[Place, ...]

    def address(self, family: Family) -> str:
        base = "10.96.0.0" if family is Family.V4 else "fd00:10:96::"
        return str(ipaddress.ip_address(base) + 10 + self.number)

    def rules(self, family: Family) -> str:
        """Return its chains and rules, as iptables-restore reads them."""
        chain = f"KUBE-SVC-{self.number}"
        protocol = self.protocol.name.lower()
        lines = [f":{chain} - [0:0]"]
        jumps = []
        for index, pod in enumerate(self.endpoints):
            endpoint, address = f"KUBE-SEP-{self.number}-{index}", pod.address(family)
            left = len(self.endpoints) - index
            chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
            to = f"{address}:{self.target_port}" if family is Family.V4 else f"[{address}]:{self.target_port}"
            lines.append(f":{endpoint} - [0:0]")
            jumps += [
                f"-A {chain} {chance}-j {endpoint}",
                f"-A {endpoint} -s {address} -j KUBE-MARK-MASQ",
                f"-A {endpoint} -p {protocol} -m {protocol} -j DNAT --to-destination {to}",
            ]
        jumps.append(f"-A {self._portal(family)}")
        return "\n".join(["*nat", *lines, *jumps, "COMMIT", ""])

    def _portal(self, family: Family) -> str:
        protocol = self.protocol.name.lower()
        match = f"-d {self.address(family)} -p {protocol} -m {protocol} --dport {self.port}"
        return f"KUBE-SERVICES {match} -j KUBE-SVC-{self.number}"

    def removal(self, family: Family) -> str:
        """Return what takes :meth:`rules` away, as iptables-restore reads it."""
        endpoints = [f"KUBE-SEP-{self.number}-{index}" for index in range(len(self.endpoints))]
        chains = [f"KUBE-SVC-{self.number}", *endpoints]
        lines = [f"-D {self._portal(family)}", *(f"-F {c}" for c in chains), *(f"-X {c}" for c in chains)]
        return "\n".join(["*nat", *lines, "COMMIT", ""])


def install_kube_proxy(node: Node, services: Sequence[Service] = ()) -> None:
    """Give a node kube-proxy's rules, in its own iptables mode and both families. Once per node."""
    for family in Family:
        node.iptables_restore(family, _NAT)
    for service in services:
        add_service(node, service)


def add_service(node: Node, service: Service) -> None:
    """Add a Service to a node that has kube-proxy's rules."""
    for family in Family:
        node.iptables_restore(family, service.rules(family))


def remove_service(node: Node, service: Service) -> None:
    """Remove a Service from a node."""
    for family in Family:
        node.iptables_restore(family, service.removal(family))
