"""A rule as a value: its text, and what that text means, so that nobody has to read it out of the text.

A rule is its text, as iptables-save prints it. So it is compared with what the kernel prints, and written,
as any text is. Rules are made by :func:`jump` and :func:`goto`, and by :func:`.parse.ours` out of a text that
was read from the kernel.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, NoReturn

from agent.net import Family
from agent.policy.program import PodId, PolicyId


class InSet(NamedTuple):
    """A match on a set: ``sides`` of the packet are looked for in it, as ``src`` or ``dst,dst``.

    ``negated``: what is not in it matches.
    """

    name: str
    sides: str
    negated: bool = False

    @property
    def text(self) -> str:
        return f"-m set {'! ' if self.negated else ''}--match-set {self.name} {self.sides}"


class PolicyRule(NamedTuple):
    """One rule of a policy; ``number`` counts the policy's rules of the direction from 0, as in its spec."""

    policy: PolicyId
    number: int

    def __str__(self) -> str:
        return f"rule {self.number} {self.policy.direction} of {self.policy.policy}"


class Leaf(NamedTuple):
    """Where the tree of a direction leads an address: to a pod.

    Out of a text that was read, the pod is as its comment names it: a long name is cut.
    """

    address: bytes
    pod: PodId


class Guard(enum.StrEnum):
    """What a rule denies or lets pass, whatever the policies say."""

    ADDRESSES = "bridged packets with an address that names no pod"
    ROUTERS = "router advertisements and redirects"
    TUNNEL_IN = "packets that are sent to a tunnel by no node"
    TUNNEL_OUT = "packets that a pod sends to the tunnel of a node"
    NODES = "other nodes may reach every pod"
    CLOSED = "rules that take something away could not be written yet"
    NO_POD = "an isolated address that no pod here has"
    UNKNOWN = "an address of this node's pods that no pod is known to have"
    TRANSIT = "packets of others that this node sends"
    CUT = "packets of connections that a change forbade"
    LINKS = "packets that come by the link of another pod"


About = PodId | PolicyId | PolicyRule | Leaf | Guard
"""What a rule serves."""


class Rule(str):
    """A rule of ours: frozen text that knows where it leads.

    ``target``: the chain or the verdict that a matching packet goes to; ``goto``: from that chain it does not
    come back. ``in_sets``: the sets that are looked into, two at most in rules made here. ``about``: what the
    rule serves, None where that is nothing in particular.
    """

    __slots__ = ("about", "goto", "in_sets", "target")

    target: str
    goto: bool
    in_sets: tuple[InSet, ...]
    about: About | None

    def __new__(
        cls, text: str, target: str, goto: bool, in_sets: tuple[InSet, ...] = (), about: About | None = None
    ) -> Rule:
        rule = str.__new__(cls, text)
        _set_target(rule, target)
        _set_goto(rule, goto)
        _set_in_sets(rule, in_sets)
        _set_about(rule, about)
        return rule

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a rule is frozen: {name}")

    def __deepcopy__(self, memo: object) -> Rule:
        """Return the rule itself: it is frozen, and so is what it holds."""
        return self

    def without(self, match: InSet, other: InSet | None = None) -> Rule:
        """Return the rule without one of its matches on sets, or with another one in its place."""
        left = tuple(each for each in self.in_sets if each != match)
        if other is None:
            text, sets = self.replace(f"{match.text} ", ""), left
        else:
            text, sets = self.replace(match.text, other.text), (*left, other)
        return Rule(text, self.target, self.goto, sets, self.about)


_set_target, _set_goto, _set_in_sets, _set_about = (
    Rule.__dict__[name].__set__ for name in ("target", "goto", "in_sets", "about")
)
"""Past the rule that nothing is set: a node has thousands of rules, and object.__setattr__ takes longer."""

Rules = tuple[Rule, ...]
"""The rules of a chain, each without the leading ``-A CHAIN``."""

Chains = dict[str, Rules]

Changes = dict[Family, dict[str, Rules | None]]
"""For each family the chains whose rules are to be as given; None: nothing needs the chain any more."""

Match = str | tuple[InSet, ...]
"""A match as iptables-save prints it; one on a set as a value. An empty one matches every packet."""


@lru_cache(maxsize=4096)
def in_set(name: str, sides: str, *, negated: bool = False) -> tuple[InSet, ...]:
    """Return a match on a set, the same value for all rules that have it."""
    return (InSet(name, sides, negated),)


def jump(target: str, *matches: Match, options: str = "", about: About | None = None) -> Rule:
    """Return a rule that leads to a chain, and back; or to a verdict, which may have ``options``."""
    return _rule("-j", target, matches, options, about)


def goto(target: str, *matches: Match, about: About | None = None) -> Rule:
    """Return a rule that leads to a chain, to come back to where this rule's own chain was entered from."""
    return _rule("-g", target, matches, "", about)


def _rule(flag: str, target: str, matches: tuple[Match, ...], options: str, about: About | None) -> Rule:
    words: list[str] = []
    in_sets: tuple[InSet, ...] = ()
    for match in matches:
        if isinstance(match, tuple):
            in_sets += match
            words += [each.text for each in match]
        elif match:
            words.append(match)
    words += (flag, target)
    if options:
        words.append(options)
    return Rule(" ".join(words), target, flag == "-g", in_sets, about)


def described(rules: Rules) -> str:
    """Return what the first of some rules serves that serves anything, for people."""
    about = next((rule.about for rule in rules if rule.about is not None), None)
    match about:
        case None:
            return "no pod or policy in particular"
        case PodId():
            return f"{about.direction} of pod {about.pod}"
        case PolicyId():
            return f"{about.direction} policy {about.policy}"
        case Leaf():
            return f"{about.pod.direction} of pod {about.pod.pod}"
        case _:
            return str(about)


def sets_in(rules: Rules) -> set[str]:
    """Return the names of the sets that rules look into."""
    return {match.name for rule in rules for match in rule.in_sets}


def merged(first: Changes, second: Mapping[Family, Mapping[str, Rules | None]]) -> Changes:
    """Return both changes; where they meet, the second holds."""
    return {family: {**first[family], **second.get(family, {})} for family in first}
