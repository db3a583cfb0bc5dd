"""The node's surroundings: whether they changed, whether the rules about tunnels hold, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agent.dataplane.iptables.change.desired import Desired
from agent.dataplane.iptables.change.planner import Planner
from agent.dataplane.iptables.rules import guards, hooks
from agent.dataplane.iptables.tables.chain_table import ChainTable
from agent.fault import Fault
from agent.kernel.surroundings import Surroundings
from agent.kernel.tunnels import FOR_STRANGERS
from agent.net import Family
from agent.policy.lower.lowered import LoweredProgram

_REMEDY = "let the agent use netlink sockets, with CAP_NET_ADMIN"


def look_around(desired: Desired, look: Callable[[], Surroundings]) -> list[Fault]:
    """Look at the node's interfaces; where that fails, what was seen last holds, and the rest goes on."""
    try:
        desired.surroundings = look()
    except OSError as error:
        what = f"the node's interfaces and tunnels cannot be read: {error.strerror}"
        return [Fault(what, _REMEDY)]
    return []


def moved(desired: Desired, look: Callable[[], Surroundings]) -> bool:
    """Whether the node's interfaces are others than when they were last looked at."""
    try:
        return look() != desired.surroundings
    except OSError:
        return False


def rerouted(planner: Planner, program: LoweredProgram) -> bool:
    """Whether other nodes are reached by other interfaces than when that was last asked."""
    try:
        return planner.uplinks(program) != planner.desired.uplinks
    except OSError:
        return False


def unrouted(error: OSError | None) -> list[Fault]:
    """Return the fault where routes to other nodes could not be read: what was seen last holds."""
    if error is None:
        return []
    what = f"by which interfaces other nodes are reached cannot be read: {error.strerror or error}"
    return [Fault(what, _REMEDY)]


def guarding(chains: ChainTable, wanted: Mapping[Family, guards.Guarded], *, hooked: bool) -> bool:
    """Whether the kernel holds what is wanted of the rules about tunnels, in every family.

    ``hooked``: INPUT is known to lead to them; else the tables are looked at, as they were last read.
    """
    for family, found in wanted.items():
        held = chains.held[family]
        if any(held.get(chain) != rules for chain, rules in guards.tunnel_chains(family, found).items()):
            return False
        if found.any and not hooked and "INPUT" in hooks.misplaced(chains.table(family)):
            return False
    return True


def faults(desired: Desired, reached_by: Iterable[str], program: LoweredProgram) -> list[Fault]:
    """Return the warnings about interfaces; ``reached_by``: those by which other nodes are reached."""
    surroundings, families = desired.surroundings, desired.families
    left_out = [
        name
        for name in sorted(reached_by)
        if not guards.trusted(name, surroundings, program.node_networks, families)
    ]
    found = [_not_let_in(name, surroundings, families) for name in left_out]
    if surroundings.lost and any(listening.any for listening in desired.guarded(program).values()):
        names = ", ".join(sorted(surroundings.lost))
        found.append(
            Fault(
                f"the default route leads over {names}, which pods use, too: packets that come in there for "
                "this node's tunnels are dropped",
                "give the node a way out that pods do not share, or attach its network card to the bridge",
                blocking=False,
            )
        )
    return found


def _not_let_in(name: str, surroundings: Surroundings, families: Iterable[Family]) -> Fault:
    tunnels = surroundings.carried[name]
    kinds = ", ".join(sorted({tunnel.kind for tunnel in tunnels})) or "a program's tunnel"
    what = f"--allow-nodes lets no node in by {name}: hosts that are no nodes can send by it, too ({kinds})"
    if not tunnels:
        return Fault(what, "use WireGuard, or a tunnel of the kernel, between nodes", blocking=False)
    if any(tunnel.elsewhere for tunnel in tunnels):
        remedy = "make the tunnel in the node's own network namespace"
    elif any(not tunnel.families <= set(families) for tunnel in tunnels):
        remedy = "have the tunnel listen in the address families that the agent enforces (--families)"
    elif any(tunnel.kind in FOR_STRANGERS for tunnel in tunnels):
        remedy = "use another kind of tunnel between nodes"
    else:
        remedy = "remove each tunnel of that port or protocol whose remote address is not a node's"
    return Fault(what, remedy, blocking=False)
