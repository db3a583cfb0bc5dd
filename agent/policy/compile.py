"""The ``from`` and ``to`` of a rule: which pods they mean, and which blocks."""

from __future__ import annotations

from typing import NamedTuple

from agent.kube.model import IPBlock, Peer, Selector
from agent.policy.program import Predicate

EVERYTHING = Selector()


class Peers(NamedTuple):
    """A rule's non-empty ``from`` or ``to``, each predicate and block once."""

    predicates: tuple[Predicate, ...]
    blocks: tuple[IPBlock, ...]


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
