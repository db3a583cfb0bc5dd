"""Objects that change all the time, and none of which changes a lane's verdict."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any, Self

from tests.chaos.clustered import NAMESPACE, Clustered
from tests.chaos.stage import PORT, SPECS, Stage, policy_manifest
from tests.lab.beside import Beside
from tests.lab.client import ApiError
from tests.lab.node import Pod

_OTHERS = 12
_MORE = 6
_NAMESPACES = 3

Json = dict[str, Any]


def _pods(**labels: str) -> Json:
    return {"podSelector": {"matchLabels": labels}}


def ways(clients: Iterable[Pod], stores: Iterable[Pod]) -> Mapping[str, tuple[Json, ...]]:
    """Return, for each policy of the lanes, specs that give the lanes the same verdicts by other rules."""
    udp = {"protocol": "UDP", "port": PORT}
    web, job = (dict(SPECS[name]) for name in ("web", "job"))
    at_clients, at_stores = (
        [{"ipBlock": {"cidr": cidr}} for pod in pods for cidr in (f"{pod.v4}/32", f"{pod.v6}/128")]
        for pods in (clients, stores)
    )
    return {
        "web": (
            web,
            {**web, "ingress": [{"from": [_pods(app="client"), _pods(app="other")], "ports": [udp]}]},
            {**web, "ingress": [{"from": at_clients, "ports": [udp]}]},
            {**web, "ingress": [{"from": [_pods(app="client")], "ports": [{**udp, "endPort": PORT}]}]},
            {**web, "ingress": [{"from": [_pods(app="other")]}, *web["ingress"]]},
        ),
        "job": (
            job,
            {**job, "egress": [{"to": at_stores, "ports": [udp]}]},
            {**job, "egress": [{"to": [_pods(app="store"), _pods(app="other")], "ports": [udp]}]},
            {**job, "egress": [{"to": [_pods(app="other")]}, *job["egress"]]},
        ),
    }


def more(whom: str, name: str) -> Json:
    """Return another policy of the lanes' pods ``whom``, for peers and a port that no lane has."""
    peers, ports = [_pods(app="other"), _pods(tier=name)], [{"protocol": "TCP", "port": 80}]
    spec = _pods(app=whom)
    if whom == "web":
        return {**spec, "ingress": [{"from": peers, "ports": ports}]}
    return {**spec, "policyTypes": ["Egress"], "egress": [{"to": peers, "ports": ports}]}


class Churn:
    """Makes one change after another in a thread, ``rate`` a second; a context manager.

    ``kinds``: functions that make a change of some kind, given what chooses. ``rest`` puts everything back as
    it was, at the end. ``changes``: how many there were. Raises LabError at its end if one failed.
    """

    def __init__(
        self,
        kinds: Sequence[Callable[[Random], None]],
        rest: Callable[[], None],
        *,
        seed: int = 1,
        rate: float = 33.0,
    ) -> None:
        self._kinds = kinds
        self._rest = rest
        self._random = Random(seed)
        self._pause = 1 / rate
        self._beside = Beside(self._change, lambda: self._random.uniform(0, 2 * self._pause), "change")
        self.changes = 0

    def __enter__(self) -> Self:
        self._beside.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._beside.close()
        self._rest()

    def _change(self) -> None:
        self._random.choice(self._kinds)(self._random)
        self.changes += 1


def of_manifests(stage: Stage, seed: int = 1) -> Churn:
    """Return changes of a stage's manifests: other pods and their labels, and policies of the lanes' pods."""
    specs = ways([stage.pods["client"]], [stage.pods["store"]])
    extra: set[str] = set()

    def own_policy(random: Random) -> None:
        name = random.choice(tuple(specs))
        stage.say(name, [policy_manifest(name, random.choice(specs[name]))])

    def other_policy(random: Random) -> None:
        name = f"more-{random.randrange(_MORE)}"
        if name in extra:
            stage.unsay(name)
            extra.remove(name)
        else:
            stage.say(name, [policy_manifest(name, more(random.choice(("web", "job")), name))])
            extra.add(name)

    def other_pods(random: Random) -> None:
        found = random.sample(range(_OTHERS), random.randrange(1, _OTHERS))
        stage.say("others", [_other(number, random) for number in found])

    def rest() -> None:
        for name in sorted(extra):
            stage.unsay(name)
        stage.say("others", [])
        for name, spec in SPECS.items():
            stage.say(name, [policy_manifest(name, spec)])

    return Churn((own_policy, other_policy, other_pods), rest, seed=seed)


