"""Mutations of what ends connections that a change forbids."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

CUTS: tuple[Mutation, ...] = (
    Mutation(
        "data is cut though its control connection is allowed again since the look",
        "agent.runtime.cut_look:Judged.denied_by",
        "None if None in found else found[0]",
        "next(iter(found))",
        (Selection.CUTTING,),
    ),
    Mutation(
        "the data of FTP is judged alone",
        "agent.runtime.cut_look:Look._judged",
        "yield Judged(one, (sort_of(one), sort))",
        "yield Judged(one, (sort_of(one),))",
        (Selection.CUTTING,),
    ),
    Mutation(
        "one pod's many connections keep another's out",
        "agent.runtime.cut_look:Waiting.is_full_for",
        "len(self._by_pod.get(pod, ())) >= self._most - 1",
        "True",
        (Selection.CUTTING,),
    ),
    Mutation(
        "a connection that is found twice is told twice",
        "agent.runtime.cut_look:Waiting.has",
        "one.connection.entry in self._known",
        "False",
        (Selection.CUTTING,),
    ),
    Mutation(
        "what waits to be compiled is taken for denied",
        "agent.runtime.cutting:Cutting._end",
        "self._engine.waits_in(pod.pod.namespace)",
        "False",
        (Selection.CUTTING,),
    ),
    Mutation(
        "what was cut by a bit of before goes on",
        "agent.runtime.cutting:Cutting._other_marks",
        "marks == self._marks",
        "any(self._marks)",
        (Selection.CUTTING,),
    ),
    Mutation(
        "who takes the mark from what was cut is not told",
        "agent.dataplane.iptables.tables.marks:_overwritten",
        "use.overwritten & bit",
        "False",
        (Selection.MARKS,),
    ),
    Mutation(
        "what there was no room for is forgotten",
        "agent.runtime.cutting:Cutting._take",
        "self._more.add(scope)",
        "pass",
        (Selection.CUTTING,),
    ),
    Mutation(
        "the node's own connections are cut",
        "agent.runtime.cut_look:Look._denies",
        "one.source in self.own or one.destination in self.own",
        "False",
        (Selection.CUTTING,),
    ),
    Mutation(
        "what changes waits for the look that goes on",
        "agent.runtime.cutting:Cutting._next_look",
        "self._scope and not self._inner",
        "self._scope and self._look is None",
        (Selection.CUT_TURNS,),
    ),
    Mutation(
        "what a look did not come to is forgotten",
        "agent.runtime.cutting:Cutting._looked",
        "self._begin_beside(look.errands.popleft())",
        "pass",
        (Selection.CUT_TURNS,),
    ),
    Mutation(
        "what others were put in place of goes on",
        "agent.runtime.cutting:Cutting._take",
        "seen_from(of_pod, out.connection)",
        "(b'', b'')",
        (Selection.CUT_TURNS,),
    ),
    Mutation(
        "what was let in before the kernel had the change goes on",
        "agent.runtime.cutting:Cutting._begin",
        "self._early.add(scope)",
        "pass",
        (Selection.CUTTING,),
    ),
    Mutation(
        "what there was no room for stays cut",
        "agent.runtime.cutting:Cutting._take_freed",
        "self._again or look.more",
        "self._again",
        (Selection.CUTTING,),
    ),
    Mutation(
        "a connection that was being opened is not ended",
        "agent.kernel.marked:mark",
        "one.status | seen",
        "one.status",
        (Selection.MARKED,),
    ),
    Mutation(
        "what the kernel gives unasked is taken for what it was asked for",
        "agent.kernel.conntrack:_picked",
        "ends_of(body)[side.at] != address",
        "False",
        (Selection.MARKED,),
    ),
    Mutation(
        "connections that a pod answers are not looked for",
        "agent.kernel.marked:connections",
        "_ENDS",
        "_ENDS[:1]",
        (Selection.MARKED,),
    ),
    Mutation(
        "the node's own packets end where another program gives them the agent's bits",
        "agent.dataplane.iptables.rules.cut:output",
        "'-m addrtype ! --src-type LOCAL'",
        "''",
        (Selection.CUT_KINDS,),
    ),
)
