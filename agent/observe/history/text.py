"""Rows of the history for a person: what changed, who changed it, and what that did here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.markup import escape

from agent.clock import Moment
from agent.history.change import Effect, Row, Subject, What
from agent.words import and_more, count

_NAMED = 6
"""Pods that are named of one effect; ``--json`` names all."""


def show(rows: Iterable[Row], console: Console, pod: str = "") -> None:
    """Print rows for a person; of a ``pod`` that was asked for, at the end, since when it is isolated."""
    rows = tuple(rows)
    for row in rows:
        console.print(_headline(row), soft_wrap=True)
        for line in _lines(row):
            console.print(f"    {line}", soft_wrap=True)
    if pod:
        console.print()
        for line in since(rows, pod):
            console.print(line, soft_wrap=True)


def headline(row: Row) -> str:
    """Return one line about a row, without its time: ``policy shop/db changed by kubectl (Apply)``."""
    number = f" ({row.count} changes)" if row.count > 1 else ""
    by = f" by {row.who}" if row.who else ""
    if row.subject is Subject.REPAIR:
        return f"the kernel was changed from outside{by}; the agent put back what differed{number}"
    return f"{_subject(row)} {_DONE.get(row.what, row.what.value)}{by}{number}"


def since(rows: Iterable[Row], pod: str) -> Iterator[str]:
    """Yield for each direction since when a pod is isolated, or open, and by what, as far as rows tell."""
    for direction in ("ingress", "egress"):
        last: tuple[str, Row] | None = None
        for row in rows:
            effect = row.effect
            if pod in getattr(effect, f"isolated_{direction}"):
                last = "isolated", row
            elif pod in getattr(effect, f"opened_{direction}"):
                last = "open", row
        if last is None:
            yield f"[bold]{escape(pod)}[/] {direction}: no change in these rows"
            continue
        state, row = last
        since_when = time_text(row.kernel or row.seen)
        colour = "red" if state == "isolated" else "green"
        yield (
            f"[bold]{escape(pod)}[/] {direction}: [{colour}]{state}[/] since {since_when}: "
            f"{escape(headline(row))}"
        )


_DONE = {What.BEGUN: "began"}


def _subject(row: Row) -> str:
    if row.subject is Subject.REMOTE_PODS:
        return f"pods of other nodes, namespace {row.object}"
    if row.subject is Subject.CONNECTIONS:
        return f"connections of pod {row.object}"
    if row.subject is Subject.BUDGET:
        return f"policy {row.object} over budget"
    if row.subject is Subject.OUTAGE:
        return f"outage of the {row.object}"
    if row.subject is Subject.FAULT:
        return f"fault: {row.object}:"
    return f"{row.subject.value} {row.object}".rstrip()


_COLOURS = {
    Subject.OUTAGE: "yellow",
    Subject.REPAIR: "yellow",
    Subject.FAULT: "yellow",
    Subject.BUDGET: "yellow",
    Subject.HISTORY: "yellow",
    Subject.CONNECTIONS: "yellow",
}


def _headline(row: Row) -> str:
    text = escape(headline(row))
    colour = _COLOURS.get(row.subject)
    return f"[bold]{time_text(row.seen)}[/]  " + (f"[{colour}]{text}[/]" if colour else text)


def _lines(row: Row) -> Iterator[str]:
    if times := _times(row):
        yield times
    if unnamed(row):
        yield f"[dim]{_UNNAMED}[/]"
    for line in row.diff:
        colour = {"+": "green", "-": "red"}.get(line[:1])
        yield f"[{colour}]{escape(line)}[/]" if colour else escape(line)
    yield from map(escape, row.detail)
    yield from map(escape, effect_lines(row.effect))


_UNNAMED = "who deleted it is not known: API servers do not say it in the object; their audit log may"


def unnamed(row: Row) -> bool:
    """Whether a row is of an object that was deleted, and nobody says by whom."""
    deletable = (Subject.POLICY, Subject.POD, Subject.NAMESPACE)
    return row.what is What.DELETED and row.subject in deletable and not row.who


def _times(row: Row) -> str:
    """Return when the API server and the kernel had a change, against when this node saw it."""
    parts = []
    if row.api is not None:
        parts.append(f"the API server had it at {row.api:%H:%M:%S}")
    if row.kernel is not None and row.subject not in (Subject.HISTORY, Subject.CONNECTIONS):
        after = max(0.0, (row.kernel - row.seen).total_seconds())
        parts.append(f"the kernel {1000 * after:.0f} ms after this node saw it")
    elif row.subject in (Subject.POLICY, Subject.POD, Subject.NAMESPACE, Subject.REPAIR):
        parts.append("[red]the kernel did not have it yet[/]")
    return ", ".join(parts)


def effect_lines(effect: Effect) -> Iterator[str]:
    """Yield what a change did on this node."""
    told: set[str] = set()
    for words, pods in (
        ("isolated for ingress", effect.isolated_ingress),
        ("isolated for egress", effect.isolated_egress),
        ("open again for ingress", effect.opened_ingress),
        ("open again for egress", effect.opened_egress),
    ):
        if pods:
            told.update(pods)
            yield f"{words}: {_some(pods)}"
    others = tuple(pod for pod in effect.selected if pod not in told)
    for words, pods in (
        ("isolated before and after", tuple(pod for pod in others if pod not in effect.open)),
        ("open before and after", tuple(pod for pod in others if pod in effect.open)),
    ):
        if pods:
            yield f"{words}: {_some(pods)}"
    if effect.policies:
        yield f"isolated by: {_some(effect.policies)}"
    sets = (("+", effect.sets_added), ("-", effect.sets_removed))
    members = (("+", effect.members_added), ("-", effect.members_removed))
    parts = [f"{sign}{count(number, 'set')}" for sign, number in sets if number]
    parts += [f"{sign}{count(number, 'member')} of sets" for sign, number in members if number]
    if parts:
        more = f" (with {count(effect.together - 1, 'other change')})" if effect.together > 1 else ""
        yield ", ".join(parts) + more


def _some(names: tuple[str, ...]) -> str:
    more = and_more(len(names), _NAMED)
    return ", ".join(names[:_NAMED]) + more


def time_text(moment: Moment) -> str:
    """Return a time to the millisecond, in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03}Z"
