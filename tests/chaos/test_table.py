"""What is told of scenarios, and what becomes of one that cannot be run."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import threading
from collections.abc import Iterator, Sequence

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.chaos import table
from tests.chaos.__main__ import main
from tests.chaos.catalogue import chosen, numbers, scenarios
from tests.chaos.judge import Report, Tally
from tests.chaos.run import Result, run_all, run_one
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.patience import PATIENCE


def scenario(promise: str, name: str, outcome: Outcome | None = None) -> Scenario:
    def run(length: Length) -> Outcome:
        assert length is Length.SHORT
        assert outcome is not None, "the promise is broken"
        return outcome

    return Scenario(promise, name, run, 1.0)


BROKEN = Report(2.0, (Tally("a > b", 100, (0.5, 1.0), 0.5),))
HELD = Result(
    scenario("3.10", "late"), Outcome(1000, in_time=5, took=0.4, held_back=7, note="ten kills"), 4.0
)
RESULTS = (
    HELD,
    Result(scenario("3.9", "open"), Outcome.of(BROKEN), 3.0),
    Result(scenario("4.1", "away"), Outcome(), 2.0, "there is no etcd"),
)


def shown(results: Sequence[Result]) -> str:
    to = io.StringIO()
    table.show(results, Console(file=to, width=200), 9.0)
    return to.getvalue()


def test_people_are_told_row_by_row_and_why() -> None:
    lines = shown(RESULTS).splitlines()
    assert lines[1].split() == ["3.9", "open", "100", "2", "3", "BROKEN"]
    assert lines[2].split() == ["3.10", "late", "1,000", "0", "5", "0.40", "7", "4", "held"]
    assert lines[3].split() == ["4.1", "away", "0", "0", "2", "NOT", "SHOWN"]
    assert lines[4:] == [
        "3.10 late: ten kills",
        f"3.9 open: {BROKEN.told()[0]}",
        "4.1 away: there is no etcd",
        "1 of 3 scenarios held: 1,100 new flows, 2 wrong, in 9 s",
    ]


def test_where_nobody_watches_each_is_told_in_a_line() -> None:
    assert [table.line(result) for result in RESULTS] == [
        "3.10 late: held after 4 s",
        "3.9 open: BROKEN after 3 s",
        "4.1 away: NOT SHOWN after 2 s",
    ]


def test_what_was_shown_before_an_interrupt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def some(*_: object) -> Iterator[Result]:
        yield HELD
        raise KeyboardInterrupt

    monkeypatch.setattr("tests.chaos.__main__.run_all", some)
    told = CliRunner().invoke(main, ["--only", "3"])
    assert told.exit_code == 130
    assert "1 of 1 scenarios held: 1,000 new flows, 0 wrong" in told.stdout
    assert re.search(r"1 of (\d+): 3.10 late: held after 4 s\ninterrupted: \d+ of \1 scenarios", told.stderr)


def test_programs_are_told_the_same() -> None:
    found = table.plain(RESULTS)
    assert [(row["promise"], row["held"], row["wrong"]) for row in found] == [
        ("3.9", False, 2),
        ("3.10", True, 0),
        ("4.1", False, 0),
    ]
    assert found[2]["failed"] == "there is no etcd"


def test_a_broken_assertion_is_an_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    run_one(scenario("3.1", "x"), Length.SHORT)
    assert json.loads(capsys.readouterr().out)["broken"][0].startswith("the promise is broken")
    run_one(scenario("3.1", "x", Outcome(5, note="fine")), Length.SHORT)
    assert json.loads(capsys.readouterr().out) == {
        "flows": 5,
        "wrong": 0,
        "in_time": 0,
        "took": 0.0,
        "held_back": 0,
        "note": "fine",
        "broken": [],
    }


def test_a_scenario_that_cannot_be_run_is_not_shown() -> None:
    running: dict[str, float] = {}
    (result,) = run_all([scenario("9.99", "that nobody has")], Length.SHORT, 1, running)
    assert not result.held
    assert "failed" in result.failed
    assert running == {}


def test_those_that_measure_run_alone_and_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    beside: dict[str, list[str]] = {}
    running: dict[str, float] = {}
    both = threading.Barrier(2)

    def run(found: Scenario, _: Length, running: dict[str, float]) -> Result:
        running[found.title] = 0.0
        beside[found.name] = [title for title in running if title != found.title]
        if not found.alone:
            both.wait(PATIENCE)
        del running[found.title]
        return Result(found, Outcome(), 0.0)

    monkeypatch.setattr("tests.chaos.run._run", run)
    alone = [dataclasses.replace(scenario("9.1", name), alone=True) for name in ("a", "b")]
    others = [scenario("3.1", name) for name in ("c", "d")]
    results = list(run_all([*alone, *others], Length.SHORT, 2, running))
    assert {result.scenario.name for result in results[:2]} == {"c", "d"}
    assert beside["a"] == beside["b"] == []


def test_what_is_asked_for_is_chosen() -> None:
    found = [scenario("3.1", "a kill"), scenario("3.10", "a stop"), scenario("13.1", "a kill")]
    assert [s.title for s in chosen(found, ["3"])] == ["3.1 a kill", "3.10 a stop"]
    assert [s.title for s in chosen(found, ["3.1"])] == ["3.1 a kill"]
    assert [s.title for s in chosen(found, ["kill", "3.10"])] == [s.title for s in found]
    assert chosen(found, []) == found


def test_promises_are_in_the_order_of_their_numbers() -> None:
    found = [numbers(s.promise) for s in scenarios()]
    assert found == sorted(found)


def test_scenarios_are_listed_and_others_refused() -> None:
    listed = CliRunner().invoke(main, ["--list", "--only", "3.4"])
    assert (listed.exit_code, listed.output) == (0, "3.4 stopped and continued\n")
    refused = CliRunner().invoke(main, ["--only", "nothing like it"])
    assert refused.exit_code == 2
    assert "--only is 'nothing like it'" in refused.output
    assert "--list prints them" in refused.output
