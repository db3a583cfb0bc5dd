"""Breakages of how logged connections are decoded, folded, explained and told."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

FLOWS = (
    Mutation(
        "the ports of a later fragment read from its payload",
        "agent.kernel.headers:_v4",
        "found if later else _transport(found, view[header:])",
        "_transport(found, view[header:])",
        (Selection.HEADERS,),
    ),
    Mutation(
        "the lengths of an authentication header counted as others'",
        "agent.kernel.headers:_v6",
        "at += (size + 2) * 4",
        "at += (size + 1) * 8",
        (Selection.HEADERS,),
    ),
    Mutation(
        "an answer taken for the first packet of a connection",
        "agent.kernel.headers:Headers.opens",
        "self.flags & 0x17 == 0x02",
        "self.flags & 0x02",
        (Selection.HEADERS,),
    ),
    Mutation(
        "all that came in a window told as one packet",
        "agent.observe.flows.fold:Folding.take",
        "known.count += 1",
        "known.count = 1",
        (Selection.FOLD,),
    ),
    Mutation(
        "a rule whose port alone matches taken for nearer than one whose peer does",
        "agent.observe.flows.why:_nearest",
        "(rule.peer.yes + rule.port.yes, rule.peer.yes)",
        "(rule.peer.yes + rule.port.yes, rule.port.yes)",
        (Selection.DIGEST,),
    ),
    Mutation(
        "a verdict of other policies explained by those of now",
        "agent.observe.flows.why:reason",
        "verdict.allowed",
        "False",
        (Selection.DIGEST,),
    ),
    Mutation(
        "the pod that is judged looked for at the other end",
        "agent.observe.flows.digest:Digest._report",
        "destination if judged.direction is Direction.INGRESS else source",
        "source if judged.direction is Direction.INGRESS else destination",
        (Selection.DIGEST,),
    ),
    Mutation(
        "what the limit left out told again with each window",
        "agent.runtime.flow_log:FlowLog._tell_swallowed",
        "self._counted = dict(counted)",
        "pass",
        (Selection.FLOW_LOG,),
    ),
    Mutation(
        "a namespace's annotation heard before the pod's",
        "agent.policy.logging:LogChoice._of",
        "said.over(namespace.logging)",
        "namespace.logging.over(said)",
        (Selection.LOGGED,),
    ),
    Mutation(
        "a change of a namespace's annotation not heard",
        "agent.policy.logging:LogChoice.namespace_changed",
        "self._touched.add(name)",
        "pass",
        (Selection.LOGGED,),
    ),
)
