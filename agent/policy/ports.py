"""The ``ports`` of a rule: numbers merged into ranges, names apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.kube.model import Port
from agent.policy.program import PortName, PortRange

LAST_PORT = 65535


class Ports(NamedTuple):
    """What a rule's non-empty ``ports`` allow: merged ranges and names, both sorted."""

    ranges: tuple[PortRange, ...]
    names: tuple[PortName, ...]


def compile_ports(ports: Iterable[Port]) -> Ports:
    """Return the ports as ranges that neither touch nor overlap within a protocol, and as names."""
    ranges: list[PortRange] = []
    names: set[PortName] = set()
    for protocol, port, end in ports:
        if isinstance(port, str):
            names.add(PortName(port, protocol))
        elif port is None:
            ranges.append(PortRange(protocol, 0, LAST_PORT))
        else:
            ranges.append(PortRange(protocol, port, port if end is None else end))
    return Ports(_merged(ranges), tuple(sorted(names)))


def _merged(ranges: list[PortRange]) -> tuple[PortRange, ...]:
    merged: list[PortRange] = []
    for current in sorted(ranges):
        if merged and merged[-1].protocol is current.protocol and current.first <= merged[-1].last + 1:
            merged[-1] = merged[-1]._replace(last=max(merged[-1].last, current.last))
        else:
            merged.append(current)
    return tuple(merged)