def _addresses(number: int) -> list[str]:
    return [f"10.244.99.{number + 1}", f"fd00:10:244:99::{number + 1:x}"]


def _labels(number: int, random: Random) -> dict[str, str]:
    return {"app": random.choice(("other", "another")), "tier": f"more-{number % _MORE}"}


def _other(number: int, random: Random) -> Json:
    """Return a pod of another node, which has addresses and nothing else."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"other-{number}", "labels": _labels(number, random)},
        "spec": {"nodeName": "elsewhere"},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in _addresses(number)]},
    }


def of_cluster(stage: Clustered, seed: int = 1, rate: float = 20.0) -> Churn:
    """Return changes by the API: pods, their labels, policies, and namespaces with a pod and their labels.

    A change that the API server does not take, since it is away, is left out, or finds later what was done.
    """
    client = stage.client.another()
    specs = ways(stage.all_pods("client"), stage.all_pods("store"))
    pods: set[int] = set()
    extra: set[str] = set()
    namespaces: set[str] = set()

    def own_policy(random: Random) -> None:
        name = random.choice(tuple(specs))
        client.replace_policy(NAMESPACE, name, random.choice(specs[name]))

    def other_policy(random: Random) -> None:
        name = f"more-{random.randrange(_MORE)}"
        if name in extra:
            extra.remove(name)
            client.delete_policy(NAMESPACE, name)
        else:
            extra.add(name)
            client.create_policy(NAMESPACE, name, more(random.choice(("web", "job")), name))

    def other_pod(random: Random) -> None:
        number = random.randrange(_OTHERS)
        name, labels = f"other-{number}", _labels(number, random)
        if number not in pods:
            pods.add(number)
            client.create_pod(NAMESPACE, name, node="elsewhere", addresses=_addresses(number), labels=labels)
        elif random.random() < 0.5:
            client.label_pod(NAMESPACE, name, labels)
        else:
            pods.remove(number)
            client.delete_pod(NAMESPACE, name)

    def namespace(random: Random) -> None:
        name = f"{NAMESPACE}-{random.randrange(_NAMESPACES)}"
        if name not in namespaces:
            namespaces.add(name)
            client.create_namespace(name, {"team": "a"})
            client.create_pod(name, "pod", node="elsewhere", addresses=_addresses(100 + int(name[-1])))
        elif random.random() < 0.7:
            client.label_namespace(name, {"team": random.choice(("a", "b"))})
        else:
            namespaces.remove(name)
            client.delete_namespace(name)

    def rest() -> None:
        # All that there may be: what the API server has not answered it may have done.
        for number in range(_MORE):
            client.delete_policy(NAMESPACE, f"more-{number}")
        for number in range(_OTHERS):
            client.delete_pod(NAMESPACE, f"other-{number}")
        for number in range(_NAMESPACES):
            client.delete_namespace(f"{NAMESPACE}-{number}")
        for name, spec in SPECS.items():
            client.replace_policy(NAMESPACE, name, dict(spec))
        client.close()

    def unless_away(kind: Callable[[Random], None]) -> Callable[[Random], None]:
        def change(random: Random) -> None:
            # What was asked for may have been done all the same: then the next change finds it so.
            with contextlib.suppress(OSError, ApiError):
                kind(random)

        return change

    kinds = (own_policy, other_policy, other_pod, other_pod, namespace)
    return Churn([unless_away(kind) for kind in kinds], rest, seed=seed, rate=rate)
