"""How measurements become rows, a table and a drawing."""

from __future__ import annotations

import io
import random
import xml.etree.ElementTree as ElementTree

import pytest
from rich.console import Console

from tests.bench.plot import PANELS, draw
from tests.bench.result import Result, Size, interval, summary
from tests.bench.table import show

MIDDLE = Size("middle", 10_000, 110, 1_000)


def grown(pods: int) -> list[Result]:
    size = Size(f"{pods}", pods, 110, pods // 20)
    rows = [line.row for panel in PANELS for line in panel.lines]
    return [summary("growth", row, "ms", [1.0, 2.0, 3.0], size=size) for row in rows]


def test_a_summary_counts_towards_the_worse_end() -> None:
    values = [float(value) for value in range(1, 101)]
    slow = summary("s", "n", "ms", values)
    assert (slow.median, slow.p90, slow.worst, slow.count) == (50.5, 90, 100, 100)
    quick = summary("s", "n", "events/s", values, more_is_better=True)
    assert (quick.median, quick.p90, quick.worst) == (50.5, 11, 1)
    with pytest.raises(ValueError, match="nothing was measured of s: n"):
        summary("s", "n", "ms", [])


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    draws = random.Random(1)
    held = 0
    for _ in range(2000):
        low, high = interval([draws.expovariate(1) for _ in range(50)]) or (0, 0)
        held += low <= 0.6931 <= high
    assert held / 2000 >= 0.95
    assert interval([1.0] * 5) is None
    assert interval([3.0, 1, 2, 6, 5, 4]) == (1, 6)


def test_the_table_shows_the_floor_and_the_ratio() -> None:
    results = [
        summary("latency", "policy added, quiet", "ms", [10.0, 10.0], size=MIDDLE),
        summary("latency", "policy removed, quiet", "ms", [20.0, 20.0], size=MIDDLE),
        summary("packets", "bulk", "ratio", [0.9]),
    ]
    out = io.StringIO()
    show(results, Console(file=out, width=160))
    lines = {" ".join(line.split()) for line in out.getvalue().splitlines()}
    assert "policy added, quiet ms 10 10 10 2 12 ✓ 86; 19 8.6; 1.9" in lines
    assert "policy removed, quiet ms 20 20 20 2 12 ✗ 68; 14 3.4; 0.7" in lines
    assert "bulk ratio 0.9 0.9 0.9 1" in lines


def test_the_drawing_has_every_line_and_size() -> None:
    results = [row for pods in (1000, 10_000, 100_000) for row in grown(pods)]
    root = ElementTree.fromstring(draw(results))  # noqa: S314 - made just before
    tag = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{tag}text")]
    lines = [line for panel in PANELS for line in panel.lines]
    assert {f"{line.label} 2" for line in lines} <= set(texts)
    assert texts.count("100,000") == len(PANELS)
    circles = list(root.iter(f"{tag}circle"))
    assert len(circles) == 3 * len(lines)
    # What costs the same everywhere is a flat line.
    assert len({circle.get("cy") for circle in circles}) == 1


def test_nothing_measured_is_not_drawn() -> None:
    with pytest.raises(ValueError, match="nothing of the section growth"):
        draw([summary("cold", "n", "ms", [1.0], size=MIDDLE)])
    with pytest.raises(ValueError, match="has no row 'policy removed, quiet'"):
        draw([row for row in grown(1000) if row.name != "policy removed, quiet"])
