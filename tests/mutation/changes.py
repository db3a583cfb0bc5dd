"""Breakages of lines for policies, of changes that are replayed, and of policies that are proposed."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

CHANGES = (
    Mutation(
        "the excepts of a block left out of its line",
        "agent.convert.ends:write_peer",
        "f'{peer.block.cidr}|{excepts}' if excepts else str(peer.block.cidr)",
        "str(peer.block.cidr)",
        (Selection.LINES,),
    ),
    Mutation(
        "all traffic denied on ingress alone",
        "agent.convert.read:_DENIED",
        "(Direction.INGRESS, Direction.EGRESS)",
        "(Direction.INGRESS,)",
        (Selection.LINES,),
    ),
    Mutation(
        "a policy written as a line that is not read again",
        "agent.convert.write:write_line",
        "(normal(again.policy), again.mode) != (normal(policy), mode)",
        "False",
        (Selection.LINES,),
    ),
    Mutation(
        "what was asked for judged in place of what answers",
        "agent.observe.replay.here:Witness._tracked",
        "(one.opened.source, reply.source, reply.protocol, reply.source_port)",
        "(one.opened.source, one.opened.destination, reply.protocol, one.opened.port)",
        (Selection.WITNESS,),
    ),
    Mutation(
        "a connection that two nodes have seen counted twice",
        "agent.observe.replay.seen:gather",
        "max(before[0], number)",
        "before[0] + number",
        (Selection.REPLAYED,),
    ),
    Mutation(
        "an address judged as the pod's that has it now",
        "agent.observe.replay.replayed:_address",
        "address if owner is None else REUSED",
        "address",
        (Selection.REPLAYED,),
    ),
    Mutation(
        "a policy that is edited held beside the old one",
        "agent.observe.replay.change:Change.applied",
        "{**kept, **self.policies}",
        "{**self.policies, **kept}",
        (Selection.REPLAYED,),
    ),
    Mutation(
        "pods that a proposed policy isolates by the way forgotten",
        "agent.observe.propose.propose:_wanted",
        "workloads.selected(workload)",
        "[]",
        (Selection.PROPOSED,),
    ),
    Mutation(
        "ports that are not in a row made one range",
        "agent.observe.propose.propose:_ports",
        "_end(last) + 1 == number",
        "_end(last) < number",
        (Selection.PROPOSED,),
    ),
)
