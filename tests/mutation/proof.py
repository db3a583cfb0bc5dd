"""Breakages of the proof that the kernel does what the policies say: each would prove what is not so."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

PROOF = (
    Mutation(
        "what cannot be read passed over",
        "agent.proof.walk:Walker._walked",
        "end((UNREAD, now), coming)",
        "then[now] = area.merged(then.get(now, area.NOTHING), coming)",
        (Selection.BREAKS,),
    ),
    Mutation(
        "a goto that comes back to its own chain",
        "agent.proof.walk:Walker._effects",
        "what == BACK and not rule.goto",
        "what == BACK",
        (Selection.WALK,),
    ),
    Mutation(
        "what the kernel opens not looked for",
        "agent.proof.family:Proof._of",
        "area.without(passed, wanted)",
        "area.NOTHING",
        (Selection.PROOF, Selection.BREAKS),
    ),
    Mutation(
        "marks that a packet bears before not tried",
        "agent.proof.ways:marks",
        "(0, used, *others[-_MOST_MARKS:])",
        "(0,)",
        (Selection.BREAKS,),
    ),
    Mutation(
        "networks of a set that leave out, taken in",
        "agent.proof.atoms:covered",
        "(*of_network(member.network), member.nomatch)",
        "(*of_network(member.network), False)",
        (Selection.AREAS,),
    ),
    Mutation(
        "frames of which a part is missing not tried",
        "agent.proof.frames.header:Layout.may_be",
        "not there or all(self._rank(other) < rank for other in present)",
        "not there",
        (Selection.FRAMES_PROVED,),
    ),
    Mutation(
        "one link taken for another whose set holds something else",
        "agent.proof.frames.walk:Walker._like",
        "tuple(frozenset(program.values(part, own)) for part in looked)",
        "()",
        (Selection.FRAMES_PROVED,),
    ),
    Mutation(
        "a goto of frames that comes back to its own chain",
        "agent.proof.frames.walk:Walker._through",
        'found or word == "goto"',
        "found",
        (Selection.FRAMES_PROVED,),
    ),
    Mutation(
        "tagged frames not tried",
        "agent.proof.frames.prove:_contexts",
        "(0, *TAGS)",
        "(0,)",
        (Selection.FRAMES_PROVED,),
    ),
    Mutation(
        "what a pod claims first given to who claims it later",
        "agent.proof.frames.senders:senders",
        "address not in holders.get(number, ())",
        "False",
        (Selection.FRAMES_PROVED,),
    ),
    Mutation(
        "tunnels told by a port alone",
        "agent.proof.node:differences",
        "area.merged(tunnels, {OTHER: proof.atoms.every})",
        "tunnels",
        (Selection.BREAKS,),
    ),
    Mutation(
        "where a frame is sent to taken for no pod's if it is not told",
        "agent.proof.beside:differences",
        "not ours and not (one.go is None and pods)",
        "not ours",
        (Selection.BESIDE,),
    ),
    Mutation(
        "a repair while the agent writes",
        "agent.runtime.proving:Proving._take",
        "not self._unchanged(moment)",
        "False",
        (Selection.PROVING,),
    ),
)
