"""What is open to pods that do not exist yet: whatever labels they will have, in whatever namespace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from agent.kube.model import Key, Operator, Peer, Port, Rule, Selector
from agent.kube.validate import METADATA_NAME
from agent.net import Direction
from agent.reach.admits import Rules, numbered, on
from agent.reach.ends import End, Place, block_text
from agent.reach.ports import ALL, NONE, Ports
from agent.spec.evaluator import isolating

ANYBODY = "any address"
ANY_POD = "entire cluster"


class Exposure(NamedTuple):
    """What one end lets new pods do: ``who`` says which of them, ``ports`` on which ports.

    On egress, ``names`` are ports by name, which the new pod will give numbers. ``pods`` of the ``of`` pods
    of the end allow it. What the policies of the new pod itself will say is not known.
    """

    end: End
    direction: Direction
    who: str
    ports: Ports
    names: tuple[str, ...]
    pods: int
    of: int


Opened = dict[str, tuple[Ports, tuple[str, ...]]]
"""Ports, and ports by name, by who may use them."""


def exposure(rules: Rules, ends: Mapping[End, Place]) -> Iterator[Exposure]:
    """Give what each end lets pods do that do not exist yet, ingress first."""
    opened: dict[tuple[int, Direction], Opened] = {}
    for end, place in ends.items():
        for direction in Direction:
            counts: dict[tuple[str, Ports, tuple[str, ...]], set[Key]] = {}
            for standing, keys in place.pods.items():
                asked = standing.look, direction
                if asked not in opened:
                    opened[asked] = _opened(rules, *asked)
                for who, what in opened[asked].items():
                    counts.setdefault((who, *what), set()).update(keys)
            for (who, ports, names), pods in counts.items():
                yield Exposure(end, direction, who, ports, names, len(pods), place.count)


def _opened(rules: Rules, look: int, direction: Direction) -> Opened:
    pod = rules.known.examples[look]
    policies = isolating(rules.known.namespaces[pod.namespace], direction, pod)
    if not policies:
        return {ANYBODY: (ALL, ())}
    found: Opened = {}
    for policy in policies:
        for rule in policy.rules(direction) or ():
            ports, names = _ports(rules, rule, look, direction)
            for who in dict.fromkeys(_who(policy.namespace, rule)):
                before = found.get(who, (NONE, ()))
                found[who] = before[0] | ports, tuple(dict.fromkeys((*before[1], *names)))
    return _without_what_all_may(found)


def _ports(rules: Rules, rule: Rule, look: int, direction: Direction) -> tuple[Ports, tuple[str, ...]]:
    named: list[Port] = [port for port in rule.ports if isinstance(port.port, str)]
    ports = numbered(rule.ports)
    if direction is Direction.INGRESS:
        for port in named:
            ports |= on(rules.known.looks[look], port)
        return ports, ()
    return ports, tuple(f"{port.protocol.name.lower()}/{port.port}" for port in named)


def _who(namespace: str, rule: Rule) -> Iterator[str]:
    if not rule.peers:
        yield ANYBODY
    for peer in rule.peers:
        if text := _peer(namespace, peer):
            yield text


def _peer(namespace: str, peer: Peer) -> str:
    if peer.block is not None:
        return f"addresses in {block_text(peer.block)}"
    if peer.pod_selector is None and peer.namespace_selector is None:
        return ""
    pods = str(peer.pod_selector or "")
    if peer.namespace_selector is None:
        where = f"namespace {namespace}"
    else:
        where = _namespaces(peer.namespace_selector)
    if not where:
        return f"pods with {pods} in any namespace" if pods else ANY_POD
    return f"pods with {pods} in {where}" if pods else f"any pod in {where}"


def _namespaces(selector: Selector) -> str:
    if not selector.requirements:
        return ""
    if len(selector.requirements) == 1:
        key, operator, values = selector.requirements[0]
        if key == METADATA_NAME and operator is Operator.IN and len(values) == 1:
            return f"namespace {values[0]}"
    return f"namespaces with {selector}"


def _without_what_all_may(found: Opened) -> Opened:
    """Leave out what anybody may, of the others: it says nothing more."""
    left: Opened = {}
    for who, (ports, names) in found.items():
        wider = () if who == ANYBODY else (ANYBODY,) if who == ANY_POD else (ANYBODY, ANY_POD)
        if who.startswith("addresses in"):
            wider = (ANYBODY,)
        for other in wider:
            more = found.get(other, (NONE, ()))
            ports = ports - more[0]
            names = tuple(name for name in names if name not in more[1])
        if ports or names:
            left[who] = ports, names
    return left
