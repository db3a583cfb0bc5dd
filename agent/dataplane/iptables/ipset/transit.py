"""Whether the node sends packets of others: those that go through OUTPUT and have no address of its own.

IPVS sends what pods send to Services that way, and so does a proxy that keeps its clients' addresses. Then
they have to be judged there as in FORWARD. But most nodes send none, and each way to the trees of pods is
one along which the kernel checks all of our rules whenever one is added, which takes as long as all else. So
until one is seen, OUTPUT lets none from or to isolated pods pass, and has a set remember that there was one.
The set stays in the kernel: what was seen once is judged from then on, after a restart too.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent import log
from agent.dataplane.iptables.ipset.sets import KernelSets, addresses_shape
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.variant import Mode
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import SetContent
from agent.net import Family

_log = log.get(__name__)


class Transit:
    """The sets in which packets of others leave their sources, until these are judged.

    ``judged`` is what the agent has decided, not what the kernel holds: it may be asked for without a trace,
    and holds until the agent ends. So it is no part of the record of the kernel.
    """

    def __init__(self, mode: Mode, families: Iterable[Family]) -> None:
        """In legacy mode they are judged from the start: there the kernel checks all of a table anyway."""
        self.judged = mode == "legacy"
        self._names = {family: names.transit_set(family) for family in families if mode == "nft"}

    def make(self, sets: KernelSets, content: dict[str, SetContent]) -> dict[Family, str]:
        """Make the sets that are missing, and take all out of ``content``; return them until judged."""
        made = {}
        for family, name in self._names.items():
            held, shape = content.pop(name, None), addresses_shape(family, 0)
            if held is None or held.shape[:2] != shape[:2]:
                if sets.create(name, shape):
                    self.judged = True
            elif held.members and not self.judged:
                _log.info("this node sends packets of others, which are judged from now on")
                self.judged = True
            made[family] = name
        if not self.judged and None in map(sets.sizes_in_kernel().get, made.values()):
            # A kernel that does not say how many members a set has would have them dropped for ever.
            self.judged = True
        return {} if self.judged else made

    def judge(self) -> bool:
        """Have them judged, seen or not; False where that is so already."""
        before, self.judged = self.judged, True
        return not before

    def seen(self, ipsets: IpSets) -> bool:
        """Whether there was one since the last look at the kernel."""
        return not self.judged and any(has_members(ipsets, name) for name in self._names.values())


def has_members(ipsets: IpSets, name: str) -> bool:
    """Whether a set has any; False where there is no such set."""
    try:
        return bool(ipsets.header(name).size)
    except SetError:
        # That one is gone, the comparison with the kernel tells.
        return False
