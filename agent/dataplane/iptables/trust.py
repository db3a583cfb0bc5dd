"""Letting other nodes in by the interfaces by which only their packets come in, tunnels among them."""

from __future__ import annotations

from dataclasses import replace

from agent.dataplane.iptables import edges
from agent.dataplane.iptables.change.executor import Executor
from agent.dataplane.iptables.change.refit import plan_trust
from agent.dataplane.iptables.edges import Uplinks
from agent.dataplane.iptables.held import Revision
from agent.dataplane.iptables.rules.node import NodeFacts
from agent.dataplane.turns import Work
from agent.fault import Fault
from agent.policy.lower.lowered import LoweredProgram


class Trust:
    """Follows which interfaces these are.

    A tunnel is one only once the kernel holds the rules by which it takes from nodes alone. These are made by
    the step that brings the nodes; so tunnels are let in by a step of their own, after that one.
    """

    def __init__(self, executor: Executor, uplinks: Uplinks) -> None:
        self._executor = executor
        self._held = executor.held
        self.uplinks = uplinks
        self._due: LoweredProgram | None = None
        """The program whose other nodes may be let in by tunnels, too, when a step has been carried out."""

    def follow(self, node: NodeFacts, program: LoweredProgram, *, hooked: bool) -> NodeFacts:
        """Return the node with the interfaces of now; what :meth:`settle` does is due then.

        ``hooked``: see :func:`.edges.guarding`.
        """
        self._due = program
        guarding = edges.guarding(self._held, node, program, hooked=hooked)
        return self.uplinks.follow(replace(node, guarding=guarding), program)

    @property
    def ready(self) -> bool:
        """Whether :meth:`settle` is due and would do it now.

        Not while a step waits or is being made: the rules would look at sets that it has yet to make.
        """
        return self._due is not None and self._executor.pending is None and not self._executor.carrying

    def settle(self, *, certain: bool) -> Work[list[Fault]]:
        """Let other nodes in by tunnels, too, once these are known to take from nodes alone."""
        held, program = self._held, self._due
        self._due = None
        if program is None or not edges.guarding(held, held.node, program, hooked=True):
            return []
        node = self.uplinks.follow(replace(held.node, guarding=True), program)
        if node.uplinks == held.node.uplinks:
            held.take_over(Revision(node=node))
            return []
        return (yield from self._executor.carry_out(plan_trust(held, program, node), certain=certain))

    def faults(self, program: LoweredProgram) -> list[Fault]:
        """Return the warnings about interfaces."""
        return edges.faults(self._held.draft(), self.uplinks.reached_by, program)
