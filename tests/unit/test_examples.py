"""Reading the demo's examples: what they must say, and how it is refused when they do not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent.net import Family, Protocol
from tests.demo import show
from tests.demo.examples import ExampleError, read
from tests.docs import ROOT


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "examples", tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_every_example_says_what_it_shows_and_who_reaches_what() -> None:
    examples = read(ROOT / "examples")
    assert [pod.name for pod in examples.pods] == ["web", "api", "db", "prometheus", "dns", "visitor"]
    assert examples.hosts == ("partner", "stranger")
    assert {d.protocol for d in examples.destinations} == {Protocol.TCP, Protocol.UDP}
    assert [step.path.name[:2] for step in examples.steps] == [
        f"{n:02}" for n in range(1, len(examples.steps) + 1)
    ]
    assert all(step.explanation.endswith(".") for step in examples.steps)


def test_every_step_changes_something() -> None:
    examples = read(ROOT / "examples")
    before = show.expected(examples, examples.reach)
    for step in examples.steps:
        now = show.expected(examples, step.reach)
        assert show.changes(before, now) > 0, step.title
        before = now


def test_without_policy_every_way_that_is_tried_is_open() -> None:
    examples = read(ROOT / "examples")
    assert all(show.expected(examples, examples.reach).values())


def test_a_missing_file_of_verdicts_is_named(directory: Path) -> None:
    (directory / "03-from-a-namespace.verdicts").unlink()
    with pytest.raises(ExampleError, match=r"03-from-a-namespace\.verdicts"):
        read(directory)


def test_an_unknown_destination_is_named(directory: Path) -> None:
    path = directory / "01-default-deny.verdicts"
    path.write_text(path.read_text().replace("dns", "dsn"))
    with pytest.raises(ExampleError, match="dsn: no such destination"):
        read(directory)


def test_a_source_that_is_left_out_is_asked_for(directory: Path) -> None:
    path = directory / "01-default-deny.verdicts"
    path.write_text("".join(line for line in path.open() if "visitor" not in line))
    with pytest.raises(ExampleError, match="list the sources"):
        read(directory)


def test_a_verdict_of_one_family_only_is_shown_as_half_and_named() -> None:
    examples = read(ROOT / "examples")
    wanted = show.expected(examples, examples.reach)
    half = {way: through and way != ("web", "db", Family.V6) for way, through in wanted.items()}
    assert show.wrong(half, wanted) == ["web → db, IPv6: denied, expected reached"]
    cells = next(iter(show.table(examples, wanted, half, wanted).columns[3].cells))
    assert cells == "[bold reverse red]✓→½![/]"
