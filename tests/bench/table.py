"""Results as a table for people, each beside its floor and Felix's figure where it has them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.bench.floors import MARKS
from tests.bench.result import Result

_MORE_IS_BETTER = ("events/s", "ratio", "Gbit/s", "connections/s")


def show(results: Sequence[Result], console: Console) -> None:
    """Print a table for each size; what belongs to none comes last."""
    sizes = dict.fromkeys(result.size for result in results)
    for size in sorted(sizes, key=lambda size: (size is None, size.pods if size else 0)):
        title = "whatever the cluster" if size is None else f"pods / on this node / policies: {size}"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("")
        for heading in (
            "unit",
            "median",
            "95 % of it",
            "p90",
            "worst",
            "of",
            "floor",
            "Felix",
            "Felix / ours",
        ):
            table.add_column(heading, justify="right")
        section = ""
        for result in results:
            if result.size == size:
                if result.section != section:
                    section = result.section
                    table.add_row(f"[bold]{section}[/bold]")
                table.add_row(*_row(result))
        console.print(table)
        console.print()
    notes = dict.fromkeys(f"{result.name}: {result.note}" for result in results if result.note)
    for note in notes:
        console.print(note, style="dim", highlight=False)
    console.print("Felix: iptables; nftables, measured on another machine of two cores", style="dim")


def _row(result: Result) -> list[str]:
    mark = MARKS.get((result.size.name, result.name)) if result.size else None
    floor = felix = ratio = ""
    if mark is not None:
        known = [figure for figure in (mark.felix, mark.felix_nftables) if figure is not None]
        met = result.median >= mark.floor if result.unit in _MORE_IS_BETTER else result.median <= mark.floor
        floor = f"[{'green' if met else 'red'}]{_figure(mark.floor)}[/] {'✓' if met else '✗'}"
        felix = "; ".join(map(_figure, known))
        if result.median:
            ratio = "; ".join(f"{figure / result.median:.2g}" for figure in known)
    low_to_high = (
        "" if result.low is None or result.high is None else f"{_figure(result.low)}–{_figure(result.high)}"
    )
    figures = [_figure(result.median), low_to_high, _figure(result.p90), _figure(result.worst)]
    return [f"  {result.name}", result.unit, *figures, str(result.count), floor, felix, ratio]


def _figure(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
