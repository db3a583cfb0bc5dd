"""What ``netpol-agent status`` prints first, and of one pod or policy."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.markup import escape

from agent.clock import Moment, moment
from agent.decoding import decode
from agent.history.change import Row
from agent.kube.mode import MODE_ANNOTATION, Mode
from agent.observe.cuts import by_protocol
from agent.observe.flows.flow import Flow, Report, as_text
from agent.observe.history.text import headline
from agent.observe.history.text import time_text as moment_text
from agent.observe.proof import in_words
from agent.observe.snapshot import DriftStatus, PodStatus, StatusSnapshot
from agent.observe.status.policy import PolicyView, RuleView
from agent.observe.text import ago, duration
from agent.words import and_more, count, one_line

_NAMED = 6
_MODES = {
    Mode.AUDIT: "audited: it denies nothing, and what it would deny is logged and counted",
    Mode.DISABLED: "disabled: it isolates nothing and allows nothing",
}
_FLOWS = 5
"""Denied connections that are shown, and cuts of a pod."""
_SECONDS = 60.0
"""Denied connections of so long are shown."""


class Around(NamedTuple):
    """What there is to know besides the snapshot; what could not be asked is None.

    ``failing`` and ``warnings``: the lines of ``/readyz`` that say why the agent is not ready, and what else
    is odd. ``rows``: the last changes. ``denied``: the last denied connections, as ``/flows`` has them.
    """

    failing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    rows: tuple[Row, ...] | None = None
    denied: tuple[Report, ...] | None = None


class _Check(msgspec.Struct, frozen=True):
    name: str
    state: str
    detail: str = ""


class _Checks(msgspec.Struct, frozen=True):
    checks: list[_Check]


def checks_of(body: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the lines of what failed and of what is odd, of ``/readyz?format=json``.

    Raises :class:`agent.decoding.UndecodableError`.
    """
    found: dict[str, list[str]] = {"failed": [], "warning": []}
    for check in decode(body, _Checks).checks:
        lines = found.get(check.state)
        if lines is not None:
            lines.append(f"{check.name}: {check.detail}" if check.detail else check.name)
    # One trouble may be every cache's.
    return tuple(dict.fromkeys(found["failed"])), tuple(dict.fromkeys(found["warning"]))


def show_screen(snapshot: StatusSnapshot, around: Around, console: Console) -> None:
    """Print the state of the node at a glance."""
    for line in _screen(snapshot, around):
        console.print(line, soft_wrap=True)


def _screen(snapshot: StatusSnapshot, around: Around) -> Iterator[str]:
    yield from _heading(snapshot, around)
    yield ""
    if snapshot.applied:
        yield _enforced(snapshot)
        yield from _staged(snapshot)
        yield from _unconfirmed(snapshot)
        if snapshot.new_pods is not None:
            yield f"[bold]New pods[/] {escape(str(snapshot.new_pods))}"
        yield from _cuts(snapshot)
        yield from _kernel(snapshot)
    else:
        yield "[bold]Kernel[/] not touched yet: what was in it before this agent started is still enforced"
    yield _known(snapshot)
    if snapshot.applied and any(source.synced and not source.current for source in snapshot.sources):
        yield "[yellow]Changes made since the last contact are not enforced yet; all known before still is[/]"
    yield from _changes(around.rows)
    yield from _denials(snapshot, around.denied)
    yield ""
    yield "More: status --pod NS/NAME, --policy NS/NAME, --all; history; explain SRC DST PORT"


def _heading(snapshot: StatusSnapshot, around: Around) -> Iterator[str]:
    ready = "[bold green]ready[/]" if snapshot.ready else "[bold red]not ready[/]"
    families = ", ".join(f"IPv{family}" for family in snapshot.families) or "no family yet"
    yield (
        f"[bold]{escape(snapshot.node)}[/]  {ready}  netpol-agent {escape(snapshot.version)}, "
        f"up {duration(snapshot.uptime)}, iptables {escape(snapshot.iptables_mode) or 'not chosen yet'}, "
        f"{families}"
    )
    for line in around.failing:
        yield f"  [red]{escape(one_line(line, 600))}[/]"
    for line in around.warnings:
        yield f"  [yellow]{escape(one_line(line, 600))}[/]"


