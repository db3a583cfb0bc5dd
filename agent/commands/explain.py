"""``netpol-agent explain``: whether one connection is allowed, and which policies and rules decide it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from agent.commands import suggest
from agent.commands.objects import read_server
from agent.kube.events import Invalid
from agent.kube.model import Key, Kind
from agent.net import Direction
from agent.observe.explain import text
from agent.observe.explain.answer import Answer, answer_of
from agent.observe.text import plain_console
from agent.policy.budget.census import over_budget_in
from agent.policy.budget.limits import DEFAULT, Budgets
from agent.sources.manifests.desired import DesiredObjects
from agent.sources.manifests.once import Read, Unread, read_once
from agent.spec import unjudged
from agent.spec.cluster import Cluster, cluster_of, owner
from agent.spec.evaluator import CannotSayError, evaluate
from agent.spec.question import Question
from agent.spec.verdict import Verdict


def explain(places: Sequence[Path], question: Question, budgets: Budgets = DEFAULT) -> Answer:
    """Answer a question from manifests, as an agent that has just read them would enforce.

    ``places`` are directories, files, or ``-`` for standard input.
    """
    return explain_read(read_once(places), question, budgets)


def explain_read(read: Read, question: Question, budgets: Budgets = DEFAULT) -> Answer:
    """Answer a question from what has been read once."""
    desired, refused = read.desired, read.refused
    cluster = cluster_of(read.objects, partial(over_budget_in, budgets))
    unread = _unread_reasons(read.unread)
    notes = (*read.notes, *suggest.hints(cluster, read.facts, question))
    if instead := suggest.instead(cluster, read.facts, question):
        reasons = (*instead, *unread, *_refused_ends(desired, question))
        return answer_of(question, cluster, reasons=reasons, refused=refused, notes=notes)
    try:
        verdicts = evaluate(cluster, *question[:2], *question.service)
    except CannotSayError as error:
        reasons = (str(error), *unread, *_refused_ends(desired, question))
        return answer_of(question, cluster, reasons=reasons, refused=refused, notes=notes)
    unowned = (end for end in question[:2] if isinstance(end, bytes) and owner(cluster, end) is None)
    caveats = [unjudged.not_only_judged(end) for end in unowned]
    caveats += [verdict.caveat for verdict in verdicts]
    reasons = (*filter(None, dict.fromkeys(caveats)), *unread, *_refused_reasons(desired, cluster, verdicts))
    return answer_of(question, cluster, verdicts, reasons=reasons, refused=refused, notes=notes)


def _unread_reasons(unread: Sequence[Unread]) -> list[str]:
    return [f"{one.name} could not be read, and what is in it may matter" for one in unread]


def _refused_ends(desired: DesiredObjects, question: Question) -> list[str]:
    """Say which pods of the question are there but not valid."""
    return [
        f"Pod {end} is refused"
        for end in (question.source, question.destination)
        if isinstance(end, Key) and (wanted := desired.objects.get((Kind.POD, end))) and wanted.invalid
    ]


def _refused_reasons(desired: DesiredObjects, cluster: Cluster, verdicts: tuple[Verdict, ...]) -> list[str]:
    """Say which objects that are not valid may decide these verdicts, if they were valid."""
    invalid = [wanted.invalid for wanted in desired.objects.values() if wanted.invalid is not None]
    found: dict[str, None] = {}
    for verdict in verdicts:
        for direction in Direction:
            pod = verdict.direction(direction).pod
            for one in invalid:
                if _concerns(one, cluster, direction, pod):
                    whom = str(pod) if pod is not None else "an address that is no pod's"
                    found[f"{one.kind} {one.key} is refused, and may be about {whom}"] = None
    return list(found)


def _concerns(invalid: Invalid, cluster: Cluster, direction: Direction, pod: Key | None) -> bool:
    if invalid.kind is Kind.POD:
        return pod is None
    if pod is None:
        return False
    if invalid.kind is Kind.NAMESPACE:
        return invalid.key.name == pod.namespace
    if invalid.kind is not Kind.POLICY or invalid.key.namespace != pod.namespace:
        return False
    closed = invalid.closed
    return closed is None or (
        closed.rules(direction) is not None and closed.pod_selector.matches(cluster.pods[pod].labels)
    )


def explain_cluster(
    kubeconfig: str | None, context: str | None, question: Question, budgets: Budgets = DEFAULT
) -> Answer:
    """Answer a question from the objects that an API server has now. Raises ReadError."""
    return explain_read(read_server(kubeconfig, context), question, budgets)


def show(answer: Answer, known_from: str = "the manifests say") -> None:
    """Print an answer on standard output, in colour on a terminal only."""
    text.show(answer, plain_console(sys.stdout), known_from)
