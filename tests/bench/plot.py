"""Draws how an event's cost depends on the cluster's size, as SVG: ``python -m tests.bench.plot JSON SVG``.

One file for light and dark pages: its own style sheet asks the reader's browser which it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import click
import msgspec

from tests.bench.result import Result

_SVG = "http://www.w3.org/2000/svg"
_WIDTH, _HEIGHT = 920, 336
_TOP, _BOTTOM = 78, 52
_PANELS = ((60, 240), (530, 240))
"""Where each panel begins and how wide its lines are; names of lines stand to the right."""

_STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #59636e }
.title { font-size: 14px; font-weight: 600; fill: #1f2328 }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }
.spread { stroke-width: 1.5; opacity: 0.45 }
.s0 { stroke: #0969da } .f0 { fill: #0969da }
.s1 { stroke: #bc4c00 } .f1 { fill: #bc4c00 }
.s2 { stroke: #1a7f37 } .f2 { fill: #1a7f37 }
.s3 { stroke: #8250df } .f3 { fill: #8250df }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .title { fill: #f0f6fc } .grid { stroke: #3d444d }
  .s0 { stroke: #4493f8 } .f0 { fill: #4493f8 }
  .s1 { stroke: #f0883e } .f1 { fill: #f0883e }
  .s2 { stroke: #3fb950 } .f2 { fill: #3fb950 }
  .s3 { stroke: #ab7df8 } .f3 { fill: #ab7df8 }
}
"""


class Line(NamedTuple):
    """One row's figures in clusters of each size, by the row's name."""

    row: str
    label: str


class Panel(NamedTuple):
    """What is drawn in one half."""

    title: str
    lines: Sequence[Line]


PANELS = (
    Panel(
        "CPU per remote pod event, ms",
        (
            Line("CPU per remote pod event that concerns this node", "concerns this node"),
            Line("CPU per remote pod event that does not", "does not"),
        ),
    ),
    Panel(
        "API call to packet, ms",
        (
            Line("policy added, quiet", "policy added"),
            Line("policy removed, quiet", "policy removed"),
            Line("peer label set, quiet", "label set"),
            Line("peer label removed, quiet", "label removed"),
        ),
    ),
)


def draw(results: Iterable[Result]) -> str:
    """Return the SVG of the section ``growth``. Raises ValueError when it was not measured."""
    grown = [result for result in results if result.section == "growth" and result.size is not None]
    if not grown:
        raise ValueError("nothing of the section growth was measured, so there is nothing to draw")
    parts = [
        f'<svg xmlns="{_SVG}" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img">',
        "<title>What an event costs as the cluster grows</title>",
        f"<style>{_STYLE}</style>",
        _text(_PANELS[0][0] - 40, 24, "What an event costs as the cluster grows, on one node", "title"),
        _text(_PANELS[1][0] - 40, 24, "dots: medians; thin lines: up to the 90th of a hundred"),
    ]
    for panel, (left, width) in zip(PANELS, _PANELS, strict=True):
        parts += _panel(panel, grown, left, width)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, results: list[Result], left: int, width: int) -> Iterator[str]:
    by_name = {line.row: _points(results, line.row) for line in panel.lines}
    pods = sorted({point.size.pods for points in by_name.values() for point in points if point.size})
    ticks = _ticks(max(point.p90 for points in by_name.values() for point in points))
    low, high = math.log10(pods[0]), math.log10(pods[-1])

    def across(value: int) -> float:
        return left + (width * (math.log10(value) - low) / (high - low) if high > low else width / 2)

    def up(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / ticks[-1]

    yield _text(left - 40, _TOP - 18, panel.title)
    for tick in ticks:
        yield f'<path class="grid" d="M{left} {up(tick):.1f}h{width}"/>'
        yield _text(left - 8, up(tick) + 4, f"{tick:g}", anchor="end")
    for count in pods:
        yield _text(across(count), _HEIGHT - _BOTTOM + 20, f"{count:,}", anchor="middle")
    yield _text(left + width / 2, _HEIGHT - 12, "pods of the cluster", anchor="middle")
    labels = []
    for number, line in enumerate(panel.lines):
        points = [(across(point.size.pods), point) for point in by_name[line.row] if point.size]
        for x, point in points:
            yield (
                f'<path class="spread s{number}" d="M{x:.1f} {up(point.median):.1f}V{up(point.p90):.1f}"/>'
                f'<circle class="f{number}" cx="{x:.1f}" cy="{up(point.median):.1f}" r="3.5"/>'
            )
        way = "L".join(f"{x:.1f} {up(point.median):.1f}" for x, point in points)
        yield f'<path class="line s{number}" d="M{way}"/>'
        labels.append((up(points[-1][1].median), number, f"{line.label} {points[-1][1].median:.2g}"))
    for y, number, text in _apart(labels):
        yield _text(left + width + 12, y + 4, text, f"f{number}")


def _points(results: list[Result], name: str) -> list[Result]:
    """Return a row's results, the smallest cluster's first."""
    points = [result for result in results if result.name == name and result.size is not None]
    if not points:
        raise ValueError(f"the section growth has no row {name!r}")
    return sorted(points, key=lambda result: result.size.pods if result.size else 0)


def _ticks(greatest: float) -> list[float]:
    """Return about four round numbers from 0 to beyond the greatest."""
    rough = greatest / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    return [step * number for number in range(math.ceil(greatest / step) + 1)]


def _apart(labels: list[tuple[float, int, str]]) -> Iterator[tuple[float, int, str]]:
    """Yield labels from the lowest up, each moved up until it stands clear of the one below it."""
    above = float(_HEIGHT)
    for y, number, text in sorted(labels, reverse=True):
        above = min(y, above - 15)
        yield above, number, text


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


class _Saved(msgspec.Struct):
    results: list[Result]


@click.command()
@click.argument("saved", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("svg", type=click.Path(dir_okay=False, path_type=Path))
def main(saved: Path, svg: Path) -> None:
    """Draw the section growth of a benchmark's JSON."""
    svg.write_text(draw(msgspec.json.decode(saved.read_bytes(), type=_Saved).results))


if __name__ == "__main__":
    main()