def _enforced(snapshot: StatusSnapshot) -> str:
    pods = snapshot.pods
    ingress = sum(pod.ingress is not None for pod in pods)
    egress = sum(pod.egress is not None for pod in pods)
    policies = len({policy.policy for policy in snapshot.policies})
    closed = f", {len(snapshot.closed)} closed after their pods went" if snapshot.closed else ""
    over = f", [yellow]{len(snapshot.over_budget)} over budget[/]" if snapshot.over_budget else ""
    if not pods:
        return f"[bold]Enforced[/] no pod of this node is isolated: every packet is allowed{closed}{over}"
    words = "policy" if policies == 1 else "policies"
    return (
        f"[bold]Enforced[/] {count(len(pods), 'isolated pod')} ({ingress} for ingress, {egress} for egress), "
        f"by {policies} {words}{closed}{over}"
    )


def _staged(snapshot: StatusSnapshot) -> Iterator[str]:
    """Say which policies are not enforced, and how many pods here are open for that."""
    parts = []
    for mode, word in (("audit", "audited"), ("disabled", "disabled")):
        names = [one.policy for one in snapshot.staged if one.mode == mode]
        if names:
            more = and_more(len(names), _NAMED)
            parts.append(f"[magenta]{len(names)} {word}[/]: {escape(', '.join(names[:_NAMED]))}{more}")
    if not parts:
        return
    pods = len({one.pod for one in snapshot.audited})
    here = f"; {count(pods, 'pod')} of this node audited" if pods else ""
    yield f"[bold]Not enforced[/] {'; '.join(parts)}{here}"


def _unconfirmed(snapshot: StatusSnapshot) -> Iterator[str]:
    """Say which policies others than one's own managers have written."""
    found = snapshot.unconfirmed
    if found:
        names = ", ".join(f"{one.policy} ({one.manager or 'nobody known'})" for one in found[:_NAMED])
        more = and_more(len(found), _NAMED)
        yield f"[bold]Unconfirmed[/] [yellow]{len(found)} of others[/]: {escape(names)}{more}"


def _cuts(snapshot: StatusSnapshot) -> Iterator[str]:
    """Say how many connections were ended because a change forbids them, and the last of them."""
    cuts = snapshot.cuts
    if cuts is None:
        return
    waiting = f"; [yellow]{cuts.waiting} more are being ended[/]" if cuts.waiting else ""
    if not cuts.last:
        yield f"[bold]Cut[/] no connection since the agent started{waiting}"
        return
    last = cuts.last[0]
    yield (
        f"[bold]Cut[/] {count(cuts.connections, 'connection')} that a change forbids, "
        f"{by_protocol(cuts.protocols)}{waiting}; "
        + escape(f"the last {ago(last.at, snapshot.at)}, {last.direction} of {last.pod}, {last.because}")
    )


def _cut(pod: str, snapshot: StatusSnapshot) -> Iterator[str]:
    """Name the connections of a pod that were ended lately, by its own policies and by those of others."""
    if snapshot.cuts is not None:
        own, others = snapshot.cuts.of_pod(pod), snapshot.cuts.of_peer(pod)
        told = *((one.at, str(one)) for one in own[:_FLOWS]), *((one.at, str(one)) for one in others[:_FLOWS])
        yield from (escape(f"  {ago(at, snapshot.at)}: {text}") for at, text in told)


def _kernel(snapshot: StatusSnapshot) -> Iterator[str]:
    kernel, now = snapshot.kernel, snapshot.at
    counts = ", ".join(
        (count(kernel.chains, "chain"), count(kernel.rules, "rule"), count(kernel.sets, "set"))
    )
    parts = [counts]
    if kernel.last_apply is not None:
        result = "ok" if kernel.last_apply.result == "ok" else f"[red]{escape(kernel.last_apply.result)}[/]"
        parts.append(f"last change {ago(kernel.last_apply.at, now)}: {result}")
    if kernel.retry_pending:
        parts.append("[yellow]a retry is pending[/]")
    drift = kernel.drift
    repairs = f"{count(drift.repairs, 'repair')} of drift{_repair(drift, now)}"
    parts.append(f"compared {ago(drift.last_check, now)}, {repairs}")
    if kernel.proof is not None:
        parts.append(in_words(kernel.proof, ago(kernel.proof.at, now)))
    yield f"[bold]Kernel[/] {'; '.join(parts)}"


