"""Breakages of who may send as whom by which link."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

FRAMES = (
    Mutation(
        "the table not let go of for the agent that begins anew",
        "agent.runtime.frames:Frames._close",
        "self._guard.close()",
        "pass",
        (Selection.FRAMES_TASK,),
    ),
    Mutation(
        "a hardware address given to whoever says it is his",
        "agent.dataplane.frames.bindings:bindings",
        "number in holders.get((link.bridge, claim), {number})",
        "True",
        (Selection.FRAMES,),
    ),
    Mutation(
        "nobody given what somebody had, not even he",
        "agent.dataplane.frames.bindings:bindings",
        "number in holders.get((link.bridge, claim), {number})",
        "(link.bridge, claim) not in holders",
        (Selection.FRAMES,),
    ),
    Mutation(
        "routed pods taken for neighbours",
        "agent.dataplane.frames.bindings:bindings",
        "claims[sender.number] & held.get(sender.number, frozenset()) if link.bridge else ()",
        "claims[sender.number] & held.get(sender.number, frozenset())",
        (Selection.FRAMES,),
    ),
    Mutation(
        "the addresses of one family put into the set of the other",
        "agent.dataplane.frames.bindings:Binding.of",
        "family_of(address) is family",
        "family_of(address) is not family",
        (Selection.FRAMES,),
    ),
    Mutation(
        "links of an earlier look taken for those of this run",
        "agent.runtime.frames:Frames._known",
        "self._linked_pods.settled",
        "True",
        (Selection.FRAMES_TASK,),
    ),
    Mutation(
        "all let go of while links cannot be looked for",
        "agent.runtime.frames:Frames._known",
        "self._linked_pods.looked",
        "True",
        (Selection.FRAMES_TASK,),
    ),
    Mutation(
        "a table of frames that anybody can change",
        "agent.dataplane.frames.guard:FrameGuard._open",
        "nf_owned.flags(netlink)",
        "0",
        (Selection.HELD_FRAMES,),
    ),
    Mutation(
        "a table that goes with the program it belongs to",
        "agent.kernel.nf_owned:flags",
        "return OWNED",
        "return OWNER",
        (Selection.HELD_FRAMES,),
    ),
    Mutation(
        "what others wrote in the sets taken for what this agent allowed",
        "agent.dataplane.frames.guard:FrameGuard.follow",
        "seen.keys if self._rules is None else table.keys(self._bound.values())",
        "seen.keys",
        (Selection.HELD_FRAMES,),
    ),
)
