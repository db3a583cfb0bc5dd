"""Breakages of what closes an address until a pod is known to have it."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

NEW_PODS = (
    Mutation(
        "an address is known before its pod is isolated",
        "agent.dataplane.iptables.change.carrying:Carrying.run",
        "self._add_unseen()",
        "self._add_unseen()\nself._admit()",
        (Selection.STEPS,),
    ),
    Mutation(
        "an address stays known when its pod is gone",
        "agent.dataplane.iptables.change.carrying:Carrying._release",
        "Gains(removed=set(gains.removed))",
        "Gains()",
        (Selection.STEPS, Selection.NEW_PODS),
    ),
    Mutation(
        "an address that passes to another pod is known all the while",
        "agent.policy.addresses.known:moves",
        "departed.get(address, {new.identity}) == {new.identity}",
        "True",
        (Selection.KNOWN,),
    ),
    Mutation(
        "a pod of another node is known here",
        "agent.policy.addresses.known:moves",
        "new is not None and new.local",
        "new is not None",
        (Selection.KNOWN,),
    ),
    Mutation(
        "what was left of known addresses is not compared at a start",
        "agent.dataplane.iptables.change.planner:plan_sync",
        "step.known = {name: Gains(*moved) for name, moved in found.known.items()}",
        "step.known = {}",
        (Selection.RESTART,),
    ),
    Mutation(
        "what is known is closed",
        "agent.dataplane.iptables.rules.unknown:_leads",
        "in_set(closing.known, side, negated=True)",
        "in_set(closing.known, side)",
        (Selection.STEPS, Selection.NEW_PODS),
    ),
    Mutation(
        "what comes in from outside is closed in shared networks",
        "agent.dataplane.iptables.rules.unknown:outside",
        "closing.exclusive",
        "True",
        (Selection.UNKNOWN, Selection.NEW_PODS),
    ),
    Mutation(
        "a network without pods is none any more",
        "agent.dataplane.iptables.ipset.known:networks_of",
        "n in before or any((n.holds(address) for address in known))",
        "any((n.holds(address) for address in known))",
        (Selection.UNKNOWN,),
    ),
    Mutation(
        "a guard that nobody holds",
        "agent.dataplane.iptables.guard_table:_put",
        "nf_owned.flags(netlink, FAMILIES[family]) if netlink is holder else 0",
        "0",
        (Selection.HELD_GUARD,),
    ),
    Mutation(
        "a guard let go of for what was there before it",
        "agent.kernel.nf_release:let_go",
        "asking is None or asking.handle == one.earlier",
        "asking is None",
        (Selection.HELD_GUARD,),
    ),
    Mutation(
        "a guard let go of though nobody asks",
        "agent.kernel.nf_release:let_go",
        "asking is None or asking.handle == one.earlier",
        "asking is not None and asking.handle == one.earlier",
        (Selection.HELD_GUARD,),
    ),
    Mutation(
        "what asks left in the kernel",
        "agent.kernel.nf_release:ask",
        "add_table(ASKING, family, OWNER)",
        "add_table(ASKING, family)",
        (Selection.HELD_GUARD,),
    ),
    Mutation(
        "a guard that was held taken for gone when its holder does not answer",
        "agent.dataplane.iptables.placement:Placement._relieve",
        "fault is not None",
        "False",
        (Selection.HELD_GUARD,),
    ),
)
