"""docs/guarantees.md and the tests agree: each promise has a test, and each number is a promise."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.catalogue import chosen, files_of, scenarios

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/guarantees.md"
_PROMISE = re.compile(r"^- \*\*(\d+\.\d+)\*\* ", re.MULTILINE)
_SECTION = re.compile(r"^## (\d+)\. ", re.MULTILINE)


def promises() -> list[str]:
    return _PROMISE.findall(PAGE.read_text())


def numbers_in(text: str, *, scenarios: bool) -> Iterator[str]:
    """Give the number of each marked test, or of each scenario, of a module, without importing it."""
    for call in ast.walk(ast.parse(text)):
        if not isinstance(call, ast.Call):
            continue
        name = ast.unparse(call.func)
        given: list[ast.expr] = []
        if name.endswith("mark.guarantee") and not scenarios:
            given += call.args
        elif name == "Scenario" and scenarios:
            given += call.args[:1]
            given += [keyword.value for keyword in call.keywords if keyword.arg == "promise"]
            also = [keyword.value for keyword in call.keywords if keyword.arg == "also"]
            given += [value for found in also for value in getattr(found, "elts", [found])]
        for value in given:
            if not (isinstance(value, ast.Constant) and isinstance(value.value, str)):
                raise ValueError(
                    f"line {call.lineno}: a promise is named by its number, as it stands in the page"
                )
            yield value.value


def places() -> dict[str, set[str]]:
    """Return the files that test each promise."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text()
        scenarios = re.fullmatch(r"s\d\d_\w+\.py", path.name) is not None
        if path.name != "test_guarantees.py" and (scenarios or "mark.guarantee(" in text):
            for number in numbers_in(text, scenarios=scenarios):
                found.setdefault(number, set()).add(str(path.relative_to(ROOT)))
    return found


def test_each_promise_is_tested() -> None:
    untested = set(promises()) - places().keys()
    assert not untested, "give each a scenario in tests/chaos, or mark its test with mark.guarantee"


def test_each_tested_number_is_a_promise() -> None:
    strays = {number: files for number, files in places().items() if number not in promises()}
    assert not strays


def test_promises_are_numbered_in_their_sections() -> None:
    """From 1 on without a gap, so that a number is found where a reader looks."""
    text = PAGE.read_text()
    assert _SECTION.findall(text) == [str(n) for n in range(1, 11)]
    for part in re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]:
        (section,) = _SECTION.findall(part) or ("none",)
        found = _PROMISE.findall(part)
        assert found == [f"{section}.{n}" for n in range(1, len(found) + 1)]


def test_numbers_are_found_in_code() -> None:
    code = """
@pytest.mark.guarantee("3.2")
def test_it(): ...
SCENARIOS = (Scenario(promise="1.1", name="x", run=x, seconds=1, also=("1.3",)), Scenario("1.2", "y", y, 1))
other("9.9")
"""
    assert sorted(numbers_in(code, scenarios=True)) == ["1.1", "1.2", "1.3"]
    assert sorted(numbers_in(code, scenarios=False)) == ["3.2"]
    with pytest.raises(ValueError, match="line 1"):
        list(numbers_in("Scenario(promise=number)", scenarios=True))


def test_each_promise_can_be_tried_by_its_number() -> None:
    """By a scenario that shows it, or else by ordinary tests, which are named then."""
    every = scenarios()
    assert [number for number in promises() if not (chosen(every, [number]) or files_of(number))] == []
    assert {scenario.promise for scenario in chosen(every, ["8.2"])} == {"8.1"}
    assert files_of("9.3") == ["tests/kernel/test_hostile_texts.py"]
