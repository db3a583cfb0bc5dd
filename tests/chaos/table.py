"""Results as a table for people, and as plain data."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.chaos.catalogue import numbers
from tests.chaos.run import Result


def show(results: Sequence[Result], console: Console, seconds: float) -> None:
    """Print a row for each scenario, in the order of the promises, and then how promises were broken."""
    table = Table(box=None, pad_edge=False)
    table.add_column("promise", min_width=7)
    table.add_column("scenario")
    # Numbers are whole, however narrow the terminal is.
    for heading in ("new flows", "wrong", "in time", "took s", "held back", "run s"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=6)
    table.add_column("")
    ordered = sorted(results, key=lambda result: numbers(result.scenario.promise))
    for result in ordered:
        outcome = result.outcome
        table.add_row(
            result.scenario.promise,
            Text(result.scenario.name),
            f"{outcome.flows:,}",
            f"{outcome.wrong:,}",
            f"{outcome.in_time:,}" if outcome.in_time else "",
            f"{outcome.took:.2f}" if outcome.in_time else "",
            f"{outcome.held_back:,}" if outcome.held_back else "",
            f"{result.seconds:.0f}",
            Text(_verdict(result), "green" if result.held else "red"),
        )
    console.print(table)
    for result in ordered:
        if result.outcome.note:
            console.print(Text(f"{result.scenario.title}: {result.outcome.note}", "dim"))
    for result in ordered:
        for line in (*result.outcome.broken, *([result.failed] if result.failed else [])):
            console.print(Text(f"{result.scenario.title}: {line}", "red"))
    held = sum(result.held for result in results)
    flows = sum(result.outcome.flows for result in results)
    wrong = sum(result.outcome.wrong for result in results)
    console.print(
        f"{held} of {len(results)} scenarios held: {flows:,} new flows, {wrong:,} wrong, in {seconds:.0f} s",
        highlight=False,
    )


def line(result: Result) -> str:
    """Return what became of a scenario, in one line."""
    return f"{result.scenario.title}: {_verdict(result)} after {result.seconds:.0f} s"


def _verdict(result: Result) -> str:
    if result.held:
        return "held"
    return "NOT SHOWN" if result.failed else "BROKEN"


def plain(results: Sequence[Result]) -> list[dict[str, object]]:
    """Return results as plain data, in the order of the promises. Times are in seconds."""
    return [
        {
            "promise": result.scenario.promise,
            "scenario": result.scenario.name,
            "held": result.held,
            "flows": result.outcome.flows,
            "wrong": result.outcome.wrong,
            "in_time": result.outcome.in_time,
            "took": round(result.outcome.took, 3),
            "note": result.outcome.note,
            "broken": list(result.outcome.broken),
            "failed": result.failed,
            "seconds": round(result.seconds, 1),
        }
        for result in sorted(results, key=lambda result: numbers(result.scenario.promise))
    ]
