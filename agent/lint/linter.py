"""From texts to a report: every rule is asked of every policy, and what is silenced is taken out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agent.lint.finding import Finding, Hit, Severity
from agent.lint.positions import Position, Positions
from agent.lint.reading import Gathered, Input, Place, gather
from agent.lint.registry import BY_ID, RULES
from agent.lint.scene import Range
from agent.lint.silence import Silence, faults_of, silences

_PART = re.compile(r"spec\.(podSelector|(ingress|egress)\[\d+\](\.(from|to|ports)\[\d+\])?)")

_EDGE = re.compile(r"[.\[]")


class Report(NamedTuple):
    """What was found, sorted by place; how many policies and files were looked at, how many silenced."""

    findings: tuple[Finding, ...]
    policies: int
    files: int
    silenced: int

    def worst(self) -> Severity | None:
        """Return the worst severity of a finding; None without findings."""
        return min((one.severity for one in self.findings), key=lambda s: s.rank, default=None)


def lint(
    inputs: Sequence[Input], pod_ranges: Sequence[Range] = (), service_ranges: Sequence[Range] = ()
) -> Report:
    """Look at texts. Never raises, whatever is in them."""
    gathered = gather(inputs, pod_ranges, service_ranges)
    positions = [Positions(one.text) for one in inputs]
    found: dict[int, list[Finding]] = {number: [] for number in range(len(inputs))}
    for place, rule, title, hit in _hits(gathered):
        found[place.source].append(_finding(inputs, positions, place, rule, title, hit))
    kept: list[Finding] = []
    silenced = 0
    for number, findings in found.items():
        if inputs[number].context:
            continue
        left, taken = _silenced(inputs[number], findings)
        kept += left
        silenced += taken
    own = sum(1 for policy in gathered.scene.policies if not policy.context) + len(gathered.apart)
    files = sum(1 for one in inputs if not one.context)
    # An alias repeats a place, and with it what is wrong there.
    unique = dict.fromkeys(sorted(kept, key=lambda one: (one.file, one.line, one.column, one.rule)))
    return Report(tuple(unique), own, files, silenced)


def _hits(gathered: Gathered) -> Iterator[tuple[Place, str, str, Hit]]:
    for early in gathered.found:
        yield early.place, early.rule, early.object, early.hit
    for policy, place in zip(gathered.scene.policies, gathered.places, strict=True):
        if policy.context:
            continue
        title = f"NetworkPolicy {policy.key}"
        for rule in RULES:
            if rule.check is not None:
                for hit in rule.check(policy, gathered.scene):
                    yield place, rule.id, title, hit
    for policy, place in gathered.apart:
        parts = {_part(field) for field in policy.broken}
        for rule in RULES:
            for hit in rule.check(policy, gathered.scene) if rule.check is not None and rule.of_parts else ():
                if not any(around in parts for around in _around(hit.path)):
                    yield place, rule.id, f"NetworkPolicy {policy.key}", hit


def _part(field: str) -> str:
    """Return the smallest part of a policy that says something by itself, of those that hold a field."""
    found = _PART.match(field)
    return found[0] if found else field


def _around(path: str) -> Iterator[str]:
    """Give a field and every field around it."""
    yield path
    yield from (path[: edge.start()] for edge in _EDGE.finditer(path))


def _finding(
    inputs: Sequence[Input], positions: Sequence[Positions], place: Place, rule: str, title: str, hit: Hit
) -> Finding:
    source = inputs[place.source]
    known = BY_ID[rule]
    at: Position | None = None
    if source.cluster:
        at = Position(0, 0)
    elif hit.path or title:
        at = positions[place.source].find(place.document, place.where + hit.path)
    at = at or Position(place.line, 1)
    return Finding(
        source.name,
        at.line,
        at.column,
        known.severity,
        rule,
        title,
        hit.path,
        hit.message,
        hit.remedy,
        known.fixable and not source.cluster,
    )


def _silenced(source: Input, findings: Sequence[Finding]) -> tuple[list[Finding], int]:
    """Take out what comments silence, and add what is wrong with the comments. Returns how many it took."""
    comments = silences(source.text)
    used: dict[Silence, set[str]] = {comment: set() for comment in comments}
    on_line: dict[int, list[Silence]] = {}
    for comment in comments:
        on_line.setdefault(comment.about, []).append(comment)
    left: list[Finding] = []
    for finding in findings:
        by = [c for c in on_line.get(finding.line, ()) if finding.rule in c.rules]
        for comment in by:
            used[comment].add(finding.rule)
        if not by:
            left.append(finding)
    taken = len(findings) - len(left)
    for comment in comments:
        for rule, hit in faults_of(comment, set(BY_ID), used[comment]):
            severity = BY_ID[rule].severity
            left.append(Finding(source.name, comment.line, comment.column, severity, rule, "", "", *hit[1:]))
    return left, taken
