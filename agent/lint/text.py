"""A report for people: a line for each finding, one with the remedy below it, and a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from agent.lint.finding import Finding, Severity
from agent.lint.linter import Report
from agent.words import count

Part = tuple[str, str]
"""A text and the name of its style."""

STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}


def lines(report: Report) -> Iterator[list[Part]]:
    """Give the lines of a report, each as texts with their styles; "" is plain."""
    for finding in report.findings:
        yield from _lines(finding)
    yield [(summary(report), "bold")]


def _lines(finding: Finding) -> Iterator[list[Part]]:
    place = f"{finding.file}:{finding.line}:{finding.column}: " if finding.line else f"{finding.file}: "
    about = ": ".join(filter(None, (finding.object, finding.field)))
    yield [
        (place, "dim"),
        (finding.severity.value, STYLES[finding.severity]),
        (f" [{finding.rule}] ", ""),
        (f"{about}: " if about else "", ""),
        (finding.message, ""),
    ]
    if finding.remedy:
        yield [("    remedy: ", "dim"), (finding.remedy, "")]


def summary(report: Report) -> str:
    """Return how many findings there are, of what severity, in what was looked at."""
    numbers = Counter(finding.severity for finding in report.findings)
    said = ", ".join(
        f"{numbers[severity]} info" if severity is Severity.INFO else count(numbers[severity], severity.value)
        for severity in Severity
        if numbers[severity]
    )
    silenced = f"; {count(report.silenced, 'finding')} silenced" if report.silenced else ""
    policies = "1 policy" if report.policies == 1 else f"{report.policies} policies"
    looked = f" in {policies} of {count(report.files, 'file')}" if report.files else f" in {policies}"
    return (said or "no findings") + looked + silenced
