"""Which denied connections are between two ends of a question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.dataplane.logged import Decided
from agent.kube.model import Key
from agent.net import address_text
from agent.observe.flows.flow import End, Flow
from agent.observe.flows.hub import KEPT, Flows, Wanted
from agent.spec.evaluator import Endpoint
from agent.spec.question import Question


def denied(flows: Flows, most: int, pod: str = "", policy: str = "") -> list[Flow]:
    """Return the last denied connections that were reported, the newest first, ``most`` at most.

    ``pod`` is either end, ``policy`` one that isolates the pod: as ``namespace/name``; empty: any.
    """
    found = flows.recent(most, Wanted(Decided.DENIED, pod, policy))
    return [one for one in found if isinstance(one, Flow)][::-1]


def denied_between(flows: Flows, questions: Iterable[Question], most: int = 10) -> list[Flow]:
    """Return the last denied connections between the ends of questions, the newest first, to any port."""
    pairs = {(_text(one.source), _text(one.destination)) for one in questions}
    found = (
        flow
        for flow in denied(flows, KEPT)
        if any((a, b) in pairs for a in _names(flow.source) for b in _names(flow.destination))
    )
    return [flow for flow, _ in zip(found, range(most), strict=False)]


def _names(end: End) -> Sequence[str]:
    return (end.address, end.pod) if end.pod else (end.address,)


def _text(end: Endpoint) -> str:
    return str(end) if isinstance(end, Key) else address_text(end)
