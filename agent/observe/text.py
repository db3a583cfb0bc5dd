"""What ``netpol-agent status`` prints for a person."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from agent.clock import Moment
from agent.observe.proof import in_words
from agent.observe.snapshot import KernelStatus, SourceStatus, StatusSnapshot
from agent.words import count, printable

_MANY_SETS = 20
"""Sets shown; the rest are counted, and all are in ``--json``."""
_MANY_OVER_BUDGET = 3
"""Policies over budget that are shown of a pod; the rest are counted."""


def plain_console(file: IO[str], *, width: int | None = None, force_terminal: bool | None = None) -> Console:
    """Return a console for texts that come from objects: what they hold is never taken for an emoji's name.

    ``fd00::100:1`` holds one. Colour is used on a terminal only.
    """
    return _Console(file=file, width=width, force_terminal=force_terminal, highlight=False, emoji=False)


class _Console(Console):
    """Prints no control character of what objects hold: ESC begins an order to a terminal (ECMA-48)."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def show(snapshot: StatusSnapshot, console: Console) -> None:
    """Print a snapshot: the agent's state first, then what it enforces, then what is wrong."""
    _heading(snapshot, console)
    _sources(snapshot, console)
    if snapshot.applied:
        _kernel(snapshot.kernel, snapshot.at, console)
        _pods(snapshot, console)
        _policies(snapshot, console)
        _sets(snapshot, console)
    else:
        _untouched(console)
    _faults(snapshot, console)


