"""Why a connection was denied or allowed, as the specification says it: :mod:`agent.spec.evaluator`."""

from __future__ import annotations

from typing import NamedTuple

from agent.dataplane.logged import Decided
from agent.kube.model import Object
from agent.observe.flows.flow import Nearest
from agent.policy.extract import Extract
from agent.spec.cluster import Cluster, cluster_of
from agent.spec.verdict import DirectionVerdict, PolicyFinding, RuleFinding
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
    if verdict.pod is None:
        return Reason(f"{verdict.why.partition(':')[0]}; it stays closed after a pod that was isolated")
    if verdict.allowed:
        return Reason(_changed(verdict), policies, allowing)
    nearest = _nearest(verdict.policies)
    if nearest is not None:
        return Reason(_nearest_text(nearest), policies, nearest=nearest)
    return Reason(_no_rule(verdict, standins), policies)


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


def _no_rule(verdict: DirectionVerdict, standins: frozenset[str]) -> str:
    over = [found for found in verdict.policies if found.not_enforced]
    if over:
        return f"{over[0].policy} is over budget and allows nothing: {over[0].not_enforced}"
    invalid = [str(found.policy) for found in verdict.policies if str(found.policy) in standins]
    if invalid:
        return f"{some(invalid)} cannot be used as written, and allows nothing until it is corrected"
    rules = sum(len(found.rules) for found in verdict.policies)
    names = some([str(found.policy) for found in verdict.policies])
    if not rules:
        return f"isolated by {names}, without any {verdict.direction} rule"
    return f"isolated by {names}: of {count(rules, 'rule')}, none has its peer or its port"
