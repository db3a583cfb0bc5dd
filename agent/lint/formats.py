"""A report for other programs: JSON, SARIF 2.1.0, and annotations of GitHub's workflows."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from agent import __version__
from agent.lint.finding import Finding, Severity
from agent.lint.linter import Report
from agent.lint.registry import RULES
from agent.words import printable

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_SARIF = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_GITHUB = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def as_json(report: Report) -> str:
    """Return a report as JSON: the findings in the order of their places, and the counts."""
    document = {
        "findings": [one._asdict() for one in report.findings],
        "policies": report.policies,
        "files": report.files,
        "silenced": report.silenced,
    }
    return json.dumps(document, indent=2) + "\n"


def as_sarif(report: Report) -> str:
    """Return a report in the Static Analysis Results Interchange Format, version 2.1.0 (OASIS)."""
    index = {rule.id: number for number, rule in enumerate(RULES)}
    rules = [
        {
            "id": rule.id,
            "shortDescription": {"text": rule.title},
            "fullDescription": {"text": rule.why},
            "help": {"text": rule.remedy},
            "defaultConfiguration": {"level": _SARIF[rule.severity]},
        }
        for rule in RULES
    ]
    run = {
        "tool": {"driver": {"name": "netpol-agent", "version": __version__, "rules": rules}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(one, index[one.rule]) for one in report.findings],
    }
    document = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=2) + "\n"


def _result(finding: Finding, index: int) -> dict[str, Any]:
    location: dict[str, Any] = {}
    if finding.line:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": quote(PurePath(finding.file).as_posix())},
            "region": {"startLine": finding.line, "startColumn": finding.column},
        }
    if finding.object:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.object, "kind": "object"}]
    return {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": _SARIF[finding.severity],
        "message": {"text": sentence(finding)},
        "locations": [location],
    }


def as_github(report: Report) -> str:
    """Return a line for each finding as GitHub's runners show it beside the code of a pull request."""
    return "".join(map(_annotation, report.findings))


def _annotation(finding: Finding) -> str:
    place = (
        f"file={_property(finding.file)},line={finding.line},col={finding.column}," if finding.line else ""
    )
    message = printable(sentence(finding)).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{_GITHUB[finding.severity]} {place}title={_property(finding.rule)}::{message}\n"


def _property(text: str) -> str:
    text = printable(text)
    for char, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C")):
        text = text.replace(char, code)
    return text


def sentence(finding: Finding) -> str:
    """Return what a finding says, in one line: the object, the field, what is wrong, the remedy."""
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    parts = (finding.object, finding.field, f"{finding.message}{remedy}")
    return ": ".join(filter(None, parts))
