"""The words in which policies are told: ids, ports, and whom peers mean."""

from __future__ import annotations

from typing import NamedTuple

from agent.kube.model import Key, Selector
from agent.net import Direction, Protocol


class PortRange(NamedTuple):
    """Destination ports ``first`` to ``last``, both included; the whole of 0-65535 means any port."""

    protocol: Protocol
    first: int
    last: int


class PortName(NamedTuple):
    """A named port that a rule asks for; name and protocol must both agree with the pod's."""

    name: str
    protocol: Protocol


class Predicate(NamedTuple):
    """Which pods a peer means: those in ``namespace``, or in namespaces that ``namespaces`` matches.

    Exactly one of the two is set. ``namespaces`` matches known namespaces only.
    """

    namespace: str | None
    namespaces: Selector | None
    pods: Selector


class PolicyId(NamedTuple):
    """One direction of a policy."""

    direction: Direction
    policy: Key


class PodId(NamedTuple):
    """One direction of a local pod."""

    direction: Direction
    pod: Key


class PodProgram(NamedTuple):
    """A local pod isolated in one direction: its addresses and its policies, sorted by key."""

    addresses: tuple[bytes, ...]
    policies: tuple[Key, ...]
