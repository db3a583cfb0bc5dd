"""4: an API server that is away, refuses, is silent, or answers wrongly, while packets flow."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.chaos.clustered import NAMESPACE, Clustered
from tests.chaos.judge import Expected
from tests.chaos.probe import Lane, Probe
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.chaos.stage import PORT, SPECS
from tests.lab.cluster import AgentProcess, http_get, wait_until
from tests.lab.gate import Gate, Reply, pass_on
from tests.lab.node import Layout, Mode

_CONVERGED = 3.0
"""Seconds after the server's return in which the node enforces what the cluster holds."""
_CONFIRM = 10
"""Seconds (``--confirm-empty``) after which a second list confirms what a list alone does not prove."""
_AROUND = 0.1
"""Seconds in which a packet is on its way."""
_NODE = "n1"
_WATCH = "watch"
_STATUS = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
_GONE = Reply(410, json.dumps({**_STATUS, "code": 410, "message": "too old"}).encode())
_KINDS = {
    "/api/v1/pods": ("v1", "PodList"),
    "/api/v1/namespaces": ("v1", "NamespaceList"),
    "/apis/networking.k8s.io/v1/networkpolicies": ("networking.k8s.io/v1", "NetworkPolicyList"),
}
_CLOSED: Mapping[str, Any] = {**SPECS["web"], "ingress": []}


@dataclass(frozen=True)
class Api:
    """A cluster with one node, whose agent reads the API server through a gate."""

    clustered: Clustered
    gate: Gate

    def readyz(self) -> tuple[int, str]:
        return http_get(self.clustered.nodes[_NODE], "/readyz")