def duration(seconds: float) -> str:
    """Return seconds as people say them: ``450 ms``, ``12 s``, ``3 min``, ``5 h``, ``2 d``."""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    for limit, unit, size in ((120, "s", 1), (7_200, "min", 60), (172_800, "h", 3_600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def ago(moment: Moment | None, now: Moment) -> str:
    """Return how long ago something was, as people say it."""
    return "never" if moment is None else f"{duration((now - moment).total_seconds())} ago"


def _heading(snapshot: StatusSnapshot, console: Console) -> None:
    ready = "[green]ready[/]" if snapshot.ready else "[red]not ready[/]"
    families = ", ".join(f"IPv{family}" for family in snapshot.families) or "no family yet"
    console.print(
        f"[bold]{escape(snapshot.node)}[/]  {ready}  netpol-agent {escape(snapshot.version)}, "
        f"up {duration(snapshot.uptime)}"
    )
    why = snapshot.iptables_mode_reason.removeprefix(f"{snapshot.iptables_mode}: ")
    reason = f" ({escape(why)})" if why else ""
    console.print(f"iptables {escape(snapshot.iptables_mode) or 'not chosen yet'}{reason}, {families}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table, console: Console) -> None:
    console.print()
    console.print(table)


def _sources(snapshot: StatusSnapshot, console: Console) -> None:
    table = _table("Caches", "kind", "state", "objects", "last event", "last contact")
    for source in snapshot.sources:
        table.add_row(
            source.kind,
            _source_state(source),
            str(source.objects),
            ago(source.last_event, snapshot.at),
            ago(source.last_contact, snapshot.at),
        )
    _print(table, console)
    # One trouble may be every cache's: it is told once.
    refused = dict.fromkeys(line for source in snapshot.sources for line in source.refused)
    for fault in dict.fromkeys(source.fault for source in snapshot.sources if source.fault):
        # A fault that stands for several begins with the first of them.
        if not fault.startswith(tuple(refused)):
            console.print(f"  [yellow]{escape(fault)}[/]")
    for line in refused:
        console.print(f"  [yellow]refused[/] {escape(line)}")


def _source_state(source: SourceStatus) -> str:
    if not source.synced:
        return "[red]not synced[/]"
    if not source.current:
        return "[yellow]may be behind[/]"
    return "[yellow]synced, warning[/]" if source.fault or source.refused else "[green]synced[/]"


def _kernel(kernel: KernelStatus, now: Moment, console: Console) -> None:
    console.print()
    counts = ", ".join(
        (count(kernel.chains, "chain"), count(kernel.rules, "rule"), count(kernel.sets, "set"))
    )
    console.print(f"[bold]Kernel[/] {counts}")
    if kernel.last_apply is None:
        console.print("  nothing applied yet")
    else:
        apply = kernel.last_apply
        result = "[green]ok[/]" if apply.result == "ok" else f"[red]{escape(apply.result)}[/]"
        took = f"took {duration(apply.seconds)}, {count(apply.writes, 'write')}"
        console.print(f"  last apply {ago(apply.at, now)}, {took}: {result}")
    if kernel.last_error is not None:
        console.print(f"  last error {ago(kernel.last_error.at, now)}: {escape(kernel.last_error.what)}")
    if kernel.retry_pending:
        console.print("  [yellow]a retry is pending[/]")
    console.print(
        f"  drift checked {ago(kernel.drift.last_check, now)}, {count(kernel.drift.repairs, 'repair')}"
    )
    if (proof := kernel.proof) is not None:
        console.print(f"  {in_words(proof, ago(proof.at, now))}")
        for difference in proof.differences:
            console.print(f"    {escape(difference)}")
    if (repair := kernel.drift.last_repair) is not None:
        by = f" by {repair.by}" if repair.by else ""
        told = escape(f"the kernel was changed from outside{by}: {'; '.join(repair.differences)}")
        console.print(f"  last repair {ago(repair.at, now)}: {told}")


def _pods(snapshot: StatusSnapshot, console: Console) -> None:
    table = _table("Isolated pods of this node", "pod", "addresses", "ingress by", "egress by")
    for pod in snapshot.pods:
        table.add_row(
            escape(pod.pod),
            "\n".join(pod.addresses) or "none yet",
            _direction(pod.ingress, pod.ingress_over_budget),
            _direction(pod.egress, pod.egress_over_budget),
        )
    for closed in snapshot.closed:
        table.add_row("(deleted, still closed)", closed.address, "", ", ".join(closed.directions))
    if table.row_count:
        _print(table, console)
    else:
        console.print("\nNo pod of this node is isolated: every packet is allowed.")
    if links := str(snapshot.links):
        console.print(f"  links: {escape(links)}")
    if snapshot.new_pods is not None:
        console.print(f"  new pods: {escape(str(snapshot.new_pods))}")


def _untouched(console: Console) -> None:
    console.print()
    console.print(
        "[bold]Kernel[/] not touched yet: what was in it before this agent started is still enforced"
    )


def _direction(policies: tuple[str, ...] | None, over_budget: tuple[str, ...]) -> str:
    if policies is None:
        return "open"
    over = [f"{policy} (over budget)" for policy in over_budget[:_MANY_OVER_BUDGET]]
    if len(over_budget) > len(over):
        over.append(f"and {len(over_budget) - len(over)} more over budget")
    return escape("\n".join((*(policies or ("closed: no policy in force",)), *over)))


def _policies(snapshot: StatusSnapshot, console: Console) -> None:
    table = _table("Policies in force here", "policy", "direction", "pods", "rules v4", "rules v6", "sets")
    for policy in snapshot.policies:
        numbers = (policy.pods, policy.rules_v4, policy.rules_v6, policy.sets)
        table.add_row(escape(policy.policy), policy.direction, *map(str, numbers))
    if table.row_count:
        _print(table, console)


def _sets(snapshot: StatusSnapshot, console: Console) -> None:
    table = _table("Sets", "name", "members", "what they are")
    for one in snapshot.sets[:_MANY_SETS]:
        table.add_row(escape(one.name) or "not there yet", str(one.size), escape(one.meaning))
    if table.row_count:
        _print(table, console)
    if len(snapshot.sets) > _MANY_SETS:
        console.print(f"  and {len(snapshot.sets) - _MANY_SETS} more: --json lists all")


def _faults(snapshot: StatusSnapshot, console: Console) -> None:
    if not snapshot.faults:
        return
    console.print("\n[bold]Faults[/]")
    for line in _fault_lines(snapshot):
        console.print(line)


def _fault_lines(snapshot: StatusSnapshot) -> Iterable[str]:
    for fault in snapshot.faults:
        style = "red" if fault.blocking else "yellow"
        yield f"  [{style}]{escape(fault.what)}[/]"
        if fault.remedy:
            yield f"    {escape(fault.remedy)}"