def _repair(drift: DriftStatus, now: Moment) -> str:
    """Return what was put back last, and who had changed it."""
    last = drift.last_repair
    if last is None:
        return ""
    by = f" by {last.by}" if last.by else ""
    more = and_more(len(last.differences), 1)
    return escape(f" (the last {ago(last.at, now)}, changed{by}: {last.differences[0]}{more})")


def _known(snapshot: StatusSnapshot) -> str:
    parts = []
    for source in snapshot.sources:
        state = "" if source.synced else " [red]not synced[/]"
        if source.synced and not source.current:
            state = f" [yellow]may be behind, last contact {ago(source.last_contact, snapshot.at)}[/]"
        refused = f" [yellow]{len(source.refused)} refused[/]" if source.refused else ""
        parts.append(f"{source.objects} {source.kind}{state}{refused}")
    return f"[bold]Known[/] {', '.join(parts) or 'nothing yet'}"


def _changes(rows: tuple[Row, ...] | None) -> Iterator[str]:
    if rows is None:
        return
    yield ""
    yield "[bold]Last changes[/]" if rows else "[bold]Last changes[/] none is known"
    for row in rows:
        yield f"  {moment_text(row.seen)}  {escape(one_line(headline(row), 200))}"


def _denials(snapshot: StatusSnapshot, denied: tuple[Report, ...] | None) -> Iterator[str]:
    if denied is None:
        return
    recent = [report for report in denied if (snapshot.at - _at(report)).total_seconds() <= _SECONDS]
    yield ""
    if not recent:
        yield "[bold]Denied in the last minute[/] nothing was logged"
        return
    yield f"[bold]Denied in the last minute[/] {count(len(recent), 'report')}, the last of them:"
    for report in recent[-_FLOWS:]:
        yield f"  {escape(one_line(as_text(report)))}"


def _at(report: Report) -> Moment:
    return report.last if isinstance(report, Flow) else report.at


def show_pod(
    pod: str, snapshot: StatusSnapshot, policies: Iterable[PolicyView], around: Around, console: Console
) -> None:
    """Print what is enforced for one pod, and what its policies allow."""
    found = next((one for one in snapshot.pods if one.pod == pod), None)
    told = (*_pod(pod, found), *_audited(pod, snapshot), *_disabled(pod, snapshot), *_cut(pod, snapshot))
    for line in told:
        console.print(line, soft_wrap=True)
    policies = tuple(policies)
    if found is not None and found.egress is not None:
        for line in _without_dns(found.egress, policies):
            console.print(line, soft_wrap=True)
    for policy in policies:
        console.print()
        show_policy(policy, None, console)
    for line in (*_changes(around.rows), *_denials(snapshot, around.denied)):
        console.print(line, soft_wrap=True)


def _without_dns(isolating: Collection[str], policies: Iterable[PolicyView]) -> Iterator[str]:
    """Say that a pod can look up no name, where that is known: all the policies that isolate it are."""
    known = {policy.policy: policy for policy in policies}
    if not all(name in known for name in isolating):
        return
    rules = [rule for name in isolating for rule in known[name].rules if rule.dns]
    if not rules:
        yield "  [yellow]note:[/] no egress rule allows DNS (UDP port 53): it cannot look up names"
    elif all(rule.nobody for rule in rules):
        yield (
            "  [yellow]note:[/] what its egress rules allow for DNS (UDP port 53) is nobody now: it cannot "
            "look up names"
        )


def _pod(name: str, found: PodStatus | None) -> Iterator[str]:
    if found is None:
        yield (
            f"[bold]{escape(name)}[/]  no policy on this node isolates it: if it is here, every packet is "
            "allowed"
        )
        yield f"  if one should: explain SOURCE {escape(name)} PORT says which do not select it, and why"
        return
    of = f" ({escape(found.workload)})" if found.workload else ""
    yield f"[bold]{escape(name)}[/]{of}  {', '.join(found.addresses) or 'no address yet'}"
    if found.early:
        yield "  its network plugin gave it this address (CNI): its status does not say it yet"
    for direction, policies, over in (
        ("ingress", found.ingress, found.ingress_over_budget),
        ("egress", found.egress, found.egress_over_budget),
    ):
        if policies is None:
            yield f"  {direction}: [green]open[/]"
        elif policies:
            yield f"  {direction}: [red]isolated[/] by {escape(', '.join(policies))}"
        else:
            yield f"  {direction}: [red]closed[/], no policy in force"
        if over:
            yield f"  {direction}: [yellow]over budget: {escape(', '.join(over[:_NAMED]))}[/]"


