"""What ``--cut-denied`` takes: a look for the connections of some ends, and one pod's flood beside another.

``python -m tests.bench.cutting`` measures by itself, in network namespaces of its own. Connections are
entries of the kernel's table that nobody has opened, but for those of the other pod.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator

import click

from agent.net import Family, Protocol
from agent.policy.lower.lowered import LoweredProgram
from agent.policy.lower.verdicts import Verdicts
from agent.runtime.cut_look import Kernel, Look
from tests.build import packed
from tests.kernel.conversation import Conversation
from tests.kernel.guarded import DENY_ALL, Guarded
from tests.lab.cluster import http_get
from tests.lab.netns import Netns
from tests.lab.tracked import track

ENTRIES = (1_000, 10_000)
"""How many connections are tracked when looks are measured, before the most."""
ENDS = (1, 2, 4, 8, 64)
MOST = 100_000
_TIMES = 9
_BIT = 0x10000
_PORTS = range(3001, 3013)
"""Of the other pod's connections: each change forbids one of them."""


def looks(entries: int) -> Iterator[str]:
    """Yield what a look takes in a table of so many entries, by how many ends are looked for."""
    netns = Netns("looks")
    try:
        for number in range(100):
            track(netns, f"10.200.0.{number}", f"10.201.0.{number}", 80, entries // 100)
        ends = [packed(f"10.244.0.{n}" if n % 2 else f"fd00:244::{n}") for n in range(max(ENDS))]
        for number in range(1, max(ENDS), 2):
            track(netns, f"10.202.0.{number}", f"10.244.0.{number}", 80, 10)
        kernel = Kernel()._replace(settle=lambda: None)
        with netns.entered():
            for number in ENDS:
                walls, processor = [], []
                for _ in range(_TIMES):
                    look = Look(kernel, Verdicts(LoweredProgram()), _BIT)
                    began, before = time.perf_counter(), time.thread_time()
                    look.search(frozenset(ends[:number]))
                    processor.append((time.thread_time() - before) * 1000)
                    walls.append((time.perf_counter() - began) * 1000)
                yield (
                    f"{entries:,} tracked, {number} ends: processor {statistics.median(processor):.0f} ms "
                    f"(at least {min(processor):.0f}), {statistics.median(walls):.0f} ms in all"
                )
    finally:
        netns.close()


def flood(many: int) -> Iterator[str]:
    """Yield after how long another pod's connections are reset while one pod's many are being ended."""
    with Guarded("routed", "nft") as guarded, contextlib.ExitStack() as stack:
        left = list(_PORTS)
        guarded.say("client", _allowing(left))
        guarded.start("--cut-denied")
        others = [
            stack.enter_context(Conversation(guarded.out, guarded.client, Family.V4, Protocol.TCP, port))
            for port in _PORTS
        ]
        track(guarded.node.netns, guarded.out.v4, guarded.web.v4, 2080, many)
        before, began = _processor(guarded.agent.process.pid), time.monotonic()
        guarded.say("web", DENY_ALL)
        for number, one in enumerate(others):
            # Not in step with the agent's looks.
            time.sleep(0.3 + 0.13 * (number % 5))
            left.pop(0)
            changed = time.monotonic()
            guarded.say("client", _allowing(left))
            what = "reset" if one.is_reset() else "not reset"
            yield f"at {changed - began:.1f} s: {what} after {time.monotonic() - changed:.2f} s"
        while _ended(guarded) < many + len(others):
            time.sleep(0.5)
        used = _processor(guarded.agent.process.pid) - before
        yield f"all {many:,} ended after {time.monotonic() - began:.1f} s, processor {used:.1f} s"


def _allowing(ports: list[int]) -> str:
    listed = ", ".join(f"{{port: {port}}}" for port in (*ports, 9))
    return f"{DENY_ALL.replace('web', 'client').rstrip()[:-1]}, ingress: [{{ports: [{listed}]}}]}}\n"


def _ended(guarded: Guarded) -> int:
    number: int = json.loads(http_get(guarded.node, "/status")[1])["cuts"]["connections"]
    return number


def _processor(process: int) -> float:
    """Return the seconds of processor time that a process has used."""
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--most",
    type=click.IntRange(1_000),
    default=MOST,
    show_default=True,
    help="The connections of the flood, and of the fullest table in which is looked.",
)
def main(most: int) -> None:
    """Measure what looking for denied connections takes, and how soon a pod's are cut beside a flood."""
    if os.geteuid() != 0:
        click.echo("This makes network namespaces, so it needs root: run it with sudo", err=True)
        sys.exit(2)
    for entries in (*(entries for entries in ENTRIES if entries < most), most):
        for line in looks(entries):
            click.echo(line)
    load = os.getloadavg()[0]
    for line in flood(most):
        click.echo(line)
    click.echo(f"load {load:.1f} before the flood, {os.getloadavg()[0]:.1f} after it")


if __name__ == "__main__":
    main()
