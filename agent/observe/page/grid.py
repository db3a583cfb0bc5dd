"""Who reaches whom: one verdict for each pair of chosen pods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agent.kube.model import Key
from agent.observe.explain.answer import Outcome
from agent.observe.explain.live import Explainer
from agent.spec.question import QuestionError, question_of

MOST = 20
"""Pods of one grid."""


class Cell(NamedTuple):
    """One pair: what becomes of a connection, and in a few words why."""

    source: str
    destination: str
    outcome: Outcome | None
    why: str


class Grid(NamedTuple):
    """Rows are sources, columns destinations; ``left`` pods were too many and are not in it."""

    port: str
    pods: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: int


def grid_of(explainer: Explainer, chosen: Sequence[str], port: str) -> Grid:
    """Return the grid of pods, written as questions write them, on one port. Raises QuestionError."""
    pods = list(dict.fromkeys(chosen))
    shown = pods[:MOST]
    for name in shown:
        end = question_of(name, name, port).source
        if isinstance(end, Key) and "/" in end.name:
            raise QuestionError(f"{name!r} is no pod: the grid takes pods and addresses")
    verdicts = explainer.verdicts(shown, port)
    rows = tuple(
        tuple(
            Cell(source, destination, *verdicts[source, destination])
            if source != destination
            else Cell(source, destination, None, "itself")
            for destination in shown
        )
        for source in shown
    )
    return Grid(port, tuple(shown), rows, len(pods) - len(shown))
