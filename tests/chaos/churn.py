"""Objects that change all the time, on a stage of manifests, and none of which changes a lane's verdict."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from random import Random
from typing import Any, Self

from tests.chaos.stage import PORT, SPECS, Stage, policy_manifest

_EVERY_SECONDS = 0.03
_OTHERS = 12

Json = dict[str, Any]


def _pods(**labels: str) -> Json:
    return {"podSelector": {"matchLabels": labels}}


def ways(stage: Stage) -> Mapping[str, tuple[Json, ...]]:
    """Return, for each policy of the lanes, specs that give the lanes the same verdicts by other rules."""
    client, store = stage.pods["client"], stage.pods["store"]
    udp = {"protocol": "UDP", "port": PORT}
    web, job = (dict(SPECS[name]) for name in ("web", "job"))
    blocks = {
        name: [{"ipBlock": {"cidr": f"{pod.v4}/32"}}, {"ipBlock": {"cidr": f"{pod.v6}/128"}}]
        for name, pod in (("client", client), ("store", store))
    }
    return {
        "web": (
            web,
            {**web, "ingress": [{"from": [_pods(app="client"), _pods(app="other")], "ports": [udp]}]},
            {**web, "ingress": [{"from": blocks["client"], "ports": [udp]}]},
            {**web, "ingress": [{"from": [_pods(app="client")], "ports": [{**udp, "endPort": PORT}]}]},
            {**web, "ingress": [{"from": [_pods(app="other")]}, *web["ingress"]]},
        ),
        "job": (
            job,
            {**job, "egress": [{"to": blocks["store"], "ports": [udp]}]},
            {**job, "egress": [{"to": [_pods(app="store"), _pods(app="other")], "ports": [udp]}]},
            {**job, "egress": [{"to": [_pods(app="other")]}, *job["egress"]]},
        ),
    }


class Churn:
    """Changes a stage's manifests in a thread; a context manager.

    What changes: other pods and their labels, other policies of the same pods, and the lanes' own policies,
    each for another that means the same to them. ``changes``: how many there were. At the end everything is
    again as it was before the first one.
    """

    def __init__(self, stage: Stage, seed: int = 1) -> None:
        self._stage = stage
        self._random = Random(seed)
        self._ways = ways(stage)
        self._extra: set[str] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._error: BaseException | None = None
        self.changes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if self._error is not None:
            raise RuntimeError("nothing changed any more") from self._error
        self._rest()

    def _work(self) -> None:
        try:
            while not self._end.wait(self._random.uniform(0, 2 * _EVERY_SECONDS)):
                self._random.choice((self._own_policy, self._other_policy, self._other_pods))()
                self.changes += 1
        except BaseException as error:
            self._error = error  # told when it ends

    def _own_policy(self) -> None:
        name = self._random.choice(tuple(self._ways))
        spec = self._random.choice(self._ways[name])
        self._stage.say(name, [policy_manifest(name, spec)])

    def _other_policy(self) -> None:
        """Have a policy more, or one less, on pods of the lanes, for peers and ports that no lane has."""
        name = f"more-{self._random.randrange(6)}"
        if name in self._extra:
            self._stage.unsay(name)
            self._extra.remove(name)
            return
        peers, ports = [_pods(app="other"), _pods(tier=name)], [{"protocol": "TCP", "port": 80}]
        whom = self._random.choice(("web", "job"))
        spec: Json = {"podSelector": {"matchLabels": {"app": whom}}}
        if whom == "web":
            spec["ingress"] = [{"from": peers, "ports": ports}]
        else:
            spec |= {"policyTypes": ["Egress"], "egress": [{"to": peers, "ports": ports}]}
        self._stage.say(name, [policy_manifest(name, spec)])
        self._extra.add(name)

    def _other_pods(self) -> None:
        """Have other pods come, go, and change their labels. They have addresses, and nothing else."""
        found = self._random.sample(range(_OTHERS), self._random.randrange(1, _OTHERS))
        self._stage.say("others", [self._other(number) for number in found])

    def _other(self, number: int) -> Json:
        app = self._random.choice(("other", "another"))
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"other-{number}", "labels": {"app": app, "tier": f"more-{number % 6}"}},
            "spec": {"nodeName": "elsewhere"},
            "status": {
                "phase": "Running",
                "podIPs": [{"ip": f"10.244.99.{number + 1}"}, {"ip": f"fd00:10:244:99::{number + 1:x}"}],
            },
        }

    def _rest(self) -> None:
        for name in sorted(self._extra):
            self._stage.unsay(name)
        if (self._stage.manifests / "others.yaml").exists():
            self._stage.unsay("others")
        for name, spec in SPECS.items():
            self._stage.say(name, [policy_manifest(name, spec)])
