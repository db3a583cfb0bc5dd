"""A NetworkPolicy as a program: a pure function of its spec."""

from __future__ import annotations

from typing import NamedTuple

from agent.kube import model
from agent.kube.model import IPBlock, NetworkPolicy, Peer, Selector
from agent.net import Direction
from agent.policy.ports import compile_ports
from agent.policy.program import PolicyProgram, Predicate, Rule, Verdict

EVERYTHING = Selector()


class Peers(NamedTuple):
    """A rule's non-empty ``from`` or ``to``, each predicate and block once."""

    predicates: tuple[Predicate, ...]
    blocks: tuple[IPBlock, ...]


def compile_policy(policy: NetworkPolicy, direction: Direction) -> PolicyProgram | None:
    """Return the program of a policy in a direction; None when it does not name the direction."""
    rules = policy.rules(direction)
    if rules is None:
        return None
    found = (_rule(policy.namespace, number, rule) for number, rule in enumerate(rules))
    return PolicyProgram(tuple(rule for rule in found if rule is not None))


def _rule(namespace: str, number: int, rule: model.Rule) -> Rule | None:
    """Return a rule; None when no packet can match it, since none of its peers means anybody."""
    peers, blocks = split_peers(namespace, rule.peers) if rule.peers else (None, ())
    if peers == () and not blocks:
        return None
    ports, names = compile_ports(rule.ports) if rule.ports else (None, ())
    return Rule(number, Verdict.ALLOW, peers, blocks, ports, names)


def split_peers(namespace: str, peers: tuple[Peer, ...]) -> Peers:
    """Return what peers of a policy in a namespace mean; a peer that matches nothing is left out."""
    predicates: dict[Predicate, None] = {}
    blocks: dict[IPBlock, None] = {}
    for pods, namespaces, block in peers:
        if block is not None:
            # With a selector beside it the peer is not valid and, like an empty one, matches nothing.
            if pods is None and namespaces is None:
                blocks[block] = None
        elif namespaces is not None:
            predicates[Predicate(None, namespaces, pods if pods is not None else EVERYTHING)] = None
        elif pods is not None:
            predicates[Predicate(namespace, None, pods)] = None
    return Peers(tuple(predicates), tuple(blocks))
