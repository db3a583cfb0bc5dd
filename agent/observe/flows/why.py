"""Why a connection was denied or allowed, as the specification says it: :mod:`agent.spec.evaluator`."""

from __future__ import annotations

from typing import NamedTuple

from agent.dataplane.logged import Cause, Decided, Judged
from agent.kube.model import Object
from agent.net import Direction
from agent.observe.flows.flow import Nearest
from agent.policy.extract import Extract
from agent.spec.cluster import Cluster, cluster_of
from agent.spec.evaluator import judge_direction
from agent.spec.hints import DNS, NO_DNS
from agent.spec.verdict import DirectionVerdict, Packet, PolicyFinding, RuleFinding
from agent.words import count, some


class Reason(NamedTuple):
    """One line for people, the policies that isolate the pod, and the rules that decide or came nearest."""

    why: str
    policies: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    nearest: Nearest | None = None


def cluster_in(found: Extract) -> Cluster:
    """Return the few objects as a cluster. What is over budget here holds for pods of this node only."""
    objects: tuple[Object, ...] = (*found.pods, *found.namespaces, *found.policies)
    return cluster_of(objects, lambda *_: found.over_budget)


def reason(verdict: DirectionVerdict, decided: Decided, standins: frozenset[str] = frozenset()) -> Reason:
    """Say why a packet was treated so, given what the specification says of it now.

    ``standins``: policies that stand in for invalid ones, by ``namespace/name``.
    """
    policies = tuple(str(found.policy) for found in verdict.policies)
    allowing = tuple(f"{policy}[{number}]" for policy, number in verdict.allowing)
    if decided is Decided.ALLOWED:
        if allowing:
            return Reason(f"allowed by {some(allowing)}", policies, allowing)
        return Reason(_changed(verdict), policies)
    if decided is Decided.WOULD_DENY:
        return _would_deny(verdict, standins)
    if verdict.pod is None:
        return Reason(f"{verdict.why.partition(':')[0]}; it stays closed after a pod that was isolated")
    if verdict.allowed:
        return Reason(_changed(verdict), policies, allowing)
    nearest = _nearest(verdict.policies)
    beside = _beside(verdict)
    if nearest is not None:
        return Reason(f"{_nearest_text(nearest)}{beside}", policies, nearest=nearest)
    return Reason(f"{_no_rule(verdict.policies, verdict.direction, standins)}{beside}", policies)


def judged_reason(
    cluster: Cluster,
    direction: Direction,
    packet: Packet,
    decided: Decided,
    standins: frozenset[str] = frozenset(),
    asked_port: int | None = None,
) -> Reason:
    """Judge a packet again, say why as :func:`reason` does, and name a mistake that is often behind it.

    ``asked_port``: the port that the source asked a Service for, where translation has made another of it.
    """
    verdict = judge_direction(cluster, direction, packet)
    found = reason(verdict, decided, standins)
    if decided is Decided.ALLOWED or _passes(verdict):
        return found
    by_service = packet if asked_port is None else packet._replace(port=asked_port)
    if by_service != packet and _passes(judge_direction(cluster, direction, by_service)):
        return found._replace(
            why=f"{found.why}; {asked_port} is the port of the Service: a policy sees the pod's, "
            f"so write {packet.port}"
        )
    if direction is Direction.EGRESS and packet.port == DNS:
        for hint in verdict.hints:
            if hint.startswith(NO_DNS):
                return found._replace(why=f"{found.why}; {hint}")
    return found


def _passes(verdict: DirectionVerdict) -> bool:
    return verdict.allowed and not verdict.would_deny


def _would_deny(verdict: DirectionVerdict, standins: frozenset[str]) -> Reason:
    """Say what the audited policies lack to allow a packet."""
    policies = tuple(str(found.policy) for found in verdict.audited)
    if not verdict.would_deny:
        return Reason(
            "by the policies of now it would not be: they have changed since, or are not audited any more "
            "(netpol-agent history says which)",
            policies,
        )
    nearest = _nearest(verdict.audited)
    if nearest is not None:
        return Reason(f"audited: {_nearest_text(nearest)}", policies, nearest=nearest)
    return Reason(f"audited: {_no_rule(verdict.audited, verdict.direction, standins, 'would be')}", policies)


def _beside(verdict: DirectionVerdict) -> str:
    """Say which audited rule would allow what is denied, if one would."""
    if not verdict.would_allow:
        return ""
    policy, number = verdict.would_allow_by[0]
    return f"; rule {number} of {policy}, which is audited, would allow it"


def by_link(judged: Judged, address: str, owner: str, pod: str) -> str:
    """Say why a packet was denied by the link that it used.

    ``owner``: the pod that has the address which was judged, if any; ``pod``: whose the link is, if known.
    """
    link = f"the link of {pod} ({judged.link})" if pod else f"the link {judged.link}"
    if judged.cause is Cause.FURTHER:
        return (
            f"{address} is a further address behind {link}, which the API does not know: none of the "
            f"{judged.direction} policies of that pod allows it"
        )
    whose = f"is the address of {owner}" if owner else "is no pod's address"
    way = "came by" if judged.direction is Direction.EGRESS else "was to leave by"
    return f"{address} {whose}, but the packet {way} {link}: dropped, whatever the policies allow"


def _changed(verdict: DirectionVerdict) -> str:
    now = "allowed" if verdict.allowed else "denied"
    return (
        f"by the policies of now it is {now}: they have changed since, or were not written yet, or somebody "
        "changed the kernel's rules (netpol-agent history says which)"
    )


def _nearest(policies: tuple[PolicyFinding, ...]) -> Nearest | None:
    """Return the rule of which most matches; of several one whose peer matches, and of these the first."""
    best: tuple[int, bool] = (0, False)
    nearest = None
    for found in policies:
        for rule in found.rules:
            score = (rule.peer.yes + rule.port.yes, rule.peer.yes)
            if score > best:
                best = score
                nearest = Nearest(
                    str(found.policy), rule.number, rule.peer.yes, rule.port.yes, _unmatched(rule)
                )
    return nearest


def _unmatched(rule: RuleFinding) -> str:
    parts = (("peer", rule.peer), ("port", rule.port))
    return ", ".join(answer.why for _, answer in parts if not answer.yes)


def _nearest_text(nearest: Nearest) -> str:
    matches, differs = ("peer", "port") if nearest.peer else ("port", "peer")
    return (
        f"rule {nearest.rule} of {nearest.policy} comes nearest: its {matches} matches, its {differs} does "
        f"not ({nearest.why})"
    )


def _no_rule(
    findings: tuple[PolicyFinding, ...], direction: Direction, standins: frozenset[str], be: str = ""
) -> str:
    over = [found for found in findings if found.not_enforced]
    if over:
        return f"{over[0].policy} is over budget and allows nothing: {over[0].not_enforced}"
    invalid = [str(found.policy) for found in findings if str(found.policy) in standins]
    if invalid:
        return f"{some(invalid)} cannot be used as written, and allows nothing until it is corrected"
    rules = sum(len(found.rules) for found in findings)
    names = some([str(found.policy) for found in findings])
    be = f"{be} " if be else ""
    if not rules:
        return f"{be}isolated by {names}, without any {direction} rule"
    return f"{be}isolated by {names}: of {count(rules, 'rule')}, none has its peer or its port"
