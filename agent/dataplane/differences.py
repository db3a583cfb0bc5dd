"""What differs between the kernel and the record of it, as values: to be compared, and to be told."""

from __future__ import annotations

import enum
from typing import NamedTuple

from agent.net import Family


class What(enum.Enum):
    """What is different."""

    REFUSED = enum.auto()
    RULES_UNREAD = enum.auto()
    CHAIN_GONE = enum.auto()
    CHAIN_CHANGED = enum.auto()
    HOOK = enum.auto()
    UNSEEING = enum.auto()
    MARKS_USED = enum.auto()
    MARK_USERS = enum.auto()
    OTHERS_RULES = enum.auto()
    TRANSIT = enum.auto()
    UNTRACKED = enum.auto()
    SET_GONE = enum.auto()
    SET_SIZE = enum.auto()
    SET_MEMBERS = enum.auto()
    SET_UNREAD = enum.auto()
    INTERFACES = enum.auto()
    KERNEL_UNREAD = enum.auto()
    UNPROVED = enum.auto()
    FRAMES = enum.auto()


OF_RULES = frozenset(
    {
        What.REFUSED,
        What.CHAIN_GONE,
        What.CHAIN_CHANGED,
        What.HOOK,
        What.UNSEEING,
        What.MARKS_USED,
        What.MARK_USERS,
        What.OTHERS_RULES,
    }
)
"""What only a write of rules makes different."""
UNREAD = frozenset({What.RULES_UNREAD, What.SET_UNREAD, What.KERNEL_UNREAD})
"""Where it is not known whether anything is different."""

_SAID = {
    What.REFUSED: "kube-router's firewall writes here",
    What.RULES_UNREAD: "the rules cannot be read: {detail}",
    What.CHAIN_GONE: "chain {name} is gone",
    What.CHAIN_CHANGED: "chain {name} is not as it was left",
    What.HOOK: "{name}: {detail}",
    What.UNSEEING: "{detail}",
    What.MARKS_USED: "another program uses bits of the agent's in packets' marks ({detail})",
    What.MARK_USERS: "who uses bits of packets' marks changed: {detail}",
    What.OTHERS_RULES: "another program's rules changed: {detail}",
    What.TRANSIT: "the node sends packets of others, which are not judged yet",
    What.UNTRACKED: "whether packets are denied that are not tracked changed",
    What.SET_GONE: "set {name} is gone",
    What.SET_SIZE: "set {name} has {detail}",
    What.SET_MEMBERS: "set {name} {detail}",
    What.SET_UNREAD: "{detail}",
    What.INTERFACES: "the node's interfaces, or where they lead, changed",
    What.KERNEL_UNREAD: "the kernel cannot be read: {detail}",
    What.UNPROVED: "the kernel does not do what the policies say: {detail}",
    What.FRAMES: "{detail}",
}


class Difference(NamedTuple):
    """One thing that is not as it was left.

    ``family``: of the rules, where it is about these; ``name``: of the chain or set; ``detail``: what more
    there is to say of it. As text it is the sentence for people.
    """

    what: What
    family: Family | None = None
    name: str = ""
    detail: str = ""

    def __str__(self) -> str:
        said = _SAID[self.what].format(name=self.name, detail=self.detail)
        return said if self.family is None else f"IPv{int(self.family)}: {said}"


class Repair(NamedTuple):
    """What was put back: ``at`` in ``time.time()`` seconds, what differed, and who wrote; "" if not known."""

    at: float
    differences: tuple[str, ...]
    by: str = ""
