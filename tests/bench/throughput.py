"""What enforcement costs the packets: two pods of a node, without and with the agent's rules, in turn.

``python -m tests.bench.throughput`` measures by itself, in network namespaces of its own. The node is as the
agent finds one: it tracks connections and has the few rules of kube-proxy that a forwarded packet meets;
where pods are on a bridge, iptables sees what is bridged. The agent's engine and backend program it once, and
then only the two rules that lead packets to the agent's chains are taken out and put back, so that nothing
but the rules differs; with ``--cut`` it is the rule of ``--cut-denied`` alone. Each pair of measurements is
one ratio, with / without; which comes first is drawn.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import msgspec

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.cut import forward
from agent.dataplane.iptables.tables import hooks
from agent.dataplane.iptables.tables.tables import Tables
from agent.dataplane.iptables.variant import MODES, Mode
from agent.kernel.ipset import IpSets
from agent.net import Family, Protocol
from agent.observe.text import plain_console
from agent.policy.engine import Engine
from agent.spec.verdict import Packet
from tests.bench import crowd
from tests.bench.packet_time import added, sending
from tests.bench.result import Result, Size, summary
from tests.lab.backends import BACKENDS
from tests.lab.lab import Lab
from tests.lab.netns import CommandError
from tests.lab.node import Layout, Node, Pod
from tests.patience import PATIENCE
from tests.property.kernel_model import Kernel

SECTION = "packets"
SIZES = (110, 240)
PAIRS = 20
WALKS = 3000
"""Between how many pairs of pods the rules that a packet meets are counted."""
SLICES = 4
"""Into how many parts each measurement of a pair is cut, which take turns: what else the machine does
then falls on both alike."""
CONNECTIONS = 2000
BULK = "256M"
"""How much one slice is."""

_BULK_PORT = 30000
_CPUS = sorted(os.sched_getaffinity(0))
"""The client's side runs on the first, the server's on the last."""

_KUBE_PROXY = """\
*filter
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "external portals" -j KUBE-EXTERNAL-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "forwarding" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""
"""What kube-proxy has in FORWARD of a node without Services."""

_NGINX = """\
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.log;
events {{ worker_connections 4096; }}
http {{ access_log off; server {{ listen {port} backlog=4096; location / {{ return 200 "ok\\n"; }} }} }}
"""

_SIDES = {"host_total": "sum_sent", "remote_total": "sum_received"}
"""How iperf3 names what each side has used of a processor, and for how long."""

_RATE = re.compile(r"^Requests per second:\s+([\d.]+)", re.MULTILINE)
_FAILED = re.compile(r"^Failed requests:\s+(\d+)", re.MULTILINE)


def measure(
    local: int,
    layout: Layout,
    mode: Mode,
    pairs: int,
    progress: Callable[[str], None] = lambda _: None,
    *,
    anew: bool = False,
    cut: bool = False,
) -> Iterator[Result]:
    """Yield what a new packet meets, and the ratios of connections and of throughput in bulk.

    ``anew``: each connection is judged, as are those that are not in the verdict cache. ``cut``: the ratios
    are those of all rules with ``--cut-denied`` to all rules without.
    """
    size, where = crowd.size(local), f"{layout}, {mode}{', each judged anew' if anew else ''}"
    options = Options(cut=cut, cache=0) if anew else Options(cut=cut)
    switch = functools.partial(_cut if cut else _enforce, mode)
    title = "with / without --cut-denied" if cut else "with / without"
    with Lab() as lab:
        node = lab.node("node", layout, mode)
        client, server = lab.pod(node, "client"), lab.pod(node, "server")
        # Of the others only the addresses are there.
        others = [node.next_addresses() for _ in range(local - 2)]
        texts = [(client.v4, client.v6), (server.v4, server.v6), *others]
        node.iptables_restore(Family.V4, _KUBE_PROXY)
        with _environment("XTABLES_LOCKFILE", str(node.directory / "xtables.lock")), node.netns.entered():
            progress(f"{local} local pods, {where}: programming")
            _program(options, mode, texts, node.cidr4)
            addresses = [ipaddress.IPv4Address(v4).packed for v4, _ in texts]
            yield from _rules_met(size, where, node, mode, addresses)
            with serving(lab, server):
                yield from _ratios(size, where, title, switch, client, server, pairs, progress)
                if cut:
                    progress(f"{local} local pods, {where}: processor time")
                    yield _bulk_more(size, where, switch, client, server, pairs)
            if cut:
                progress(f"{local} local pods, {where}: single packets")
                yield _packet(size, where, mode, switch, client, server, pairs)


