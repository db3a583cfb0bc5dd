"""The node's surroundings: whether they changed, whether the rules about tunnels hold, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from agent.dataplane.backend import Around
from agent.dataplane.iptables.held import Held
from agent.dataplane.iptables.rules import guards
from agent.dataplane.iptables.rules.draft import Draft
from agent.dataplane.iptables.rules.node import NodeFacts
from agent.dataplane.iptables.tables import hooks
from agent.fault import Fault
from agent.kernel.surroundings import Surroundings
from agent.kernel.tunnels import FOR_STRANGERS
from agent.net import Family, Network
from agent.policy.lower.lowered import LoweredProgram

_REMEDY = "let the agent use netlink sockets, with CAP_NET_ADMIN"


def look_around(node: NodeFacts, look: Callable[[], Surroundings]) -> tuple[NodeFacts, list[Fault]]:
    """Look at the node's interfaces; where that fails, what was seen last holds, and the rest goes on."""
    try:
        return replace(node, surroundings=look()), []
    except OSError as error:
        what = f"the node's interfaces and tunnels cannot be read: {error.strerror}"
        return node, [Fault(what, _REMEDY)]


def moved(node: NodeFacts, look: Callable[[], Surroundings]) -> bool:
    """Whether the node's interfaces are others than when they were last looked at."""
    try:
        return look() != node.surroundings
    except OSError:
        return False


def around(held: Held, writes: int) -> Around:
    """Return what the rules depend on besides the program; ``writes``: to the kernel, until now."""
    node = held.node
    tunnels: dict[Family, frozenset[int]] = {}
    protocols: dict[Family, frozenset[int]] = {}
    for tunnel in node.surroundings.tunnels:
        for family in () if tunnel.elsewhere else tunnel.families:
            tunnels[family] = tunnels.get(family, frozenset()) | tunnel.ports
            protocols[family] = protocols.get(family, frozenset()) | tunnel.protocols
    return Around(node.uplinks, node.links, tunnels, protocols, frozenset(held.pod_networks), writes)


class Uplinks:
    """By which interfaces other nodes are reached, as the kernel's routes say."""

    def __init__(
        self, ask: Callable[[Iterable[Network]], frozenset[str]], families: Iterable[Family]
    ) -> None:
        """``ask`` says by which interfaces networks are reached. It may raise OSError."""
        self._ask = ask
        self._families = tuple(families)
        self._unread: OSError | None = None
        self.reached_by: frozenset[str] = frozenset()
        """The interfaces by which other nodes were reached when that was last known."""

    def follow(self, node: NodeFacts, program: LoweredProgram) -> NodeFacts:
        """Let other nodes in by the interfaces by which only their packets come in.

        Where the kernel does not say which these are, those of before hold, and :meth:`faults` tells why.
        """
        try:
            self.reached_by = self._ask(program.node_networks)
        except OSError as error:
            self._unread = error
            return node
        self._unread = None
        return replace(node, uplinks=self._trusted(self.reached_by, node, program))

    def rerouted(self, node: NodeFacts, program: LoweredProgram) -> bool:
        """Whether other nodes are reached by other interfaces than when that was last asked."""
        try:
            return self._trusted(self._ask(program.node_networks), node, program) != node.uplinks
        except OSError:
            return False

    def _trusted(
        self, reached_by: frozenset[str], node: NodeFacts, program: LoweredProgram
    ) -> frozenset[str]:
        around, networks = node.surroundings, program.node_networks
        return frozenset(
            name
            for name in reached_by
            if name not in around.carried
            or (node.guarding and guards.trusted(name, around, networks, self._families))
        )

    def faults(self) -> list[Fault]:
        """Return the fault where routes to other nodes could not be read: what was seen last holds."""
        if self._unread is None:
            return []
        why = self._unread.strerror or self._unread
        return [Fault(f"by which interfaces other nodes are reached cannot be read: {why}", _REMEDY)]


def guarding(held: Held, node: NodeFacts, program: LoweredProgram, *, hooked: bool) -> bool:
    """Whether the kernel holds what is wanted of the rules about tunnels, in every family.

    ``hooked``: INPUT is known to lead to them; else the tables are looked at, as they were last read.
    """
    for family, found in held.draft(node).guarded(program).items():
        ours = held.chains.held[family]
        if any(ours.get(chain) != rules for chain, rules in guards.tunnel_chains(family, found).items()):
            return False
        if found.any and not hooked and "INPUT" in hooks.misplaced(held.chains.table(family)):
            return False
    return True


def faults(draft: Draft, reached_by: Iterable[str], program: LoweredProgram) -> list[Fault]:
    """Return the warnings about interfaces; ``reached_by``: those by which other nodes are reached."""
    surroundings, families = draft.node.surroundings, draft.families
    left_out = [
        name
        for name in sorted(reached_by)
        if not guards.trusted(name, surroundings, program.node_networks, families)
    ]
    found = [_not_let_in(name, surroundings, families) for name in left_out]
    if surroundings.lost and any(listening.any for listening in draft.guarded(program).values()):
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
