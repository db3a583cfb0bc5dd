"""``python -m tests.chaos.soak --minutes 20``: churn with faults, under the probe, for as long as you like.

Two nodes on a real API server: the agent of one is killed again and again, that of the other lives from the
beginning to the end. Objects change all the time, kube-apiserver is started again, and chains are flushed.

Exit codes: 0 nothing was wrong, all was flat, and both kernels ended as a first start leaves them; 1 not so.
"""

from __future__ import annotations

import itertools
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import click

from agent.net import Family
from tests.chaos import churn as churning
from tests.chaos import kernel
from tests.chaos.clustered import Clustered
from tests.chaos.flat import Growth, Sample, growth, sample
from tests.chaos.judge import Report
from tests.chaos.probe import Probe
from tests.lab.cluster import AgentProcess
from tests.lab.node import Layout, Mode, Node

STEADY, KILLED = "steady", "killed"
NODES = ((STEADY, Layout.ROUTED, Mode.NFT), (KILLED, Layout.BRIDGE, Mode.NFT))
FAULT_SECONDS = 10.0
SAMPLE_SECONDS = 5.0
MENDED_SECONDS = 3.0
"""Within which chains that were flushed are mended: a second, and more on a machine that does all this."""
_FLUSHED = ("KUBE-NETPOL-INGRESS", "KUBE-NETPOL-EGRESS")


@dataclass
class Soak:
    """What has been seen so far, and in the end."""

    faults: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    report: Report = field(default_factory=lambda: Report(0.0))
    changes: int = 0
    growth: tuple[Growth, ...] = ()
    broken: list[str] = field(default_factory=list)


def soak(minutes: float, tell: Callable[[str], None] = lambda _: None) -> Soak:
    """Run for so long. Raises LabError when the lab itself fails."""
    found = Soak()
    with Clustered(NODES) as stage:
        for node in stage.nodes.values():
            stage.cluster.start_agent(node)
        stage.cluster.wait_ready()
        first = {name: kernel.settled(stage.cluster.agents[name]) for name in stage.nodes}
        with Probe(stage.lanes) as probe:
            with churning.of_cluster(stage) as churn:
                _go_on(stage, probe, found, minutes, lambda: tell(_line(found, churn.changes)))
            found.changes = churn.changes
            for name, node in stage.nodes.items():
                try:
                    stage.cluster.agents[name].wait_ready()
                    kernel.wait_for(node, first[name], 60)
                except AssertionError as error:
                    found.broken.append(f"{name}: {error}")
    found.report = probe.report
    found.broken += found.report.told()
    found.growth = growth(found.samples)
    found.broken += [f"not flat: {figure}" for figure in found.growth if not figure.flat]
    return found


def _go_on(stage: Clustered, probe: Probe, found: Soak, minutes: float, tell: Callable[[], None]) -> None:
    faults = itertools.cycle((_kill, _kill, _flush, _kill, _restart_api, _kill, _flush))
    pid = _pid_of_python(stage.cluster.agents[STEADY])
    now = time.monotonic()
    ends, fault_at, sample_at = now + 60 * minutes, now + FAULT_SECONDS, now
    while (now := time.monotonic()) < ends:
        if now >= sample_at:
            found.samples.append(sample(pid, now))
            sample_at = now + SAMPLE_SECONDS
            tell()
        if now >= fault_at:
            found.faults[next(faults)(stage, probe)] += 1
            fault_at = time.monotonic() + FAULT_SECONDS
        time.sleep(max(0.0, min(sample_at, fault_at, ends) - time.monotonic()))


def _pid_of_python(agent: AgentProcess) -> int:
    """Return the process: what the lab starts before it has made way for it (``exec``), under one number."""
    return agent.process.pid


def _kill(stage: Clustered, probe: Probe) -> str:
    del probe
    stage.cluster.agents[KILLED].stop(signal.SIGKILL)
    stage.cluster.start_agent(stage.nodes[KILLED])
    return "killed"


def _restart_api(stage: Clustered, probe: Probe) -> str:
    del probe
    stage.cluster.api.restart()
    return "API server restarted"


def _flush(stage: Clustered, probe: Probe) -> str:
    node: Node = stage.nodes[STEADY]
    probe.allow(MENDED_SECONDS)
    for family, chain in itertools.product(Family, _FLUSHED):
        node.iptables(family, "-F", chain)
    return "chains flushed"


def _line(found: Soak, changes: int) -> str:
    last = found.samples[-1]
    since = last.at - found.samples[0].at
    faults = ", ".join(f"{count} {name}" for name, count in sorted(found.faults.items()))
    uses = f"{last.memory:.1f} MB, {last.descriptors} descriptors, {last.threads} threads"
    return f"{since:.0f} s: {changes} changes, {faults or 'no fault'}; {uses}"


def text(found: Soak) -> str:
    """Say for people what was seen."""
    report = found.report
    faults = ", ".join(f"{count} {name}" for name, count in sorted(found.faults.items()))
    lines = [
        f"{report.seconds / 60:.1f} minutes, {found.changes:,} changes; {faults}",
        f"{report.flows:,} new flows ({report.rate:.0f} a second): {report.wrong:,} wrong",
        f"apart from these: {report.in_time:,} while flushed chains were mended, the last {report.took:.2f} "
        f"s after the flush; {report.held_back:,} held back while the kernel took rules; {report.excused:,} "
        "lost while the machine dropped packets",
        f"the agent that was not killed: {'; '.join(map(str, found.growth))}",
        *found.broken,
    ]
    return "\n".join(lines)


def plain(found: Soak) -> dict[str, object]:
    """Return what was seen as plain data; times are in seconds."""
    report = found.report
    return {
        "seconds": round(report.seconds, 1),
        "changes": found.changes,
        "faults": dict(found.faults),
        "flows": report.flows,
        "wrong": report.wrong,
        "in_time": report.in_time,
        "took": round(report.took, 3),
        "held_back": report.held_back,
        "excused": report.excused,
        "growth": {g.name: {"before": g.before, "after": g.after, "flat": g.flat} for g in found.growth},
        "samples": [[round(s.at, 1), round(s.memory, 2), s.descriptors, s.threads] for s in found.samples],
        "broken": found.broken,
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=click.FloatRange(1), default=20.0, show_default=True)
@click.option("--hours", type=click.FloatRange(0), default=0.0, help="In place of --minutes.")
@click.option("--json", "as_json", is_flag=True, help="Print the result, with every sample, as JSON.")
def main(minutes: float, hours: float, as_json: bool) -> None:
    """Change objects and make faults for so long, while packets flow; then say what was wrong."""
    tell: Callable[[str], None] = lambda _: None  # noqa: E731
    if sys.stderr.isatty():
        tell = lambda line: print(f"\r\033[K{line[:150]}", end="", file=sys.stderr, flush=True)  # noqa: E731
    found = soak(60 * hours or minutes, tell)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    click.echo(json.dumps(plain(found)) if as_json else text(found))
    sys.exit(1 if found.broken else 0)


if __name__ == "__main__":
    main(prog_name="python -m tests.chaos.soak")
