"""Breakages of what is audited and disabled: who is asked, and what becomes of what would be denied."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

STAGING = (
    Mutation(
        "an audited policy isolates",
        "agent.policy.peers.selection:_LocalGroup.count",
        "policy.mode() is Mode.AUDIT",
        "False",
        (Selection.COMPILER,),
    ),
    Mutation(
        "an audited policy is asked beside an enforced one",
        "agent.policy.peers.selection:Selection._tiers",
        "p.mode() is mode",
        "True",
        (Selection.COMPILER,),
    ),
    Mutation(
        "a disabled policy is in force",
        "agent.policy.staging:Staging._in_force",
        "mode is Mode.DISABLED",
        "False",
        (Selection.COMPILER,),
    ),
    Mutation(
        "a namespace says nothing to policies that are there already",
        "agent.policy.staging:Staging.set_namespace",
        "policy.staging.mode is None",
        "False",
        (Selection.STAGED,),
    ),
    Mutation(
        "what would be denied is cached as allowed",
        "agent.dataplane.iptables.rules.audits:asking_chains",
        "goto(names.CACHE, passing, check)",
        "goto(names.CACHE, check)",
        (Selection.AUDITS,),
    ),
    Mutation(
        "audited by source and destination alike",
        "agent.dataplane.iptables.rules.audits:_tree",
        "'-d' if direction is Direction.INGRESS else '-s'",
        "'-d'",
        (Selection.CHAINS,),
    ),
    Mutation(
        "chains about a pod that is audited no more stay",
        "agent.dataplane.iptables.rules.draft:Draft._render_audits",
        "dict.fromkeys(gone)",
        "{}",
        (Selection.AUDITS,),
    ),
)
