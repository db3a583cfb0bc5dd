"""The ways by which packets come to rules: interfaces, ports of bridges, marks, and what is known of them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import NamedTuple

from agent.dataplane.iptables.rules import names
from agent.proof import lines
from agent.proof.lines import Condition, mark_of

FIELDS = {
    "-i": "come",
    "-o": "go",
    "--ctstate": "state",
    "--physdev-in": "port_in",
    "--physdev-out": "port_out",
    "--physdev-is-bridged": "bridged",
    "--src-type": "local",
    "-p": "protocol",
}
"""Matches on the way of a packet, with its field of :class:`Way`."""

_MOST_MARKS = 8
"""Marks that are tried of those that rules ask for and the agent did not write."""

Chains = Mapping[str, tuple[str, ...]]


UNNAMED = -1


class UnreadError(Exception):
    """A rule says something that is not known here."""


class Way(NamedTuple):
    """By where packets come and go, and what the kernel knows of them.

    ``come`` and ``go`` are names of interfaces, ``port_in`` and ``port_out`` of ports of bridges, empty for
    one that no rule names. ``bridged``: they are forwarded by a bridge. ``state``: what connection tracking
    says. ``mark``: what they bear before. ``local``: their source is an address of the node. ``protocol``: of
    which of the protocols that no policy tells apart they are; 0: it is not to be told, :data:`UNNAMED`: of
    one that no rule names.
    """

    come: str = ""
    go: str = ""
    bridged: bool = False
    port_in: str = ""
    port_out: str = ""
    state: str = "NEW"
    mark: int = 0
    local: bool = False
    protocol: int = 0


class Marks(NamedTuple):
    """Marks that a packet may bear before.

    ``used``: all bits that the agent's rules use. ``first``: none, these, and what else rules ask for, which
    the agent did not write. ``single``: each bit of those that are used.
    """

    used: int
    first: tuple[int, ...]
    single: tuple[int, ...]


def marks(chains: Chains) -> Marks:
    """Return the marks with which packets are to be tried."""
    used = 0
    for chain, rules in chains.items():
        if chain.startswith(names.TOP_PREFIX):
            for rule in rules:
                if (found := lines.line(rule).xmark) is not None and found[1] != 0xFFFFFFFF:
                    used |= found[1]
    others = sorted({_tried(one) & ~used for one in _asked(chains, "--mark")} - {0})
    if len(others) > 1:
        others.append(functools.reduce(operator.or_, others))
    first = tuple(dict.fromkeys((0, used, *others[-_MOST_MARKS:])))
    single = (1 << bit for bit in range(32) if used >> bit & 1)
    return Marks(used, first, tuple(mark for mark in single if mark not in first))


def _tried(condition: Condition) -> int:
    """Return a mark that a condition tells from none; 0 where it cannot be read, which the walk tells."""
    try:
        value, mask = mark_of(condition)
    except ValueError:
        return 0
    return value or mask


def states(chains: Chains) -> tuple[str, ...]:
    """Return what connection tracking may say of packets that begin one, besides that they are new."""
    asked = {state for one in _asked(chains, "--ctstate") for state in one.value.split(",")}
    return tuple(sorted(asked & {"INVALID", "UNTRACKED"}))


def _asked(chains: Chains, option: str) -> set[Condition]:
    """Return what rules ask for by an option."""
    return {
        condition
        for rules in chains.values()
        for rule in rules
        if f"{option} " in rule
        for condition in lines.line(rule).conditions
        if condition.option == option
    }


def on_the_way(condition: Condition, way: Way) -> bool:
    """Whether a condition holds for a way. Raises UnreadError."""
    option, value = condition.option, condition.value
    if option in ("-i", "-o", "--physdev-in", "--physdev-out"):
        name = {"-i": way.come, "-o": way.go, "--physdev-in": way.port_in}.get(option, way.port_out)
        if not name:
            return False
        return name.startswith(value[:-1]) if value.endswith("+") else name == value
    if option == "--physdev-is-bridged":
        return way.bridged
    if option == "--ctstate":
        return way.state in value.split(",")
    if option == "--src-type" and value == "LOCAL":
        return way.local
    if option == "--dst-type" and value == "BROADCAST":
        return False
    raise UnreadError(f"{option} {value}")
