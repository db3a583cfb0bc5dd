"""What tells of the connections of this node: the kernel's tracking, the reports, the engine."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from agent.kernel import conntrack
from agent.kernel.conntrack import Tracked
from agent.kernel.netlink import ROUTE, NetlinkSocket
from agent.kernel.rtnetlink import read_own_addresses
from agent.observe.replay.here import Surroundings, Witness
from agent.runtime.loop import Agent
from agent.settings import Settings


def make_witness(settings: Settings, agent: Agent) -> Witness:
    """Return what answers ``/seen``, beside the loop."""
    engine = agent.views.engine

    def local() -> frozenset[bytes]:
        return frozenset(address for pod in engine.local_pods() for address in pod.addresses)

    def around() -> Surroundings:
        with NetlinkSocket(ROUTE) as netlink:
            own = frozenset(read_own_addresses(netlink))
        return Surroundings(own, engine.program.node_networks)

    def tracked(addresses: Collection[bytes]) -> Iterator[Tracked]:
        return (one for one in conntrack.tracked(addresses) if not agent.cutting.is_cut(one.mark))

    return Witness(
        node=settings.node_name,
        extract=agent.extract,
        pods=engine.all_pods,
        local=local,
        tracked=tracked,
        around=around,
        reports=agent.flows.recent,
    )
