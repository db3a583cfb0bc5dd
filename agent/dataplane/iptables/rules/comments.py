"""The comments by which rules that iptables lists are told apart: each is written and read again here alone.

A reader of counters has no more than the text that iptables prints. So who changes the words of such a
comment changes both sides of it. Comments that only people read are written where their rules are made.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from agent.dataplane.iptables.rules import names
from agent.kube.model import Key
from agent.net import Direction
from agent.policy.program import PodId, PolicyId

_OF_RULE = re.compile(r'"rule (\d+) (ingress|egress) of ([^/"]*)/([^"]*)"')
_DENIES = re.compile(r'"no (ingress|egress) policy allows it: pod ([^/"]*)/([^"]*)"')
_WOULD_DENY = re.compile(r'"audited: no (ingress|egress) policy would allow it: pod ([^/"]*)/([^"]*)"')
_WRONG_LINK = re.compile(r'"not an address of pod ([^/"]*)/[^"]*"')

WOULD_DENY = " policy would allow it: pod "
"""The same of each rule that counts for a pod what audited policies would deny."""
DENIES = " policy allows it: pod "
"""Part of the comment of each rule that denies for a pod: whether a line has it is quickly told."""


class OfRule(NamedTuple):
    """Which rule of a policy a rule of the kernel serves: ``number`` counts from 0 in its direction.

    ``name`` ends with a hash instead where it was too long for a comment.
    """

    number: int
    direction: Direction
    namespace: str
    name: str


class Denies(NamedTuple):
    """Whose packets a rule denies, and in which direction; ``pod`` as in :class:`OfRule`."""

    direction: Direction
    namespace: str
    pod: str


def of_rule(policy: PolicyId, number: int) -> str:
    """Return the comment of what allows by one rule of a policy."""
    return names.about(f"rule {number} {policy.direction} of", policy.policy)


def read_of_rule(text: str) -> OfRule | None:
    """Return what :func:`of_rule` says in the text of a rule; None where it says nothing of the kind."""
    found = _OF_RULE.search(text)
    return None if found is None else OfRule(int(found[1]), Direction(found[2]), found[3], found[4])


def denies(pod: PodId) -> str:
    """Return the comment of the rule that denies what none of a pod's policies allows."""
    return names.about(f"no {pod.direction}{DENIES}".rstrip(), pod.pod)


def read_denies(text: str) -> Denies | None:
    """Return what :func:`denies` says in the text of a rule; None where it says nothing of the kind."""
    found = _DENIES.search(text)
    return None if found is None else Denies(Direction(found[1]), found[2], found[3])


def would_deny(pod: PodId) -> str:
    """Return the comment of the rule that counts what none of a pod's audited policies would allow."""
    return names.about(f"audited: no {pod.direction}{WOULD_DENY}".rstrip(), pod.pod)


def read_would_deny(text: str) -> Denies | None:
    """Return what :func:`would_deny` says in a rule's text; None where it says nothing of the kind."""
    found = _WOULD_DENY.search(text)
    return None if found is None else Denies(Direction(found[1]), found[2], found[3])


def wrong_link(pod: Key) -> str:
    """Return the comment of the rule that denies what came by a pod's link from an address not the pod's."""
    return names.about("not an address of pod", pod)


def read_wrong_link(text: str) -> str | None:
    """Return the namespace of the pod of :func:`wrong_link`; None where the text says nothing of the kind."""
    found = _WRONG_LINK.search(text)
    return None if found is None else found[1]
