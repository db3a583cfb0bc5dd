"""Answers for people: the verdict first, then each direction with the policies and rules that decided it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from agent.net import Direction
from agent.observe.explain.answer import (
    Answer,
    ConnectionAnswer,
    DirectionAnswer,
    FamilyAnswer,
    KernelAnswer,
    Outcome,
)
from agent.observe.explain.live import LiveAnswer
from agent.words import count

_CONNECTIONS = 3
"""Connections of each family that are shown."""
_COLOURS = {Outcome.ALLOWED: "green", Outcome.DENIED: "red", Outcome.UNKNOWN: "yellow"}


def show(answer: Answer, console: Console, known_from: str = "the manifests say") -> None:
    """Print an answer. ``known_from`` says whose word the verdicts are where there are doubts."""
    _print(console, f"{escape(headline(answer))}: {coloured(answer.outcome)}{_differing(answer)}")
    for reason in answer.reasons:
        _print(console, f"  {escape(reason)}")
    if answer.reasons and answer.families:
        _print(console, f"  As far as {known_from}:")
    parts = [list(_family_lines(family)) for family in answer.families]
    alike = len(parts) == 2 and parts[0] == parts[1]
    if alike:
        _print(console, "  IPv4 and IPv6 alike")
    for family, lines in zip(answer.families[:1] if alike else answer.families, parts, strict=False):
        if not alike:
            ends = f"{family.source} to {family.destination}"
            _print(console, f"  IPv{family.family}, {ends}: {coloured(outcome_of(family.allowed))}")
        for line in lines:
            _print(console, f"  {line}")


def show_live(live: LiveAnswer, console: Console) -> None:
    """Print what a running agent answers: of each pair the verdict, and what the kernel does with it."""
    for note in live.notes:
        _print(console, f"[dim]{escape(note)}[/]")
    if not live.answers:
        asked = escape(f"{live.source} to {live.destination}, {live.port}")
        _print(console, f"{asked}: {coloured(live.outcome)}")
        for reason in live.reasons:
            _print(console, f"  {escape(reason)}")
    for answer in live.answers:
        for note in answer.notes:
            _print(console, f"[dim]{escape(note)}[/]")
        show(answer, console, f"the agent on {live.node} knows")
        for line in live_lines(answer, live.node):
            _print(console, f"  {line}")
    if live.more:
        _print(console, f"and {live.more} more pairs, which were not judged")
    if live.denied:
        _print(console, "[bold]Denied lately[/]")
        for line in live.denied:
            _print(console, f"  {escape(line)}")


def live_lines(answer: Answer, node: str) -> Iterator[str]:
    """Give, as markup, who enforces what, what the kernel holds, and which connections live on."""
    for family in answer.families[:1]:
        for direction in Direction:
            yield from map(escape, _node_lines(direction, family.direction(direction), node))
    for family in answer.families:
        for direction in Direction:
            if (kernel := family.direction(direction).kernel) is not None:
                yield from _kernel_lines(f"IPv{family.family} {direction}", kernel)
        for one in family.connections[:_CONNECTIONS]:
            yield escape(connection_line(family, one))
        if (more := len(family.connections) - _CONNECTIONS) > 0:
            yield f"IPv{family.family}: and {count(more, 'more connection')} between them (--json has all)"


def _node_lines(direction: Direction, part: DirectionAnswer, node: str) -> Iterator[str]:
    if part.here:
        of = part.pod or ("the destination" if direction is Direction.INGRESS else "the source")
        yield f"{direction} of {of} is enforced on this node, {node}"
    elif part.node:
        yield (
            f"{direction} of {part.pod} is enforced on node {part.node}: said from the objects, not from the "
            "kernel there; ask the agent there"
        )
    elif part.pod is not None:
        yield f"{direction} of {part.pod} is enforced nowhere yet: it is on no node"


_HOLDS = {"yes": "[green]in the kernel[/]", "no": "[bold red]not in the kernel[/]"}


def _kernel_lines(where: str, kernel: KernelAnswer) -> Iterator[str]:
    why = f": {escape(kernel.why)}" if kernel.why else ""
    yield f"{where}: {_HOLDS.get(kernel.holds, '[yellow]kernel not known[/]')}{why}"
    for rule in kernel.rules:
        hit = f", last seen to grow at {rule.last_hit}" if rule.last_hit else ""
        packets = "1 packet" if rule.packets == 1 else f"{rule.packets} packets"
        yield escape(f"  {rule.chain}: {rule.about or rule.text}: {packets}{hit}")


def connection_line(family: FamilyAnswer, one: ConnectionAnswer) -> str:
    """Say what is known of a connection that the kernel tracks."""
    if one.cut:
        return f"IPv{family.family}: a connection {one.text} was cut (--cut-denied): its packets are dropped"
    if not one.established:
        return f"IPv{family.family}: a connection without an answer: {one.text}"
    lives = "" if family.allowed else ": it lives on, since it is older than what denies new ones"
    return f"IPv{family.family}: an established connection {one.text}{lives}"


def headline(answer: Answer) -> str:
    """Return what was asked, with the port's number where a name was asked about."""
    service = f"{answer.protocol} {answer.port}"
    if isinstance(answer.port, str) and answer.families:
        first = answer.families[0]
        service = f"{answer.protocol} {first.port}, which is {answer.port} on {first.ingress.pod}"
    source, destination = (
        _end(answer.source, answer.source_pod),
        _end(answer.destination, answer.destination_pod),
    )
    return f"{source} to {destination}, {service}"


