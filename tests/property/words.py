"""What random clusters are made of: small pools, so that names, labels and addresses meet often."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from agent.kube.model import Operator, Requirement
from agent.net import Protocol

HERE = "here"
"""The node that the tests compile for."""
THERE = "there"
"""The other node with pods."""

LONG_NAMESPACE = "n" * 63
LONG_NAME = ".".join(("n" * 63, "o" * 63, "p" * 63, "q" * 61))
LONG_KEY = f"{'d' * 63}.{'e' * 63}.{'f' * 63}.{'g' * 61}/{'k' * 63}"
LONG_VALUE = "v" * 63
LONG_PORT = "abcdefghijklm-n"

PROTOCOLS = (Protocol.TCP, Protocol.TCP, Protocol.UDP, Protocol.SCTP)
ICMP = 1
APP_A = Requirement("app", Operator.IN, ("a",))


def _packed(*texts: str) -> tuple[bytes, ...]:
    return tuple(ipaddress.ip_address(text).packed for text in texts)


class Words(NamedTuple):
    """The pools that one random cluster or history is made of."""

    namespaces: tuple[str, ...]
    unknown: str
    """A namespace that has pods and policies, and that the agent is never told of."""
    names: tuple[str, ...]
    """Of pods."""
    policies: tuple[str, ...]
    label_keys: tuple[str, ...]
    label_values: tuple[str, ...]
    port_names: tuple[str, ...]
    numbers: tuple[int, ...]
    """Ports, in rising order."""
    times: tuple[str, ...]
    addresses_4: tuple[bytes, ...]
    addresses_6: tuple[bytes, ...]
    any_addresses: bool = False
    """Pods may have several addresses of a family, or one twice; no server allows that."""
    strict: bool = False
    """Only what manifests can say; an API server may say more."""

    @property
    def addresses(self) -> tuple[bytes, ...]:
        return self.addresses_4 + self.addresses_6


FEW = Words(
    namespaces=("red", "blue"),
    unknown="ghost",
    names=("a", "b", "c"),
    policies=("p", "q", "r"),
    label_keys=("app", "tier", "in"),
    label_values=("a", "b", ""),
    port_names=("http", "dns"),
    numbers=(53, 80, 81, 65535),
    times=("", "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"),
    addresses_4=_packed(
        "0.0.0.1",
        "10.0.0.1",
        "10.0.0.2",
        "10.0.1.1",
        "127.255.255.255",
        "128.0.0.0",
        "255.255.255.255",
    ),
    addresses_6=_packed(
        "::1", "fd00::1", "fd00::2", "fd00:0:0:1::1", "7fff:" + ":".join(["ffff"] * 7), "8000::"
    ),
    any_addresses=True,
)
"""So few that the same object changes again and again, and everything meets."""

CORNERS = Words(
    namespaces=(*FEW.namespaces, LONG_NAMESPACE),
    unknown=FEW.unknown,
    names=(*FEW.names, LONG_NAME),
    policies=(*FEW.policies, LONG_NAME),
    label_keys=("app", "app", "app", "tier", "in", LONG_KEY),
    label_values=("a", "a", "b", "b", "", LONG_VALUE),
    port_names=(*FEW.port_names, LONG_PORT),
    numbers=(1, 53, 80, 81, 82, 8080, 65534, 65535),
    times=FEW.times,
    addresses_4=FEW.addresses_4 + _packed("10.0.0.3", "10.0.0.4", "10.0.0.127", "10.0.0.128"),
    addresses_6=FEW.addresses_6 + _packed("fd00::3", "fd00::4", "fd00::7fff", "fd00::8000"),
)
"""More, among them the longest names there are and the ends of networks, and all of :data:`FEW`."""

MANIFESTS = CORNERS._replace(strict=True)
