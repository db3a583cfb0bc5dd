"""What the demo prints: a table of who reaches whom, every change marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from agent.net import Family
from tests.demo.examples import Destination, Examples, Reach


class Way(NamedTuple):
    """One way that is tried, in one family."""

    source: str
    destination: str
    family: Family


Seen = Mapping[Way, bool]
"""For each way, whether a connection got through."""


def expected(examples: Examples, reach: Reach) -> Seen:
    """Return what is expected of each way that is tried."""
    return {
        Way(source, destination.name, family): destination.name in reach[source]
        for source in examples.sources
        for destination in examples.destinations
        for family in Family
        if examples.tried(source, destination)
    }


def changes(before: Seen, now: Seen) -> int:
    """Count the pairs of source and destination that changed in any family."""
    return len({way[:2] for way in now if before.get(way, now[way]) != now[way]})


def table(examples: Examples, before: Seen, now: Seen, wanted: Seen) -> Table:
    """Return the table: a row for each source, a column for each destination."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 1))
    table.add_column("from \\ to", style="bold", no_wrap=True)
    for destination in examples.destinations:
        table.add_column(
            _heading(destination), justify="center", no_wrap=True, vertical="bottom", min_width=3
        )
    for source in examples.sources:
        cells = [_cell(source, d.name, before, now, wanted) for d in examples.destinations]
        table.add_row(source, *cells)
    return table


def wrong(now: Seen, wanted: Seen) -> list[str]:
    """Return what is not as expected, a line each."""
    return [
        f"{way.source} → {way.destination}, IPv{way.family}: {_word(now[way])}, expected {_word(wanted[way])}"
        for way in wanted
        if now[way] != wanted[way]
    ]


def legend(console: Console) -> None:
    """Say once how to read the tables."""
    console.print(
        "[green]✓[/] reached over IPv4 and IPv6, [red]✗[/] not, [bold]✓→✗[/] changed by this policy, "
        "· not tried.\nEach mark is a fresh connection with real packets."
    )


def _word(through: bool) -> str:
    return "reached" if through else "denied"


def _heading(destination: Destination) -> str:
    return destination.name.replace(":", "\n")


def _cell(source: str, destination: str, before: Seen, now: Seen, wanted: Seen) -> str:
    ways = [Way(source, destination, family) for family in Family]
    if ways[0] not in now:
        return "[dim]·[/]"
    old, new = (_mark([seen.get(way, now[way]) for way in ways]) for seen in (before, now))
    text = new if old == new else f"{old}→{new}"
    style = {"✓": "green", "✗": "red"}.get(new, "yellow")
    if any(now[way] != wanted[way] for way in ways):
        return f"[bold reverse red]{text}![/]"
    return f"[{style}]{text}[/]" if old == new else f"[bold {style}]{text}[/]"


def _mark(through: list[bool]) -> str:
    if all(through):
        return "✓"
    return "½" if any(through) else "✗"