def _audited(pod: str, snapshot: StatusSnapshot) -> Iterator[str]:
    for one in snapshot.audited:
        if one.pod == pod:
            names = ", ".join(one.policies) or "policies that allow nothing"
            yield f"  {one.direction}: [magenta]audited[/] by {escape(names)}: what none allows is logged"


def _disabled(pod: str, snapshot: StatusSnapshot) -> Iterator[str]:
    """Name the disabled policies of a pod's namespace: one of them may be what somebody relies on."""
    namespace = pod.partition("/")[0]
    names = [
        one.policy
        for one in snapshot.staged
        if one.mode == Mode.DISABLED and one.policy.startswith(f"{namespace}/")
    ]
    if names:
        more = and_more(len(names), _NAMED)
        yield f"  [magenta]disabled[/] in its namespace: {escape(', '.join(names[:_NAMED]))}{more}"


def show_policy(policy: PolicyView, rows: tuple[Row, ...] | None, console: Console) -> None:
    """Print one policy: whom it isolates here, and each rule with what it has counted."""
    for line in _policy(policy):
        console.print(line, soft_wrap=True)
    for line in _changes(rows):
        console.print(line, soft_wrap=True)


def _policy(policy: PolicyView) -> Iterator[str]:
    yield f"[bold]{escape(policy.policy)}[/]  selects {escape(policy.selects)}"
    if policy.mode != Mode.ENFORCE:
        whose = " of its namespace" if policy.mode_of_namespace else ""
        yield f"  [magenta]{_MODES[Mode(policy.mode)]}[/] (annotation {MODE_ANNOTATION}{whose})"
    isolates = "isolates" if policy.mode == Mode.ENFORCE else "would isolate"
    for direction, pods in (("ingress", policy.ingress), ("egress", policy.egress)):
        if pods is None:
            continue
        names = ", ".join(pods[:_NAMED]) + and_more(len(pods), _NAMED)
        yield f"  {isolates} for {direction}: {escape(names) or '[yellow]no pod of this node[/]'}"
    which = f"generation {policy.generation}" if policy.generation else "as it is now"
    if policy.proved_since is not None:
        since = moment_text(moment(policy.proved_since))
        yield f"  [green]proved[/] to be enforced here ({which}) since {since}"
    elif policy.mode == Mode.ENFORCE and (policy.ingress or policy.egress) and not policy.problems:
        yield f"  not proved yet to be enforced here ({which}): the next proof tells, or netpol-agent verify"
    for problem in policy.problems:
        yield f"  [yellow]{escape(one_line(problem, 600))}[/]"
    for rule in policy.rules:
        yield from _rule(rule)
    if policy.ingress is not None and not any(rule.direction == "ingress" for rule in policy.rules):
        yield "  allows nothing for ingress"
    if policy.egress is not None and not any(rule.direction == "egress" for rule in policy.rules):
        yield "  allows nothing for egress"


def _rule(rule: RuleView) -> Iterator[str]:
    if rule.packets:
        counted = f"[green]{count(rule.packets, 'packet')}[/], {_bytes(rule.bytes or 0)}"
        if rule.last_hit is not None:
            counted += f", last seen to grow at {moment_text(moment(rule.last_hit))}"
    elif rule.packets is not None:
        counted = "unused since it was written"
    else:
        counted = "not in the kernel"
    yield f"  {escape(f'{rule.direction}[{rule.number}] {rule.text}')}  ({counted})"
    for peers in rule.peers:
        number = count(peers.members, "member") if peers.members else "[yellow]nobody now[/]"
        yield f"      {number}: {escape(peers.meaning)}"
    if rule.nobody and not rule.peers:
        yield "      [yellow]it can match no packet now[/]"


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{number} B"