def outcome_of(allowed: bool) -> Outcome:
    return Outcome.ALLOWED if allowed else Outcome.DENIED


def coloured(outcome: Outcome) -> str:
    """Return an outcome as markup."""
    return f"[bold {_COLOURS[outcome]}]{outcome}[/]"


def _print(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)


def _end(text: str, pod: str) -> str:
    return f"{text} ({pod})" if pod else text


def _differing(answer: Answer) -> str:
    if len({family.allowed for family in answer.families}) < 2:
        return ""
    return " (" + ", ".join(f"IPv{f.family} is {outcome_of(f.allowed)}" for f in answer.families) + ")"


def _family_lines(family: FamilyAnswer) -> Iterator[str]:
    yield from _direction_lines(Direction.EGRESS, family.egress, "source")
    yield from _direction_lines(Direction.INGRESS, family.ingress, "destination")


def _direction_lines(direction: Direction, verdict: DirectionAnswer, side: str) -> Iterator[str]:
    """Give the lines about one direction: of what allows it the rules that do, of a denial all of them."""
    yield from _decided_lines(direction, verdict, side)
    yield from _audited_lines(direction, verdict)
    for hint in verdict.hints:
        yield f"  [yellow]note:[/] {escape(hint)}"


def _audited_lines(direction: Direction, verdict: DirectionAnswer) -> Iterator[str]:
    """Give what the audited policies would do, and by which of their rules, or for want of which."""
    if not verdict.audited:
        return
    names = escape(", ".join(found.policy for found in verdict.audited))
    if verdict.would_deny:
        yield f"  [magenta]audited[/] by {names}: [bold magenta]enforced, it would be denied[/]"
    elif verdict.would_allow:
        yield f"  [magenta]audited[/] by {names}: enforced, it would be allowed"
    else:
        yield f"  [magenta]audited[/] by {names}: enforced, nothing would change"
    for found in verdict.audited:
        for rule in found.rules:
            if rule.allows:
                yield escape(f"  would be allowed by rule {rule.rule} of {found.policy}: {rule.why}")
            elif verdict.would_deny:
                yield escape(f"  not by rule {rule.rule} of {found.policy}: {rule.why}")
        if not found.rules and verdict.would_deny:
            lacks = found.not_enforced or f"it has no {direction} rule"
            yield escape(f"  not by {found.policy}: {lacks}")


def _decided_lines(direction: Direction, verdict: DirectionAnswer, side: str) -> Iterator[str]:
    whose = f"{direction} of {verdict.pod if verdict.pod is not None else f'the {side}'}"
    if not verdict.isolated:
        yield f"{escape(whose)}: {coloured(outcome_of(verdict.allowed))}, {escape(verdict.why)}"
        return
    yield f"{escape(whose)}: {coloured(outcome_of(verdict.allowed))}"
    policies = "policy" if len(verdict.policies) == 1 else "policies"
    yield f"  isolated by {policies} {escape(', '.join(found.policy for found in verdict.policies))}"
    for found in verdict.policies:
        for rule in found.rules:
            if rule.allows:
                yield escape(f"  allowed by rule {rule.rule} of {found.policy}: {rule.why}")
            elif not verdict.allowed:
                yield escape(f"  not by rule {rule.rule} of {found.policy}: {rule.why}")
        if found.not_enforced:
            yield escape(
                f"  not by {found.policy}, which is over budget and allows nothing: {found.not_enforced}"
            )
        elif not found.rules and not verdict.allowed:
            yield escape(f"  not by {found.policy}: it has no {direction} rule")