def _program(options: Options, mode: Mode, texts: Sequence[tuple[str, str]], known: str) -> None:
    engine = Engine(crowd.NODE)
    engine.apply(crowd.crowd(texts, known), 0.0)
    backend = BACKENDS[mode].make(options)
    try:
        backend.adopt()
        report = backend.sync(engine.lowered)
    finally:
        backend.close()
    if report.faults:
        raise RuntimeError(f"the node could not be programmed: {report.faults}")


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _rules_met(
    size: Size, where: str, node: Node, mode: Mode, addresses: Sequence[bytes]
) -> Iterator[Result]:
    """Walk the chains as they are in the kernel, for the first packet between pods of the node."""
    kernel = Kernel()
    chains = {chain: rules for chain, rules in Tables(mode).read(Family.V4).items() if names.is_ours(chain)}
    kernel.tables[Family.V4] = {**chains, "FORWARD": (hooks.hook_rule("FORWARD"),)}
    with IpSets() as ipsets:
        kernel.sets = {
            name: (shape, members) for name, (shape, members) in ipsets.read(names.SET_PREFIX).items()
        }
    kernel.bridged = node.layout is Layout.BRIDGE
    new, known = [], []
    pairs = list(itertools.permutations(addresses, 2))
    for source, destination in random.Random(1).sample(pairs, min(WALKS, len(pairs))):
        packet = Packet(source, destination, Protocol.TCP, crowd.PORT)
        if not kernel.passes(packet):
            raise RuntimeError(f"{packet} is denied")
        new.append(float(kernel.met))
    kernel.established = True
    kernel.passes(packet)
    known.append(float(kernel.met))
    yield summary(SECTION, f"rules that a new packet meets ({where})", "rules", new, size=size)
    yield summary(SECTION, f"rules that an established one meets ({where})", "rules", known, size=size)