Fault = Callable[[Api], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _cluster() -> Iterator[Api]:
    with Clustered([(_NODE, Layout.ROUTED, Mode.NFT)]) as clustered, Gate(clustered.cluster.api) as gate:
        node = clustered.nodes[_NODE]
        kubeconfig = str(gate.kubeconfig("agent"))
        agent = AgentProcess(node, "--kubeconfig", kubeconfig, "--confirm-empty", str(_CONFIRM))
        clustered.cluster.agents[_NODE] = agent
        agent.wait_ready()
        yield Api(clustered, gate)


def _answering(status: int, **headers: str) -> Fault:
    """Have the server refuse everything."""
    said = json.dumps({**_STATUS, "code": status}).encode()
    reply = Reply(status, said, {"Content-Type": "application/json", **headers})
    return _instead(lambda _: reply)


def _instead(answer: Callable[[str], Reply | None]) -> Fault:
    @contextlib.contextmanager
    def fault(api: Api) -> Iterator[None]:
        api.gate.instead = answer
        api.gate.cut()
        yield
        api.gate.instead = pass_on

    return fault


@contextlib.contextmanager
def _stopped(api: Api) -> Iterator[None]:
    api.clustered.cluster.api.stop()
    yield
    api.clustered.cluster.api.start()


@contextlib.contextmanager
def _refusing_connections(api: Api) -> Iterator[None]:
    api.gate.away()
    yield
    api.gate.back()


@contextlib.contextmanager
def _slow(api: Api) -> Iterator[None]:
    """Have each answer come three seconds late."""
    api.gate.delay = 3.0
    api.gate.cut()
    yield
    api.gate.delay = 0.0


@contextlib.contextmanager
def _silent(api: Api) -> Iterator[None]:
    """Have packets of connections lost: they seem to be there, and nothing comes."""
    underlay = api.clustered.cluster.lab.underlay
    port = str(api.gate.port)
    rule = ["-p", "tcp", "--dport", port, "-j", "DROP"]
    underlay.run(["iptables-nft", "-A", "INPUT", *rule])
    yield
    underlay.run(["iptables-nft", "-D", "INPUT", *rule])


@contextlib.contextmanager
def _breaking_off(api: Api) -> Iterator[None]:
    api.gate.breaks_off = True
    api.gate.cut()
    yield
    api.gate.breaks_off = False


@contextlib.contextmanager
def _cut_again_and_again(api: Api) -> Iterator[None]:
    for _ in range(30):
        api.gate.cut()
        time.sleep(0.1)
    yield


def _is_watch(path: str) -> bool:
    return _WATCH in parse_qs(urlsplit(path).query)


def _list(path: str, version: str, items: Sequence[Mapping[str, Any]] = ()) -> Reply | None:
    found = _KINDS.get(urlsplit(path).path)
    if found is None:
        return None
    api_version, kind = found
    whole = {
        "kind": kind,
        "apiVersion": api_version,
        "metadata": {"resourceVersion": version},
        "items": items,
    }
    return Reply(200, json.dumps(whole).encode())


def _empty_cluster(path: str) -> Reply | None:
    return _GONE if _is_watch(path) else _list(path, str(10**12))


def _older(path: str) -> Reply | None:
    """Answer as after etcd was restored: with an older version, in which a policy lets everybody in."""
    if _is_watch(path):
        return _GONE
    if not urlsplit(path).path.endswith("/networkpolicies"):
        return None
    metadata = {"name": "web", "namespace": NAMESPACE, "uid": "u", "resourceVersion": "2"}
    open_web = {"metadata": metadata, "spec": {**SPECS["web"], "ingress": [{}]}}
    return _list(path, "3", [open_web])


FAILING: Mapping[str, tuple[Fault, float]] = {
    "stopped": (_stopped, 6),
    "refuses connections": (_refusing_connections, 12),
    "401": (_answering(401), 5),
    "403": (_answering(403), 5),
    "429": (_answering(429), 5),
    "429 with Retry-After": (_answering(429, **{"Retry-After": "1"}), 5),
    "500": (_answering(500), 5),
    "504": (_answering(504), 5),
    "slow": (_slow, 12),
    "silent": (_silent, 35),
}
"""What the API server does, and for how many seconds."""
WRONG: Mapping[str, tuple[Fault, float]] = {
    "410 to each watch": (_instead(lambda path: _GONE if _is_watch(path) else None), 12),
    "410 to everything": (_instead(lambda _: _GONE), 12),
    "lists end half way": (_breaking_off, 6),
    "connections cut again and again": (_cut_again_and_again, 1),
    "200 and no list": (_instead(lambda path: None if _is_watch(path) else Reply(200, b"{}")), 5),
    "200 to everything": (_instead(lambda _: Reply(200, b"{}")), 8),
    "an empty cluster": (_instead(_empty_cluster), 8),
    "an older resourceVersion": (_instead(_older), 8),
}


DOUBTED = ("an empty cluster", "an older resourceVersion")
"""What is believed when a second list says the same, and looked at again then."""
SHORT = ("slow", "connections cut again and again")
"""What does not keep the agent from hearing what it has to."""


def _to_web(lane: Lane) -> bool:
    return lane.source.name == f"{_NODE}-client" and lane.port == PORT


def faults(table: Mapping[str, tuple[Fault, float]], length: Length) -> Outcome:
    """Have the API server fail in one way after another; a policy that is changed then holds soon after."""
    slowest = ("", 0.0)
    broken: list[str] = []
    with _cluster() as api, Probe(api.clustered.lanes) as probe:
        lanes = list(filter(_to_web, api.clustered.lanes))

        def change(spec: Mapping[str, Any]) -> None:
            """Change the policy in the real server, to which whoever writes goes."""
            probe.expect(Expected.EITHER, _to_web)
            time.sleep(_AROUND)
            api.clustered.client.replace_policy(NAMESPACE, "web", dict(spec))

        def until(expected: Expected) -> None:
            allowed = expected is Expected.ALLOWED
            wait_until(lambda: all(probe.passes(lane) is allowed for lane in lanes))
            time.sleep(_AROUND)
            probe.expect(expected, _to_web)

        for name, (fault, seconds) in table.items():
            with fault(api):
                time.sleep(seconds)
                status, said = api.readyz()
                if status != 200 or (" warning" not in said and name not in SHORT):
                    broken.append(f"{name}: /readyz answers {status}: {said}")
                if http_get(api.clustered.nodes[_NODE], "/healthz")[0] != 200:
                    broken.append(f"{name}: /healthz fails")
                if fault is not _stopped:
                    change(_CLOSED)
            returned = time.monotonic()
            if fault is _stopped:
                change(_CLOSED)
            until(Expected.DENIED)
            took = time.monotonic() - returned
            limit = _CONVERGED + (_CONFIRM if name in DOUBTED else 0)
            if took > length.within(limit):
                broken.append(f"{name}: a policy held {took:.1f} s after the server's return")
            if name not in DOUBTED:
                slowest = max(slowest, (name, took), key=lambda found: found[1])
            wait_until(lambda: " warning" not in api.readyz()[1])
            change(SPECS["web"])
            until(Expected.ALLOWED)
    note = f"{len(table)} ways; after {slowest[0]!r} a policy held {slowest[1]:.1f} s after the return"
    return Outcome.of(probe.report, note=note, broken=tuple(broken))


SCENARIOS = (
    Scenario(
        promise="4.1",
        also=("4.3", "4.4"),
        name="the API server fails",
        run=functools.partial(faults, FAILING),
        seconds=130,
    ),
    Scenario(
        promise="4.2",
        also=("4.3", "4.4"),
        name="the API server answers wrongly",
        run=functools.partial(faults, WRONG),
        seconds=125,
    ),
)
