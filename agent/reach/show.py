"""The matrix and the difference of two, as they are printed: lines, tables, CSV, Markdown, JSON, DOT."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent.net import Family
from agent.reach.difference import Change, Difference
from agent.reach.ends import End
from agent.reach.matrix import Cell, Matrix
from agent.reach.ports import words
from agent.words import count, one_line, printable

_WIDEST = 24
"""Characters of a cell that are shown with the others; with more, signs stand for them."""
_SIGNS = {"●": "all", "◐": "some", "·": "none"}


def names_of(ends: Iterable[End]) -> dict[End, str]:
    """Return what ends are called: ``shop/api``; with the kind where two have one name.

    Each is one line fit for a terminal: the API server checks no name in a pod's ``ownerReferences``.
    """
    ends = list(dict.fromkeys(ends))
    met = Counter((end.namespace, end.name) for end in ends)
    return {end: one_line(_name(end, alone=met[end.namespace, end.name] == 1)) for end in ends}


def _name(end: End, *, alone: bool) -> str:
    if end.outside:
        return end.name
    if end.kind == "Namespace":
        return end.namespace
    if alone and end.kind not in ("Service", "Ingress"):
        return f"{end.namespace}/{end.name}"
    return f"{end.namespace}/{end.kind.lower()}/{end.name}"


def connections(found: Matrix) -> Iterator[tuple[End, End, Cell]]:
    """Give what may be opened at all, by source."""
    for source in found.sources:
        for destination in found.destinations:
            cell = found.cells.get((source, destination))
            if cell is not None and cell.some:
                yield source, destination, cell


# --- One matrix -------------------------------------------------------------------------------------------


def lines(found: Matrix) -> str:
    """Return a line for each connection: ``shop/web → shop/api : tcp 8080``."""
    names = names_of((*found.sources, *found.destinations))
    said = [f"{names[a]} → {names[b]} : {cell}" for a, b, cell in connections(found)]
    return "".join(f"{printable(line)}\n" for line in said) or "nothing is allowed\n"


def table(found: Matrix, console: Console) -> None:
    """Print a table with a row for each source. Where ports take too much room, signs stand for them."""
    names = names_of((*found.sources, *found.destinations))
    texts = {pair: str(cell) if cell.some else "" for pair, cell in found.cells.items()}
    titles = max((len(names[end]) for end in found.sources), default=0)
    room = titles + 4
    for end in found.destinations:
        widest = max((len(texts.get((source, end), "")) for source in found.sources), default=0)
        room += max(widest, len(names[end])) + 3
        room += console.width if widest > _WIDEST else 0
    fits = room <= console.width
    # Wider than the window, or than what rich takes a pipe to have, it is still right; cut it is not.
    narrow = titles + 5 * len(found.destinations) + 8
    shown = Table(show_edge=False, pad_edge=False)
    shown.add_column(Text("from"), no_wrap=True)
    for number, end in enumerate(found.destinations, 1):
        shown.add_column(Text(names[end] if fits else str(number)), no_wrap=fits)
    for number, source in enumerate(found.sources, 1):
        title = names[source] if fits or number > len(found.destinations) else f"{number} {names[source]}"
        shown.add_row(Text(title), *_cells(found, source, texts, fits=fits))
    console.width = max(console.width, narrow)
    console.print(shown)
    if not fits:
        numbered = found.sources == found.destinations
        told = (
            ""
            if numbered
            else ", ".join(f"{number} {names[end]}" for number, end in enumerate(found.destinations, 1))
        )
        if told:
            console.print(Text(f"to: {told}"), soft_wrap=True)
        signs = ", ".join(f"{sign} {what}" for sign, what in _SIGNS.items())
        console.print(Text(f"{signs}; which ports: netpol-agent list"), soft_wrap=True)


def _cells(found: Matrix, source: End, texts: Mapping[tuple[End, End], str], *, fits: bool) -> Iterator[Text]:
    for destination in found.destinations:
        cell = found.cells.get((source, destination))
        if cell is None:
            yield Text("")
        elif not cell.some:
            yield Text("·", "dim")
        elif cell.every == found.ports:
            yield Text(texts[source, destination] if fits else "●", "green")
        else:
            yield Text(texts[source, destination] if fits else "◐", "yellow")


def markdown(found: Matrix) -> str:
    """Return a table as Markdown, for a comment or a document."""
    names = names_of((*found.sources, *found.destinations))
    heads = ["from \\ to", *(names[end] for end in found.destinations)]
    rows = [heads, ["---"] * len(heads)]
    for source in found.sources:
        cells = [found.cells.get((source, end)) for end in found.destinations]
        rows.append([names[source], *("" if cell is None else str(cell) for cell in cells)])
    return "".join(_row(row) for row in rows)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |\n"


def as_csv(found: Matrix) -> str:
    """Return a row for each connection and family (RFC 4180)."""
    names = names_of((*found.sources, *found.destinations))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("source", "destination", "family", "every", "some"))
    for source, destination, cell in connections(found):
        for one in cell.families:
            ports = (" ".join(words(one.every)), " ".join(words(one.some)))
            writer.writerow((names[source], names[destination], _family(one.family), *ports))
    return out.getvalue()


def as_json(found: Matrix) -> str:
    """Return every connection with its ports in each family."""
    names = names_of((*found.sources, *found.destinations))
    told = {
        "ports": words(found.ports),
        "ends": [_end(end, name) for end, name in names.items()],
        "connections": [
            {"source": names[a], "destination": names[b], "families": _families(cell)}
            for a, b, cell in connections(found)
        ],
    }
    return json.dumps(told, indent=2) + "\n"


def _end(end: End, name: str) -> dict[str, str]:
    return {"name": name, "kind": end.kind or "addresses", "namespace": end.namespace}


def _families(cell: Cell | None) -> list[dict[str, Any]]:
    return [
        {"family": _family(one.family), "every": words(one.every), "some": words(one.some)}
        for one in (cell.families if cell is not None else ())
    ]


def _family(family: Family | None) -> str:
    return "" if family is None else f"IPv{int(family)}"


def dot(found: Matrix) -> str:
    """Return a graph in the language of Graphviz, with an edge for each connection."""
    names = names_of((*found.sources, *found.destinations))
    shown = ["digraph netpol {", "  rankdir=LR;", "  node [shape=box];"]
    shown += [f"  {_quoted(name)}{' [shape=ellipse]' if end.outside else ''};" for end, name in names.items()]
    shown += [
        f"  {_quoted(names[a])} -> {_quoted(names[b])} [label={_quoted(str(cell))}];"
        for a, b, cell in connections(found)
    ]
    return "\n".join((*shown, "}", ""))


def _quoted(text: str) -> str:
    escaped = printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# --- The difference of two --------------------------------------------------------------------------------


_MARKS = {"added": "+", "removed": "-", "changed": "~"}


def summary(found: Difference) -> str:
    kinds = ", ".join(f"{len(found.of(kind))} {kind}" for kind in _MARKS)
    return f"{kinds}; {count(found.same, 'connection')} the same"


def difference_lines(found: Difference, console: Console) -> None:
    """Print a line for each change, ``+`` added, ``-`` removed, ``~`` changed, and a summary."""
    names = _names(found)
    colours = {"added": "green", "removed": "red", "changed": "yellow"}
    for word, ends in (("new", found.new), ("gone", found.gone)):
        if ends:
            console.print(Text(f"{word}: {', '.join(names[end] for end in ends)}"), soft_wrap=True)
    for kind, mark in _MARKS.items():
        for change in found.of(kind):
            line = f"{mark} {names[change.source]} → {names[change.destination]} : {_what(change)}"
            console.print(Text(printable(line), colours[kind]), soft_wrap=True)
    console.print(Text(summary(found)), soft_wrap=True)


def _what(change: Change) -> str:
    if change.before is None or change.after is None:
        return str(change.after or change.before)
    return f"{change.before} → {change.after}"


def difference_markdown(found: Difference) -> str:
    """Return a comment for a pull request."""
    names = _names(found)
    said = f"**Connectivity: {summary(found)}**\n"
    for word, ends in (("New", found.new), ("Gone", found.gone)):
        said += f"\n{word}: {', '.join(f'`{names[end]}`' for end in ends)}\n" if ends else ""
    if not found.changes:
        return said
    rows = [["", "from", "to", "before", "after"], ["---"] * 5]
    for kind in _MARKS:
        for one in found.of(kind):
            pair = [names[one.source], names[one.destination]]
            rows.append([kind, *pair, str(one.before or "none"), str(one.after or "none")])
    return said + "\n" + "".join(map(_row, rows))


def difference_csv(found: Difference) -> str:
    names = _names(found)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("change", "source", "destination", "before", "after"))
    for kind in _MARKS:
        for one in found.of(kind):
            ends = (names[one.source], names[one.destination])
            writer.writerow((kind, *ends, str(one.before or "none"), str(one.after or "none")))
    return out.getvalue()


def difference_json(found: Difference) -> str:
    names = _names(found)
    told: dict[str, Any] = {
        "ports": words(found.ports),
        "same": found.same,
        "new": [names[end] for end in found.new],
        "gone": [names[end] for end in found.gone],
    }
    for kind in _MARKS:
        told[kind] = [
            {
                "source": names[one.source],
                "destination": names[one.destination],
                "before": _families(one.before),
                "after": _families(one.after),
            }
            for one in found.of(kind)
        ]
    return json.dumps(told, indent=2) + "\n"


def _names(found: Difference) -> dict[End, str]:
    changed = (end for change in found.changes for end in change[:2])
    return names_of((*changed, *found.new, *found.gone))
