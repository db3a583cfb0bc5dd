"""Each rule finds what its example before has, and nothing in the one after. docs/lint.md shows both."""

from __future__ import annotations

import pytest

from agent.lint.linter import lint
from agent.lint.reading import Input
from agent.lint.registry import RULES
from tests.docs import LINT_EXAMPLES, LINT_PAGE, lint_page


def findings(name: str) -> list[str]:
    file = LINT_EXAMPLES / name
    return [one.rule for one in lint([Input(file.name, file.read_bytes())]).findings]


@pytest.mark.parametrize("rule", [rule.id for rule in RULES])
def test_a_rule_finds_its_example_and_nothing_when_it_is_mended(rule: str) -> None:
    assert findings(f"{rule}.before.yaml") == [rule]
    assert findings(f"{rule}.after.yaml") == []


def test_every_example_is_of_a_rule() -> None:
    names = {f"{rule.id}.{when}.yaml" for rule in RULES for when in ("before", "after")}
    assert {file.name for file in LINT_EXAMPLES.iterdir()} == names


def test_the_page_is_made_of_the_table_and_the_examples() -> None:
    text = LINT_PAGE.read_text()
    assert lint_page(text) == text
