"""What other programs do to the agent's rules and sets, one way after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from agent.dataplane.iptables.rules import names
from agent.net import Direction, Family
from tests.lab.netns import CommandError
from tests.lab.node import Node


class Breakage(NamedTuple):
    """What another program does.

    ``undo``: what takes away of its own what it leaves. ``takes_theirs``: whether it does the same to rules
    of third programs.
    """

    do: Callable[[Node], object]
    undo: Callable[[Node], object] = lambda _: None
    takes_theirs: bool = False


def _pod_chain(node: Node) -> str:
    """Return the chain of ``web``."""
    saved = node.run(f"iptables-{node.mode}-save", "-t", "filter")
    return next(line.split()[1] for line in saved.splitlines() if line.startswith("-A KUBE-POD-FW-"))


def _each(*arguments: str) -> Callable[[Node], None]:
    def run(node: Node) -> None:
        for family in Family:
            node.iptables(family, *arguments)

    return run


def _flush_all(node: Node) -> None:
    _each("-F")(node)
    # Chains that are put back meanwhile cannot be deleted.
    with contextlib.suppress(CommandError):
        _each("-X")(node)


def _both(program: str) -> Callable[[Node], None]:
    def run(node: Node) -> None:
        for family in ("ip", "ip6"):
            node.run("nft", program.format(family))

    return run


def _without_native(node: Node) -> None:
    """Delete the native rule from the built-in chain, and nothing else of it: the agent's jump stays."""
    for family in ("ip", "ip6"):
        listed = node.run("nft", "-a", "list", "chain", family, "filter", "FORWARD").splitlines()
        (handle,) = (line.split()[-1] for line in listed if line.strip().startswith(_NATIVE))
        node.run("nft", "delete", "rule", family, "filter", "FORWARD", "handle", handle)


_NATIVE = "meta l4proto udp accept"
_HOOK = names.FORWARD
RULES: Mapping[str, Breakage] = {
    "the chain of a pod flushed": Breakage(lambda node: node.iptables(Family.V4, "-F", _pod_chain(node))),
    "the chain that packets come to flushed": Breakage(_each("-F", _HOOK)),
    "its jump deleted": Breakage(_each("-D", "FORWARD", "-j", _HOOK)),
    "the built-in chain flushed": Breakage(_each("-F", "FORWARD"), takes_theirs=True),
    "its jump displaced": Breakage(
        _each("-I", "FORWARD", "-j", "ACCEPT"), _each("-D", "FORWARD", "-j", "ACCEPT")
    ),
    "a rule that accepts put into a chain of it": Breakage(
        _each("-I", "KUBE-NETPOL-INGRESS", "-j", "ACCEPT")
    ),
    "a rule that drops put into a chain of it": Breakage(_each("-I", _HOOK, "-j", "DROP")),
    "all chains flushed and deleted": Breakage(_flush_all, takes_theirs=True),
}
"""What shows in both modes: each adds or removes a rule."""
REPLACED = {"a rule replaced by another": Breakage(_each("-R", _HOOK, "1", "-j", "ACCEPT"))}
"""What does not show in legacy mode: there are as many rules."""
RULES_OF_NFT: Mapping[str, Breakage] = {
    **RULES,
    **REPLACED,
    "nft flush ruleset": Breakage(lambda node: node.run("nft", "flush", "ruleset"), takes_theirs=True),
    "the table deleted": Breakage(_both("delete table {} filter"), takes_theirs=True),
    "a native rule put into a chain of it": Breakage(
        _both(f"insert rule {{}} filter KUBE-NETPOL-INGRESS {_NATIVE}")
    ),
    "a native rule put before its jump": Breakage(
        _both(f"insert rule {{}} filter FORWARD {_NATIVE}"),
        _without_native,
    ),
}


def _sets(node: Node, part: str) -> list[str]:
    found = node.run("ipset", "list", "-n").split()
    return sorted(name for name in found if part in name and not name.endswith(("-s", "-g")))


def _isolated(direction: Direction) -> str:
    return names.isolated_set(direction, Family.V4)


def _flush_sets(node: Node) -> None:
    for direction in Direction:
        node.run("ipset", "flush", _isolated(direction))


def _swap_peers(node: Node) -> None:
    """Have each of two sets of peers hold what the other does: as many members."""
    first, second, *_ = _sets(node, "KUBE-SRC-4-") + _sets(node, "KUBE-DST-4-")
    node.run("ipset", "swap", first, second)


def _another_member(node: Node) -> None:
    """Have a set of peers hold another member than it did."""
    (name, *_) = _sets(node, "KUBE-SRC-4-")
    listed = node.run("ipset", "save", name).splitlines()
    member = next(line.split()[2] for line in listed if line.startswith("add "))
    node.run("ipset", "del", name, member)
    node.run("ipset", "add", name, "192.0.2.9")


def _more_members(node: Node) -> None:
    for name in (*_sets(node, "KUBE-SRC-4-"), *_sets(node, "KUBE-DST-4-")):
        node.run("ipset", "add", name, "192.0.2.9")


def _remove_all(node: Node) -> None:
    """Remove all chains, and all sets that no rule holds: the kernel lets go of these some moments later."""
    _flush_all(node)
    for name in _sets(node, "KUBE-"):
        node.run("ipset", "destroy", name, check=False)


SETS: Mapping[str, Breakage] = {
    "the sets of isolated addresses flushed": Breakage(_flush_sets),
    "a member taken away": Breakage(
        lambda node: [node.run("ipset", "flush", name) for name in _sets(node, "KUBE-SRC-4-")]
    ),
    "members added": Breakage(_more_members),
    "a member in another's place": Breakage(_another_member),
    "the sets of isolated addresses swapped": Breakage(
        lambda node: node.run("ipset", "swap", _isolated(Direction.INGRESS), _isolated(Direction.EGRESS))
    ),
    "two sets of peers swapped": Breakage(_swap_peers),
    "all chains and sets gone": Breakage(_remove_all, takes_theirs=True),
}
