"""``netpol-agent convert``: lines to policies, and policies to lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agent.convert.manifest import document, to_yaml
from agent.convert.read import read_lines
from agent.convert.statement import LABEL, Statement
from agent.convert.write import CannotSayError, write_line
from agent.dataplane.logged import Decided
from agent.kube.manifest import Manifest
from agent.kube.mode import MODE_ANNOTATION
from agent.kube.model import Kind, NetworkPolicy, Object
from agent.observe.flows.flow import Flow
from agent.observe.propose.propose import Proposal, propose
from agent.sources.manifests.once import read_once
from agent.spec.cluster import cluster_of

_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class Line(NamedTuple):
    """A policy's line."""

    policy: str
    line: str


class Lines(NamedTuple):
    """The lines of policies. ``refused``: what was not read, or no line says."""

    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    refused: tuple[str, ...]


def statements_of(lines: Sequence[str], label: str = LABEL) -> list[Statement]:
    """Read lines; ``-`` as the only one stands for those of standard input. Raises LinesError."""
    if list(lines) == ["-"]:
        # As bytes, so that what is no UTF-8 is told as a wrong line, whatever the locale.
        lines = [] if sys.stdin is None else sys.stdin.buffer.read().decode(errors="replace").splitlines()
    return read_lines(lines, label)


def as_yaml(statements: Iterable[Statement]) -> str:
    """Return manifests. Raises UnfitError."""
    return to_yaml(statements)


def as_json(statements: Sequence[Statement]) -> str:
    """Return manifests as one JSON document, a ``List`` as kubectl takes it. Raises UnfitError."""
    to_yaml(statements)
    items = [document(one) for one in statements]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2) + "\n"


def lines_of(places: Sequence[Path], label: str = LABEL) -> Lines:
    """Return the line of each policy in files, directories, or standard input for ``-``."""
    read = read_once(places)
    lines: list[Line] = []
    notes: list[str] = [note for note in read.notes if not note.startswith("passed over")]
    refused = [*read.refused]
    for name, manifest in read.manifests:
        policy = manifest.value
        if manifest.kind is not Kind.POLICY or not isinstance(policy, NetworkPolicy):
            continue
        where = f"{name} line {manifest.line}: NetworkPolicy {policy.key}"
        try:
            lines.append(Line(str(policy.key), write_line(Statement(policy, _mode(policy)), label)))
        except CannotSayError as error:
            refused.append(f"{where}: {error}")
            continue
        notes += (f"{where}: a line does not say its {what}" for what in _unsaid(manifest))
    return Lines(tuple(lines), tuple(notes), tuple(refused))


def proposed(objects: Iterable[Object], flows: Iterable[Flow], verdicts: frozenset[Decided]) -> Proposal:
    """Propose policies, to be audited first, for what was logged so. Raises ProposalError."""
    return propose(cluster_of(objects), flows, verdicts)


def staged(proposal: Proposal) -> list[Statement]:
    """Return the proposed policies as they are printed: in audit."""
    return [Statement(policy, "audit") for policy in proposal.policies]


def lines_as_json(lines: Lines) -> str:
    """Return lines as JSON."""
    return json.dumps([line._asdict() for line in lines.lines], indent=2) + "\n"


def _annotations(manifest: Manifest) -> dict[str, Any]:
    meta = manifest.data.get("metadata")
    found = meta.get("annotations") if isinstance(meta, dict) else None
    return found if isinstance(found, dict) else {}


def _mode(policy: NetworkPolicy) -> str:
    """Return what the annotation says; of a value that is not known, the value, which no line says."""
    said = policy.staging
    return said.unknown or (said.mode.value if said.mode is not None else "")


def _unsaid(manifest: Manifest) -> Iterator[str]:
    """Name what of an object's metadata is not in its line: none of it changes what is allowed."""
    labels = manifest.data.get("metadata", {}).get("labels")
    if isinstance(labels, dict) and labels:
        yield f"labels {', '.join(sorted(labels))}"
    annotations = sorted(_annotations(manifest).keys() - {MODE_ANNOTATION, _APPLIED})
    if annotations:
        yield f"annotations {', '.join(annotations)}"
