"""What a change would do, for people: what would be cut first, by pod and by the policies that decide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape

from agent.net import Direction
from agent.observe.replay.replayed import Half, Moved, Replayed
from agent.words import count, some

MOST = 10
"""Kinds of connection that are shown of one pod and the same policies; the rest are counted."""


def show(found: Replayed, console: Console, *, everything: bool = False) -> None:
    """Print what a change would do. ``everything``: every sort of connection."""
    for line in lines(found, everything=everything):
        console.print(line, soft_wrap=True, highlight=False)


def lines(found: Replayed, *, everything: bool = False) -> Iterator[str]:
    """Give the lines, as markup."""
    for changed in found.changes:
        yield escape(changed)
    where = f" on {count(len(found.nodes), 'node')} ({some(found.nodes)})" if found.nodes else ""
    yield escape(
        f"held against {count(found.seen, 'kind')} of connection{where}: {found.tracked} tracked now, "
        f"{count(found.logged, 'packet')} logged"
    )
    for why, number in sorted(found.unjudged.items()):
        yield escape(f"not judged: {count(number, 'kind')}, since {why}")
    yield from _part("would be cut", "red", found.cut, everything)
    yield from _part("would be opened", "yellow", found.opened, everything)
    for line in found.missing:
        yield f"[red]not looked at[/]: {escape(line)}"
    if not found.cut and not found.opened:
        colour = "yellow" if found.missing or not found.seen else "green"
        yield f"[{colour}]nothing that was seen would change[/]"


def _part(title: str, colour: str, moved: Sequence[Moved], everything: bool) -> Iterator[str]:
    if not moved:
        return
    total = sum(one.total for one in moved)
    yield f"[{colour}]{title}[/]: {count(len(moved), 'kind')} of connection, seen {count(total, 'time')}"
    groups: dict[tuple[str, Direction, tuple[str, ...]], list[tuple[Moved, Half]]] = {}
    for one in moved:
        for half in one.halves:
            groups.setdefault((half.pod, half.direction, half.rules or half.policies), []).append((one, half))
    for (pod, direction, by), members in sorted(groups.items()):
        times = count(sum(one.total for one, _ in members), "time")
        decided = f" by {some(by)}" if by else ""
        yield escape(f"  {direction} of {pod}{decided}: {count(len(members), 'kind')}, seen {times}")
        shown = members if everything else members[:MOST]
        for one, half in sorted(shown, key=lambda member: -member[0].total):
            yield escape(f"    {_ends(one)} {one.port}, {_times(one)}: {half.why}")
        if len(members) > len(shown):
            yield f"    and {len(members) - len(shown)} more; --all shows them"


def _ends(one: Moved) -> str:
    return f"{_end(one.source_pod, one.source)} to {_end(one.destination_pod, one.destination)}"


def _end(pod: str, address: str) -> str:
    return f"{pod} ({address})" if pod else address


def _times(one: Moved) -> str:
    return ", ".join(_told(((one.tracked, "tracked"), (one.logged, "logged"))))


def _told(numbers: Iterable[tuple[int, str]]) -> Iterator[str]:
    return (f"{number} {what}" for number, what in numbers if number)
