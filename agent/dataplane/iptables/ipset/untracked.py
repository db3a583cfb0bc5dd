"""Whether untracked packets of isolated pods are denied.

A reply to an allowed connection passes because the connection is tracked. Where a rule of somebody else
switches tracking off (``NOTRACK``, ``CT --notrack``; ``notrack`` of nftables), a reply is judged like any
other packet: only its ports would show that it is one, and its sender chooses these. So it is denied, unless
a policy allows it by itself, and a set remembers its addresses for some minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from agent.dataplane.iptables.ipset.sets import KernelSets
from agent.dataplane.iptables.ipset.transit import has_members
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.guards import UNTRACKED_SECONDS
from agent.dataplane.iptables.variant import Mode
from agent.fault import Fault
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_shapes import SetContent, SetShape
from agent.net import Family, Member
from agent.policy.program import PodId, PodProgram
from agent.words import and_more

_SHOWN = 5


class Untracked:
    """The sets in which such packets leave their addresses."""

    def __init__(self, mode: Mode, families: Iterable[Family]) -> None:
        self._names = {family: names.untracked_set(mode, family) for family in families}

    def make(
        self, sets: KernelSets, content: dict[str, SetContent]
    ) -> tuple[dict[Family, str], frozenset[Member]]:
        """Make the sets that are missing, and take all out of ``content``.

        Return those that are there, and who is in them.
        """
        made, members = {}, set[Member]()
        for family, name in self._names.items():
            held, shape = content.pop(name, None), shape_of(family)
            if held is not None and held.shape[:2] == shape[:2] and held.shape.timeout:
                members |= held.members
            elif sets.create(name, shape):
                continue
            made[family] = name
        return made, frozenset(members)

    def changed(self, ipsets: IpSets, before: Set[Member]) -> bool:
        """Whether there are any now, where there were none ``before``, or the other way."""
        return bool(before) is not any(has_members(ipsets, name) for name in self._names.values())

    @staticmethod
    def faults(pods: Mapping[PodId, PodProgram], members: Set[Member]) -> list[Fault]:
        """Return the warning, if there is reason for one; ``pods`` are the isolated ones."""
        found = sorted({str(pod.pod) for pod, own in pods.items() if members & {*own.addresses}})
        if not found:
            return []
        shown = ", ".join(found[:_SHOWN]) + and_more(len(found), _SHOWN)
        return [
            Fault(
                f"in the last {UNTRACKED_SECONDS // 60} minutes, untracked packets from or to isolated pods "
                f"({shown}) were denied: without connection tracking, a reply to an allowed connection "
                "cannot be told from a new one",
                "take pods' addresses out of the rules with NOTRACK (iptables -t raw -S; nft: notrack), or "
                "allow the replies by a policy, too",
                blocking=False,
            )
        ]


def shape_of(family: Family) -> SetShape:
    """Return the shape of a family's set."""
    return SetShape("hash:ip", family, timeout=UNTRACKED_SECONDS)
