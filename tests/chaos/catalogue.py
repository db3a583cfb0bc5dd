"""All scenarios, from the modules ``sNN_*.py`` beside this one."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.scenario import Scenario


def scenarios() -> tuple[Scenario, ...]:
    """Return every scenario, in the order of the promises. Raises ValueError where two have one title."""
    found: list[Scenario] = []
    for path in sorted(Path(__file__).parent.glob("s[0-9][0-9]_*.py")):
        module = importlib.import_module(f"tests.chaos.{path.stem}")
        found += module.SCENARIOS
    titles = [scenario.title for scenario in found]
    twice = {title for title in titles if titles.count(title) > 1}
    if twice:
        raise ValueError(f"two scenarios are named {', '.join(sorted(twice))}")
    return tuple(sorted(found, key=lambda scenario: numbers(scenario.promise)))


def numbers(promise: str) -> tuple[int, ...]:
    """Return the number of a promise as numbers, to sort by: 3.10 comes after 3.9."""
    return tuple(map(int, promise.split(".")))


def chosen(found: Sequence[Scenario], only: Sequence[str]) -> list[Scenario]:
    """Return the scenarios of sections (``3``), promises (``3.2``) or with such a part in their name.

    One that shows several promises is found by each of them.
    """
    return [scenario for scenario in found if not only or any(_fits(scenario, part) for part in only)]


def _fits(scenario: Scenario, part: str) -> bool:
    section = scenario.promise.split(".")[0]
    return part in (section, scenario.promise, *scenario.also) or (
        not part[:1].isdigit() and part in scenario.name
    )


def files_of(promise: str) -> list[str]:
    """Return the files of ordinary tests that are marked with a promise, from the repository's root."""
    root = Path(__file__).parents[2]
    marked = re.compile(rf"mark\.guarantee\([^)]*\"{re.escape(promise)}\"")
    found = (path for path in root.joinpath("tests").rglob("test_*.py") if marked.search(path.read_text()))
    return sorted(str(path.relative_to(root)) for path in found)
