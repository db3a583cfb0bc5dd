"""Every node of a cluster in one line: what ``netpol-agent status --cluster`` shows."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent.observe.snapshot import StatusSnapshot
from agent.observe.text import ago
from agent.words import and_more, one_line


class NodeLine(msgspec.Struct, frozen=True):
    """One node. ``agent`` is the agent's pod, empty where the node has none.

    ``ready`` is what the agent says; where it could not be asked, what its kubelet says of its pod.
    ``status`` is the agent's answer; without one, ``error`` says why.
    """

    node: str
    agent: str = ""
    ready: bool = False
    restarts: int = 0
    status: StatusSnapshot | None = None
    error: str = ""


_COLUMNS = ("node", "state", "version", "isolated", "policies", "may be behind", "repairs", "last change")


def lines_without_agent(nodes: Iterable[str], lines: Iterable[NodeLine]) -> list[NodeLine]:
    """Return a line for each node that has no agent."""
    known = {line.node for line in lines}
    return [
        NodeLine(node, error="no agent runs here: nothing is enforced") for node in nodes if node not in known
    ]


def encode(lines: Iterable[NodeLine], notes: Iterable[str]) -> bytes:
    """Return the lines as JSON."""
    return msgspec.json.encode({"nodes": list(lines), "notes": list(notes)}) + b"\n"


def show(lines: Iterable[NodeLine], notes: Iterable[str], console: Console) -> None:
    """Print a table, a node a line, then what is wrong, then what could not be asked."""
    lines = list(lines)
    table = Table(box=None, pad_edge=False)
    for column in (
        "node",
        "state",
        "version",
        "isolated",
        "policies",
        "may be behind",
        "repairs",
        "last change",
    ):
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(escape(line.node), _state(line), *_cells(line.status))
    console.print(table)
    ready = sum(line.ready for line in lines)
    console.print(f"\n{ready} of {len(lines)} nodes ready")
    # One trouble may be every node's.
    told: dict[str, list[str]] = {}
    for line in lines:
        if line.error:
            told.setdefault(line.error.replace(line.agent or "\0", "the pod"), []).append(line.node)
        for fault in line.status.faults if line.status is not None else ():
            told.setdefault(fault.what, []).append(line.node)
    for what, where in told.items():
        some = ", ".join(where[:5]) + and_more(len(where), 5)
        console.print(f"[yellow]{escape(some)}[/]: {escape(one_line(what, 600))}", soft_wrap=True)
    for note in notes:
        console.print(f"[yellow]{escape(one_line(note, 600))}[/]", soft_wrap=True)


def _state(line: NodeLine) -> str:
    if not line.agent:
        return "[red]no agent[/]"
    if line.status is None:
        return "[yellow]ready, by its kubelet[/]" if line.ready else "[red]not ready, by its kubelet[/]"
    return "[green]ready[/]" if line.ready else "[red]not ready[/]"


def _cells(status: StatusSnapshot | None) -> tuple[str, ...]:
    if status is None:
        return ("",) * 6
    behind = [source.kind for source in status.sources if not (source.synced and source.current)]
    apply = status.kernel.last_apply
    return (
        escape(status.version),
        str(len(status.pods)),
        str(len({policy.policy for policy in status.policies})),
        escape(", ".join(behind)) or "-",
        str(status.kernel.drift.repairs),
        ago(apply.at, status.at) if apply is not None else "-",
    )
