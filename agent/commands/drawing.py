"""What ``matrix``, ``list`` and ``diff`` print, in the form that is asked for."""

from __future__ import annotations

import io
import json

import click
from rich.console import Console
from rich.text import Text

from agent.observe.client import console as console_of_answers
from agent.reach import show
from agent.reach.difference import Difference
from agent.reach.exposure import Exposure
from agent.reach.matrix import Matrix
from agent.reach.ports import words

_SVG_WIDTH = 160
"""Characters of a line of the drawing."""


def show_matrix(found: Matrix, form: str) -> None:
    """Print a matrix on standard output."""
    if form == "table":
        show.table(found, console_of_answers())
    elif form == "svg":
        click.echo(_svg(found), nl=False)
    else:
        writer = {
            "lines": show.lines,
            "csv": show.as_csv,
            "md": show.markdown,
            "json": show.as_json,
            "dot": show.dot,
        }[form]
        click.echo(writer(found), nl=False)


def _svg(found: Matrix) -> str:
    """Return the table as a drawing, made by rich."""
    console = Console(
        file=io.StringIO(), record=True, width=_SVG_WIDTH, highlight=False, emoji=False, force_terminal=True
    )
    show.table(found, console)
    return console.export_svg(title="who may reach whom", unique_id="matrix")


def show_difference(found: Difference, form: str) -> None:
    """Print a difference on standard output."""
    if form == "lines":
        show.difference_lines(found, console_of_answers())
        return
    writer = {"csv": show.difference_csv, "md": show.difference_markdown, "json": show.difference_json}[form]
    click.echo(writer(found), nl=False)


def show_exposure(found: list[Exposure], *, as_json: bool) -> None:
    """Print what is open to pods that do not exist yet, on standard output."""
    names = show.names_of(one.end for one in found)
    if as_json:
        told = [
            {
                "end": names[one.end],
                "direction": one.direction.value,
                "who": one.who,
                "ports": words(one.ports),
                "names": list(one.names),
                "pods": one.pods,
                "of": one.of,
            }
            for one in found
        ]
        click.echo(json.dumps({"exposure": told}, indent=2))
        return
    console = console_of_answers()
    for one in found:
        way = "from" if one.direction == "ingress" else "to"
        ports = "; ".join(filter(None, (str(one.ports) if one.ports else "", ", ".join(one.names))))
        part = "" if one.pods == one.of else f" ({one.pods} of its {one.of} pods)"
        line = f"{names[one.end]} {one.direction} {way} {one.who} : {ports}{part}"
        console.print(Text(line), soft_wrap=True)