@contextlib.contextmanager
def serving(lab: Lab, server: Pod) -> Iterator[None]:
    """Have the pod answer HTTP on the port of the policies, and iperf3 on the first of their range."""
    configuration = lab.directory / "nginx.conf"
    configuration.write_text(_NGINX.format(directory=lab.directory, port=crowd.PORT))
    commands = [["nginx", "-c", str(configuration)], ["iperf3", "-s", "-p", str(_BULK_PORT)]]
    with server.netns.entered():
        running = [
            subprocess.Popen(_on(_CPUS[-1], command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for command in commands
        ]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
            process.wait()


def _on(cpu: int, command: Sequence[str]) -> list[str]:
    """Have a command run on one processor. Not before others: the kernel's own threads would have to wait."""
    return ["taskset", "-c", str(cpu), *command]


def connections(client: Pod, server: Pod) -> float:
    """Return new HTTP connections per second."""
    url = f"http://{server.v4}:{crowd.PORT}/"
    command = ["ab", "-q", "-c", "16", "-n", str(CONNECTIONS), url]
    printed = client.netns.run(_on(_CPUS[0], command))
    rate, failed = _RATE.search(printed), _FAILED.search(printed)
    if rate is None or failed is None or failed[1] != "0":
        raise RuntimeError(f"connections failed:\n{printed}")
    return float(rate[1])


def _bulk(client: Pod, server: Pod) -> float:
    """Return bits per second over one connection."""
    return float(_sent(client, server)["sum_received"]["bits_per_second"])


def _bulk_time(client: Pod, server: Pod) -> float:
    """Return the nanoseconds of processor time that both sides of one connection take."""
    end = _sent(client, server)
    used = end["cpu_utilization_percent"]
    return 1e7 * float(sum(used[side] * end[sums]["seconds"] for side, sums in _SIDES.items()))


def _sent(client: Pod, server: Pod) -> dict[str, Any]:
    """Return what iperf3 says at the end."""
    command = ["iperf3", "-c", server.v4, "-p", str(_BULK_PORT), "-n", BULK, "-J"]
    found: dict[str, Any] = json.loads(client.netns.run(_on(_CPUS[0], command)))["end"]
    return found


def _ratios(
    size: Size,
    where: str,
    words: str,
    switch: Callable[[bool], None],
    client: Pod,
    server: Pod,
    pairs: int,
    progress: Callable[[str], None],
) -> Iterator[Result]:
    loads = {"new HTTP connections per second": connections, "bulk throughput": _bulk}
    ratios: dict[str, list[float]] = {name: [] for name in loads}
    without: dict[str, list[float]] = {name: [] for name in loads}
    _wait_until_served(client, server)
    for number in range(pairs):
        progress(f"{size.local} local pods, {where}: pair {number + 1} of {pairs}")
        rates: dict[tuple[str, bool], list[float]] = {
            (name, on): [] for name in loads for on in (True, False)
        }
        order = random.sample((True, False), 2)
        for _ in range(SLICES):
            for enforced in order:
                switch(enforced)
                for name, load in loads.items():
                    rates[name, enforced].append(load(client, server))
            order.reverse()
        for name in loads:
            # Each slice is as much work, so this is the rate over all of them.
            with_rules, bare = (statistics.harmonic_mean(rates[name, on]) for on in (True, False))
            ratios[name].append(with_rules / bare)
            without[name].append(bare)
    for name, found in ratios.items():
        rate = statistics.median(without[name])
        note = f"{rate / 1e9:.1f} Gbit/s without" if name.startswith("bulk") else f"{rate:,.0f} without"
        title = f"{name}, {words} ({where})"
        yield summary(SECTION, title, "ratio", found, size=size, more_is_better=True, note=note)


def _wait_until_served(client: Pod, server: Pod) -> None:
    """Wait until the servers answer, and measure each load once to warm up."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            connections(client, server)
            _bulk(client, server)
        except (CommandError, RuntimeError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def _enforce(mode: Mode, enforced: bool) -> None:
    """Lead forwarded packets to the agent's chains, or do not; the chains stay as they are."""
    table = Tables(mode).read(Family.V4)
    lines = hooks.place(table, dict.fromkeys(hooks.needed(table), "")) if enforced else hooks.remove(table)
    for error in Tables(mode).restore({Family.V4: lines}).values():
        raise error


def _bulk_more(
    size: Size, where: str, switch: Callable[[bool], None], client: Pod, server: Pod, pairs: int
) -> Result:
    """Measure what part of its processor time bulk takes more."""
    found = added(functools.partial(_bulk_time, client, server), switch, 2 * pairs)
    parts = [100 * more / without for more, without in found]
    note = f"{statistics.median(without for _, without in found) / 1e6:,.0f} ms for {BULK} without"
    title = f"processor time that --cut-denied adds to bulk ({where})"
    return summary(SECTION, title, "%", parts, size=size, note=note)


def _packet(
    size: Size,
    where: str,
    mode: Mode,
    switch: Callable[[bool], None],
    client: Pod,
    server: Pod,
    pairs: int,
) -> Result:
    """Measure what is added to a packet of a known connection, which is opened before it could be denied."""
    _enforce(mode, False)
    with sending(client, server, _BULK_PORT, _on(_CPUS[0], [])) as measure:
        _enforce(mode, True)
        found = added(measure, switch, 2 * pairs)
    note = f"{statistics.median(without for _, without in found):,.0f} ns without"
    title = f"processor time that --cut-denied adds to a packet ({where})"
    return summary(SECTION, title, "ns", [more for more, _ in found], size=size, note=note)


def _cut(mode: Mode, wanted: bool) -> None:
    """Put the rule of ``--cut-denied`` where every forwarded packet meets it, or take it out."""
    there = any(f"-g {names.CUT}" in rule for rule in Tables(mode).read(Family.V4)[names.FORWARD])
    (rule,) = forward(Options(cut=True))
    if there is not wanted:
        line = f"-I {names.FORWARD} 1 {rule}" if wanted else f"-D {names.FORWARD} {rule}"
        for error in Tables(mode).restore({Family.V4: [line]}).values():
            raise error


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--local", type=click.IntRange(2, 240), multiple=True, help="Pods of the node: 110 and 240.")
@click.option(
    "--layout", "layouts", type=click.Choice(list(map(str, Layout))), multiple=True, help="Of pods; both."
)
@click.option("--iptables-mode", "modes", type=click.Choice(MODES), multiple=True, help="One or both; nft.")
@click.option("--pairs", type=click.IntRange(1), default=PAIRS, show_default=True, help="Pairs of each.")
@click.option("--anew", is_flag=True, help="Have each connection judged, without the verdict cache.")
@click.option("--cut", is_flag=True, help="Compare with and without --cut-denied.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    local: tuple[int, ...],
    layouts: tuple[str, ...],
    modes: tuple[Mode, ...],
    pairs: int,
    anew: bool,
    cut: bool,
    as_json: bool,
) -> None:
    """Measure what enforcement costs the packets between two pods of one node.

    New HTTP connections per second and throughput in bulk, each as the ratio with / without the agent's
    rules, and how many rules a packet meets. What is given more than once is measured each.
    """
    if os.geteuid() != 0:
        click.echo("This makes network namespaces, so it needs root: run it with sudo", err=True)
        sys.exit(2)
    console = plain_console(sys.stderr)
    found: list[Result] = []
    with contextlib.ExitStack() as stack:
        status = stack.enter_context(console.status("...")) if console.is_terminal else None

        def progress(text: str) -> None:
            if status is not None:
                status.update(text)

        for mode, layout, count in itertools.product(modes or ("nft",), layouts or Layout, local or SIZES):
            for result in measure(count, Layout(layout), mode, pairs, progress, anew=anew, cut=cut):
                found.append(result)
                if not as_json:
                    click.echo(_line(result))
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))


def _line(result: Result) -> str:
    interval = "" if result.low is None else f" [{result.low:.3f}, {result.high:.3f}]"
    size = "" if result.size is None else f"{result.size.local} local pods: "
    return (
        f"{size}{result.name}: median {result.median:.3f}{interval}, worst {result.worst:.3f} "
        f"of {result.count} {result.note}"
    ).rstrip()


if __name__ == "__main__":
    main()
