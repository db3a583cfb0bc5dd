"""What logging costs while one pod is flooded: others' new connections, the agent's memory and processor.

One pod of a node is isolated and sent 100,000 packets a second, which are denied. Meanwhile new connections
are made between two other pods. Logging of the flooded pod is turned on and off in turn, by the annotation of
its namespace, so that nothing else differs. What is logged and what is not must add up to what was sent.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent.dataplane.iptables.log_counters import read_logged
from agent.kube.logging import DENIED_ANNOTATION
from agent.net import Direction, Family
from tests.bench import crowd
from tests.bench.result import Result, summary
from tests.bench.settings import Settings
from tests.bench.throughput import connections, serving
from tests.lab.children import dies_with_us
from tests.lab.cluster import AgentProcess, http_get, wait_until
from tests.lab.lab import Lab
from tests.lab.netns import CommandError
from tests.lab.node import Node, Pod

SECTION = "flood"
RATE = 100_000
ROUNDS = 10
WINDOW = 3
"""Seconds after which the agent tells what was not logged."""
_PORT = 9
_FLOODER = Path(__file__).with_name("flooder.py")
_TICKS = os.sysconf("SC_CLK_TCK")
_OFF, _ON = "off", "sampled"


def flood(settings: Settings, progress: Callable[[str], None] = lambda _: None) -> Iterator[Result]:
    """Yield new connections with and without logging, and what the agent used."""
    rounds = 2 if settings.quick else ROUNDS
    with Lab() as lab:
        node = lab.node(crowd.NODE, settings.layout, settings.mode)
        names = ("client", "server", "victim", "attacker")
        pods = {name: lab.pod(node, name) for name in names}
        manifests = lab.directory / "manifests"
        manifests.mkdir()
        _write(manifests, pods, _OFF)
        agent = AgentProcess(node, "--manifests", str(manifests), "--log-window", str(WINDOW))
        try:
            agent.wait_ready()
            with serving(lab, pods["server"]):
                _warm_up(pods["client"], pods["server"])
                yield from _rounds(node, pods, manifests, agent, rounds, progress)
        finally:
            agent.stop()


def _rounds(
    node: Node,
    pods: dict[str, Pod],
    manifests: Path,
    agent: AgentProcess,
    rounds: int,
    progress: Callable[[str], None],
) -> Iterator[Result]:
    pid = agent.process.pid
    ratios, quiet, rates, processor = list[float](), list[float](), list[float](), list[float]()
    before, untold = _memory(pid), list[float]()
    costs: dict[str, list[float]] = {_OFF: [], _ON: []}
    for number in range(rounds):
        progress(f"flood: round {number + 1} of {rounds}")
        quiet.append(connections(pods["client"], pods["server"]))
        made: dict[str, list[float]] = {}
        for logging in random.sample((_OFF, _ON), 2):
            _write(manifests, pods, logging)
            wait_until(lambda wanted=logging == _ON: _logs(node) is wanted, 20)  # type: ignore[misc]
            with flooding(pods["attacker"], pods["victim"]) as (sent, flooder):
                # The reader may sleep until the first pod is logged.
                time.sleep(1.5)
                began, used, packets = time.monotonic(), _processor(pid), sent()
                spent = _processor(flooder)
                made[logging] = [connections(pods["client"], pods["server"]) for _ in range(4)]
                took = time.monotonic() - began
                rates.append((sent() - packets) / took)
                costs[logging].append(1e6 * (_processor(flooder) - spent) / (sent() - packets))
                if logging == _ON:
                    processor.append(100 * (_processor(pid) - used) / took)
            if logging == _ON:
                counted = read_logged_of(node, "bench/victim")
                untold.append(float(counted[0] - counted[1]))
        # Each is as much work, so this is the rate over all of them.
        with_log, without = (statistics.harmonic_mean(made[logging]) for logging in (_ON, _OFF))
        ratios.append(with_log / without)
    yield summary(SECTION, "denied packets sent", "packets/s", rates, more_is_better=True)
    yield summary(SECTION, "new HTTP connections of others, no flood", "per s", quiet, more_is_better=True)
    yield summary(SECTION, "the same in the flood, logged / not", "ratio", ratios, more_is_better=True)
    yield summary(SECTION, "processor time of a denied packet, not logged", "µs", costs[_OFF])
    yield summary(SECTION, "processor time of a denied packet, logged", "µs", costs[_ON])
    yield summary(SECTION, "processor of the agent, logging", "% of one", processor)
    yield summary(SECTION, "resident memory that it took", "MB", [_memory(pid) - before])
    # What was left out since the last window is forgotten with the rule, when logging is turned off.
    note = f"{_told(node):,} told in all"
    yield summary(SECTION, "packets that the limit left out, in a round", "packets", untold, note=note)


def read_logged_of(node: Node, pod: str) -> tuple[int, int]:
    """Return how many packets of a pod were denied on ingress, and how many of these logged."""
    with node.netns.entered():
        return read_logged(node.mode.value, Family)[Direction.INGRESS, pod]


def _write(manifests: Path, pods: dict[str, Pod], logging: str) -> None:
    """Write the cluster, in which one pod is isolated, and its namespace logged so."""
    meta = {"name": "bench", "annotations": {DENIED_ANNOTATION: logging}}
    objects: list[dict[str, Any]] = [{"apiVersion": "v1", "kind": "Namespace", "metadata": meta}]
    for name, pod in pods.items():
        objects.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "bench", "labels": {"app": name}},
                "spec": {"nodeName": pod.node.name, "containers": [{"name": "one", "image": "one"}]},
                "status": {"podIPs": [{"ip": pod.v4}, {"ip": pod.v6}]},
            }
        )
    objects.append(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "deny", "namespace": "bench"},
            "spec": {"podSelector": {"matchLabels": {"app": "victim"}}, "policyTypes": ["Ingress"]},
        }
    )
    text = "\n".join(json.dumps(one) for one in [{"apiVersion": "v1", "kind": "List", "items": objects}])
    made = manifests / ".new"
    made.write_text(text)
    made.rename(manifests / "all.json")


def _logs(node: Node) -> bool:
    return "NFLOG" in node.run(f"iptables-{node.mode}-save", "-t", "filter")


@contextlib.contextmanager
def flooding(source: Pod, destination: Pod) -> Iterator[tuple[Callable[[], int], int]]:
    """Flood a pod with denied packets until the end; gives how many were sent, and which process sends.

    A packet between pods of a node is judged in the time of the process that sends it.
    """
    memory = os.memfd_create("flood")
    os.ftruncate(memory, 8)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, memory)
        shared = stack.enter_context(mmap.mmap(memory, 8))
        with source.netns.entered():
            arguments = (destination.v4, str(_PORT), str(RATE), str(memory))
            flooder = subprocess.Popen(
                dies_with_us([sys.executable, "-S", "-E", str(_FLOODER), *arguments]), pass_fds=[memory]
            )
        stack.callback(flooder.wait)
        stack.callback(flooder.kill)
        yield lambda: int(struct.unpack_from("q", shared)[0]), flooder.pid


def _warm_up(client: Pod, server: Pod) -> None:
    def served() -> bool:
        with contextlib.suppress(CommandError, RuntimeError):
            return connections(client, server) > 0
        return False

    wait_until(served)


def _told(node: Node) -> int:
    """Return how many packets the agent has told were left out by the limit."""
    reports = [json.loads(line) for line in http_get(node, "/flows")[1].splitlines()]
    return sum(one["packets"] for one in reports if one["event"] == "not logged" and "pod" in one)


def _processor(pid: int) -> float:
    """Return the seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
