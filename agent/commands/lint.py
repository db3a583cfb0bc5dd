"""``netpol-agent lint``: what is wrong with policies, before they are applied."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from rich.text import Text as Styled

from agent.kube.address import strict_network
from agent.lint import formats, text
from agent.lint.finding import Severity
from agent.lint.fix import fix
from agent.lint.linter import Report, lint
from agent.lint.reading import Input
from agent.lint.scene import Range
from agent.net import Network
from agent.observe.text import plain_console
from agent.sources.apiserver.connect import Connection
from agent.sources.apiserver.once import read_cluster
from agent.sources.manifests.directory import shown
from agent.sources.manifests.once import STANDARD_INPUT, Text, Texts

_CLUSTER = "the API server"


class Cluster(NamedTuple):
    """How to reach an API server."""

    kubeconfig: str | None
    context: str | None


class Outcome(NamedTuple):
    """A report, or why nothing could be looked at (``unusable``, with remedies), and notes for people."""

    report: Report
    unusable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def range_of(flag: str, value: str) -> Range:
    """Return the range that a flag gives. Raises ValueError that says what is wrong."""
    network = strict_network(value)
    if not isinstance(network, Network):
        raise ValueError(f"{flag}: {network}")
    return Range(network, flag)


def look_at(
    found: Texts, cluster: Cluster | None, pod_ranges: Sequence[Range], service_ranges: Sequence[Range]
) -> Outcome:
    """Look at texts, with a cluster's objects beside them if one is given; without texts at the cluster's.

    Raises ReadError where the API server cannot be read.
    """
    inputs = [Input(_name(one), one.text, one.is_json, one.base) for one in found.texts]
    notes = [*found.notes]
    if cluster is not None:
        dump = read_cluster(Connection(*cluster))
        notes += dump.notes
        inputs.append(Input(_CLUSTER, dump.text, is_json=True, context=bool(inputs), cluster=True))
    report = lint(inputs, pod_ranges, service_ranges)
    return Outcome(report, tuple(map(str, found.unread)), tuple(notes))


def _name(one: Text) -> str:
    """Return a file's path from where the command runs: what annotations and editors find it by."""
    return one.name if one.path == STANDARD_INPUT else shown(str(one.path))


def mend(found: Texts) -> tuple[Texts, list[str], list[str]]:
    """Rewrite files. Returns the texts as they are now, what was changed, and what could not be written."""
    texts: list[Text] = []
    changed: list[str] = []
    failed: list[str] = []
    for one in found.texts:
        fixed = fix(one.text, is_json=one.is_json, name=one.base)
        if fixed.changes and one.path != STANDARD_INPUT:
            try:
                one.path.write_bytes(fixed.text)
            except OSError as error:
                failed.append(f"{_name(one)}: cannot be written: {error.strerror}; make it writable")
            else:
                changed += (f"{_name(one)}: {change}" for change in fixed.changes)
                texts.append(one._replace(text=fixed.text))
                continue
        texts.append(one)
    return found._replace(texts=tuple(texts)), changed, failed


def show(report: Report, form: str) -> None:
    """Print a report on standard output: ``text``, in colour on a terminal only, or one of the formats."""
    if form == "text":
        console = plain_console(sys.stdout)
        for parts in text.lines(report):
            line = Styled.assemble(*((_printable(part), style) for part, style in parts))
            console.print(line, soft_wrap=True)
        return
    made = {"json": formats.as_json, "sarif": formats.as_sarif, "github": formats.as_github}[form]
    sys.stdout.write(made(report))
    sys.stdout.flush()


def _printable(part: str) -> str:
    return "".join(char if char.isprintable() else " " for char in part)


def exit_code(outcome: Outcome, fail_on: Severity) -> int:
    """Return 2 for input that cannot be used, 1 for findings as bad as ``fail_on`` or worse, else 0."""
    if outcome.unusable:
        return 2
    worst = outcome.report.worst()
    return 1 if worst is not None and worst.rank <= fail_on.rank else 0
