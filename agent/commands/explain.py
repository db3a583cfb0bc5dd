"""``netpol-agent explain``: whether one connection is allowed, and which policies and rules decide it."""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from agent.commands import suggest, unjudged
from agent.commands.question import Question
from agent.kube.events import Invalid
from agent.kube.model import Key, Kind
from agent.net import Direction, Family, address_text
from agent.observe.text import plain_console
from agent.policy.budget.census import over_budget_in
from agent.policy.budget.limits import DEFAULT, Budgets
from agent.sources.manifests.desired import DesiredObjects
from agent.sources.manifests.once import Unread, read_once
from agent.spec.cluster import Cluster, cluster_of, owner
from agent.spec.evaluator import CannotSayError, Endpoint, evaluate
from agent.spec.verdict import DirectionVerdict, PolicyFinding, RuleFinding, Verdict


class Outcome(enum.StrEnum):
    """What becomes of the connection."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNKNOWN = "cannot say"

    @property
    def exit_code(self) -> int:
        return list(Outcome).index(self)


class Explanation(NamedTuple):
    """The answer. ``verdicts`` has one for each family that both ends have, IPv4 first.

    ``reasons`` say why nothing can be said; ``refused`` is a line for each thing the manifests hold that
    could not be used, whether it matters here or not, and ``notes`` for what else there is to know of them.
    """

    question: Question
    outcome: Outcome
    cluster: Cluster
    verdicts: tuple[Verdict, ...] = ()
    reasons: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


# --- The answer -------------------------------------------------------------------------------------------


def explain(places: Sequence[Path], question: Question, budgets: Budgets = DEFAULT) -> Explanation:
    """Answer a question from manifests, as an agent that has just read them would enforce.

    ``places`` are directories, files, or ``-`` for standard input.
    """
    read = read_once(places)
    desired, refused = read.desired, read.refused
    cluster = cluster_of(read.objects, partial(over_budget_in, budgets))
    unread = _unread_reasons(read.unread)
    notes = (*read.notes, *suggest.hints(cluster, read.facts, question))
    if instead := suggest.instead(cluster, read.facts, question):
        reasons = (*instead, *unread, *_refused_ends(desired, question))
        return Explanation(question, Outcome.UNKNOWN, cluster, (), reasons, refused, notes)
    try:
        verdicts = evaluate(cluster, *question[:2], *question.service)
    except CannotSayError as error:
        reasons = (str(error), *unread, *_refused_ends(desired, question))
        return Explanation(question, Outcome.UNKNOWN, cluster, (), reasons, refused, notes)
    unowned = (end for end in question[:2] if isinstance(end, bytes) and owner(cluster, end) is None)
    caveats = [unjudged.not_only_judged(end) for end in unowned]
    caveats += [verdict.caveat for verdict in verdicts]
    reasons = (*filter(None, dict.fromkeys(caveats)), *unread, *_refused_reasons(desired, cluster, verdicts))
    outcome = Outcome.ALLOWED if all(verdict.allowed for verdict in verdicts) else Outcome.DENIED
    outcome = Outcome.UNKNOWN if reasons else outcome
    return Explanation(question, outcome, cluster, verdicts, reasons, refused, notes)


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


# --- For people -------------------------------------------------------------------------------------------

_COLOURS = {Outcome.ALLOWED: "green", Outcome.DENIED: "red", Outcome.UNKNOWN: "yellow"}


def show(explanation: Explanation) -> None:
    """Print an answer on standard output, in colour on a terminal only.

    The verdict first, then each direction with the policies and rules that decided it.
    """
    console = plain_console(sys.stdout)
    outcome, verdicts = explanation.outcome, explanation.verdicts
    _print(console, f"{_headline(explanation)}: {_coloured(outcome)}{_differing(verdicts)}")
    for reason in explanation.reasons:
        _print(console, f"  {escape(reason)}")
    if explanation.reasons and verdicts:
        _print(console, "  As far as the manifests say:")
    parts = [list(_verdict_lines(verdict)) for verdict in verdicts]
    alike = len(parts) == 2 and parts[0] == parts[1]
    if alike:
        _print(console, "  IPv4 and IPv6 alike")
    for verdict, lines in zip(verdicts[:1] if alike else verdicts, parts, strict=False):
        if not alike:
            ends = f"{address_text(verdict.packet.source)} to {address_text(verdict.packet.destination)}"
            _print(console, f"  IPv{verdict.family}, {ends}: {_coloured(_outcome(verdict.allowed))}")
        for line in lines:
            _print(console, f"  {line}")


def _print(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)


def _outcome(allowed: bool) -> Outcome:
    return Outcome.ALLOWED if allowed else Outcome.DENIED


def _coloured(outcome: Outcome) -> str:
    return f"[bold {_COLOURS[outcome]}]{outcome}[/]"


def _differing(verdicts: tuple[Verdict, ...]) -> str:
    if len({verdict.allowed for verdict in verdicts}) < 2:
        return ""
    return " (" + ", ".join(f"IPv{v.family} is {_outcome(v.allowed)}" for v in verdicts) + ")"


def _headline(explanation: Explanation) -> str:
    source, destination, (protocol, port) = explanation.question
    cluster, verdicts = explanation.cluster, explanation.verdicts
    service = f"{protocol.name} {port}"
    if isinstance(port, str) and verdicts:
        pod = verdicts[0].ingress.pod
        service = f"{protocol.name} {verdicts[0].packet.port}, which is {port} on {pod}"
    return escape(f"{_end_text(cluster, source)} to {_end_text(cluster, destination)}, {service}")


def _end_text(cluster: Cluster, endpoint: Endpoint) -> str:
    if isinstance(endpoint, Key):
        return str(endpoint)
    pod = owner(cluster, endpoint)
    return f"{address_text(endpoint)} ({pod.key})" if pod is not None else address_text(endpoint)


def _verdict_lines(verdict: Verdict) -> Iterator[str]:
    yield from _direction_lines(verdict.egress, "source")
    yield from _direction_lines(verdict.ingress, "destination")


def _direction_lines(verdict: DirectionVerdict, side: str) -> Iterator[str]:
    """Give the lines about one direction: of what allows it the rules that do, of a denial all of them."""
    whose = f"{verdict.direction} of {verdict.pod if verdict.pod is not None else f'the {side}'}"
    if not verdict.isolated:
        yield f"{escape(whose)}: {_coloured(_outcome(verdict.allowed))}, {escape(verdict.why)}"
        return
    yield f"{escape(whose)}: {_coloured(_outcome(verdict.allowed))}"
    policies = "policy" if len(verdict.policies) == 1 else "policies"
    yield f"  isolated by {policies} {escape(', '.join(str(found.policy) for found in verdict.policies))}"
    for found in verdict.policies:
        for rule in found.rules:
            if rule.allows:
                yield escape(f"  allowed by rule {rule.number} of {found.policy}: {_rule_text(rule)}")
            elif not verdict.allowed:
                yield escape(f"  not by rule {rule.number} of {found.policy}: {_rule_text(rule)}")
        if found.not_enforced:
            yield escape(
                f"  not by {found.policy}, which is over budget and allows nothing: {found.not_enforced}"
            )
        elif not found.rules and not verdict.allowed:
            yield escape(f"  not by {found.policy}: it has no {verdict.direction} rule")


def _rule_text(rule: RuleFinding) -> str:
    """Return why a rule allows, or why what does not match of it does not."""
    answers = (("peer", rule.peer), ("port", rule.port))
    return ", ".join(f"{what} ({answer.why})" for what, answer in answers if answer.yes is rule.allows)


# --- For programs -----------------------------------------------------------------------------------------


def as_json(explanation: Explanation) -> str:
    """Return the whole answer as JSON: every policy that isolates, every rule, and why it matches or not."""
    question = explanation.question
    document = {
        "source": _end_data(question.source),
        "destination": _end_data(question.destination),
        "protocol": question.service.protocol.name,
        "port": question.service.port,
        "outcome": explanation.outcome.value,
        "reasons": list(explanation.reasons),
        "refused": list(explanation.refused),
        "notes": list(explanation.notes),
        "families": [_verdict_data(verdict) for verdict in explanation.verdicts],
    }
    return json.dumps(document, indent=2) + "\n"


def _end_data(endpoint: Endpoint) -> str:
    return str(endpoint) if isinstance(endpoint, Key) else address_text(endpoint)


def _verdict_data(verdict: Verdict) -> dict[str, object]:
    return {
        "family": Family(verdict.family).value,
        "source": address_text(verdict.packet.source),
        "destination": address_text(verdict.packet.destination),
        "port": verdict.packet.port,
        "allowed": verdict.allowed,
        **{direction.value: _direction_data(verdict.direction(direction)) for direction in Direction},
    }


def _direction_data(verdict: DirectionVerdict) -> dict[str, object]:
    return {
        "pod": str(verdict.pod) if verdict.pod is not None else None,
        "allowed": verdict.allowed,
        "isolated": verdict.isolated,
        "why": verdict.why,
        "policies": [_policy_data(found) for found in verdict.policies],
    }


def _policy_data(found: PolicyFinding) -> dict[str, object]:
    return {
        "policy": str(found.policy),
        **({"notEnforced": found.not_enforced} if found.not_enforced else {}),
        "rules": [
            {
                "rule": rule.number,
                "allows": rule.allows,
                "peer": {"matches": rule.peer.yes, "why": rule.peer.why},
                "port": {"matches": rule.port.yes, "why": rule.port.why},
            }
            for rule in found.rules
        ],
    }
