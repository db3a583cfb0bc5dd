"""Steps that no delta asks for: the rules are fitted to the node, or to what is left, anew.

As in :mod:`.planner`, each function looks at the record and changes nothing in it.
"""

from __future__ import annotations

from dataclasses import replace

from agent.dataplane.iptables.change.step import Step
from agent.dataplane.iptables.held import Held, Revision
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import linked
from agent.dataplane.iptables.rules.node import NodeFacts
from agent.policy.lower.lowered import LoweredProgram


def plan_relink(held: Held, program: LoweredProgram, links: linked.Links) -> Step:
    """Judge pods by these links."""
    node = replace(held.node, links=links)
    draft = held.draft(node)
    return Step(draft.relink(program, held.names), revision=Revision(node=node, drawn=draft.redrawn()))


def plan_trust(held: Held, program: LoweredProgram, node: NodeFacts) -> Step:
    """Let other nodes in by the interfaces that ``node`` names."""
    draft = held.draft(node)
    return Step(draft.render_tops(program, held.names), revision=Revision(node=node, drawn=draft.redrawn()))


def plan_remark(held: Held, program: LoweredProgram, options: Options) -> Step:
    """Have all rules use these bits of marks, all of a family's from the same moment on."""
    node = replace(held.node, options=options)
    draft = held.draft(node)
    chains = draft.render_all(program, held.names)
    return Step(
        {family: {**table} for family, table in chains.items()},
        revision=Revision(node=node, drawn=draft.redrawn()),
    )


def plan_prune(held: Held) -> Step:
    """Give the trees of isolated addresses the shape that their addresses alone give them."""
    draft = held.draft()
    return Step(draft.prune(), reshapes=True, revision=Revision(drawn=draft.redrawn()))
