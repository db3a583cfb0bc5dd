"""Manifests in the shape of well-known projects: what is wrong with them is found, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.lint.linter import lint
from agent.lint.reading import Input

PROJECTS = Path(__file__).parent / "projects"
EXPECTED = {
    "block-storage": ["31 same-policy"],
    "blog": ["19 deprecated-api-version"],
    "book-shop": ["52 egress-without-dns"],
    "build-runner": ["24 except-covered"],
    "certificates": ["26 port-not-declared"],
    "elasticsearch": ["30 policy-type-missing"],
    "file-share": ["43 service-port"],
    "gitops": ["23 selects-no-pod"],
    "ingress-controller": ["24 service-port"],
    "kafka": ["38 port-not-declared"],
    "metrics-stack": ["39 peer-matches-no-pod"],
    "object-store": ["27 block-covered"],
    "postgres-operator": ["34 closed-but-open"],
    "rabbitmq": ["17 duplicate-peer"],
    "redis-ha": ["27 duplicate-port"],
    "registry": ["35 empty-list-allows-all"],
    "service-mesh": ["34 rules-without-effect"],
    "sign-in": ["25 namespace-label-unknown"],
    "tracing": ["26 port-not-declared"],
    "vault": ["26 peers-are-alternatives"],
    "web-of-services": [],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_project(name: str) -> None:
    report = lint([Input(name, (PROJECTS / f"{name}.yaml").read_bytes())])
    assert [f"{one.line} {one.rule}" for one in report.findings] == EXPECTED[name]


def test_all_projects_together_show_no_more_than_each_by_itself() -> None:
    inputs = [Input(file.stem, file.read_bytes()) for file in sorted(PROJECTS.iterdir())]
    # Only all of them together have Namespace objects beside this selector.
    expected = {**EXPECTED, "redis-ha": [*EXPECTED["redis-ha"], "36 namespace-label-unknown"]}
    found: dict[str, list[str]] = {one.name: [] for one in inputs}
    for finding in lint(inputs).findings:
        found[finding.file].append(f"{finding.line} {finding.rule}")
    assert found == expected
