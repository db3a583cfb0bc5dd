"""A stage for the tests of features on any cluster: its pods are the cluster's, and probes run in them."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from agent.net import Family
from agent.net import Protocol as Transport
from tests.cluster.scene import End, Expected, Stage, Way
from tests.conformance.kubectl import Kubectl, KubectlError
from tests.lab.client import Json
from tests.lab.place import LabError
from tests.lab.probe import Verdict

AGENT = ("--namespace", "kube-system", "daemonset", "netpol-agent")
_INSIDE = Path(__file__).with_name("inside.py").read_text()
# A connection's first packet is sent again after one second.
_BRIEFLY, _PATIENTLY = 1.3, 2.5
_SECONDS_TO_START = 120.0


class Ground(NamedTuple):
    """A cluster: two of its nodes, the families that its pods have, and the image that they are made of."""

    kubectl: Kubectl
    near: str
    far: str
    image: str
    families: tuple[Family, ...]


def survey(kubectl: Kubectl, image: str = "") -> Ground:
    """Return what there is in a cluster to test on.

    ``image`` is one with Python 3; "" takes the agent's own, which is on every node. Raises LabError when
    there are not two ready nodes, or no such image.
    """
    nodes = sorted(node["metadata"]["name"] for node in kubectl.get("nodes")["items"] if _is_ready(node))
    if len(nodes) < 2:
        raise LabError(f"Two nodes that are Ready are needed; there are: {', '.join(nodes) or 'none'}")
    if not image:
        try:
            daemonset = kubectl.get(*AGENT)
        except KubectlError as error:
            raise LabError(f"netpol-agent is not installed: kubectl apply -k deploy/\n{error}") from error
        image = daemonset["spec"]["template"]["spec"]["containers"][0]["image"]
    ground = Ground(kubectl, nodes[0], nodes[1], image, ())
    with ClusterScene(ground) as scene:
        scout = scene.pod(ground.near, scene.namespace("scout"), "scout")
        return ground._replace(families=tuple(sorted(scout.addresses)))


@dataclass(eq=False)
class ClusterPod:
    """A pod of the cluster. Asking for an address waits until it runs."""

    scene: ClusterScene
    name: str
    _addresses: dict[Family, str] = field(default_factory=dict)

    @property
    def addresses(self) -> dict[Family, str]:
        if not self._addresses:
            self._addresses = self.scene.wait_for_pod(*self.name.split("/"))
        return self._addresses

    def address(self, family: Family) -> str:
        if family not in self.addresses:
            raise LabError(f"{self.name} has no IPv{family} address: {', '.join(self.addresses.values())}")
        return self.addresses[family]


class ClusterScene(Stage):
    """A stage on a cluster; a context manager that removes what it has made, without waiting."""

    patience = 60.0

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        self.kubectl = ground.kubectl
        self.near: str = ground.near
        self.far: str = ground.far
        self.families = ground.families
        self._image = ground.image
        self._prefix = f"netpol-test-{secrets.token_hex(3)}"
        self._namespaces: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._namespaces:
            self.kubectl.run("delete", "namespace", "--wait=false", *self._namespaces)

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        full = f"{self._prefix}-{name}"
        metadata = {"name": full, "labels": dict(labels or {})}
        self.kubectl.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self._namespaces.append(full)
        return full

    def pod(
        self,
        node: str,
        namespace: str,
        name: str,
        labels: Mapping[str, str] | None = None,
        *,
        ports: Sequence[tuple[str, str, int]] = (),
        tcp: Iterable[int] = (80,),
        **spec: Any,
    ) -> ClusterPod:
        """Create a pod that serves TCP ports; ``spec`` are further fields of its spec."""
        container = {
            "name": "main",
            "image": self._image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python3", "-c", _INSIDE, "serve", *map(str, tcp)],
            "ports": [{"name": n, "protocol": p, "containerPort": number} for n, p, number in ports],
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": dict(labels or {})},
            "spec": {
                # Not by the scheduler: a test wants its pods on certain nodes, whatever their taints.
                "nodeName": node,
                "tolerations": [{"operator": "Exists"}],
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": 1,
                "containers": [container],
                **spec,
            },
        }
        deadline = time.monotonic() + _SECONDS_TO_START
        while True:
            try:
                self.kubectl.create(pod)
                return ClusterPod(self, f"{namespace}/{name}")
            except KubectlError as error:
                # A new namespace gets its service account a moment later.
                if "serviceaccount" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def wait_for_pod(self, namespace: str, name: str) -> dict[Family, str]:
        """Wait until a pod runs; return its addresses. Raises LabError, with its status, when it does not."""
        deadline = time.monotonic() + _SECONDS_TO_START
        while True:
            pod = self.kubectl.get("--namespace", namespace, "pod", name)
            status = pod.get("status", {})
            if status.get("phase") == "Running" and status.get("podIPs"):
                found = (entry["ip"] for entry in status["podIPs"])
                return {Family.V6 if ":" in address else Family.V4: address for address in found}
            if time.monotonic() > deadline or status.get("phase") in ("Failed", "Succeeded"):
                where = pod["spec"]["nodeName"]
                raise LabError(f"{namespace}/{name} does not run on {where}: {json.dumps(status)}")
            time.sleep(0.2)

    def policy(self, namespace: str, name: str, selector: Json | None = None, **spec: Any) -> None:
        self.kubectl.create(_policy(namespace, name, selector, spec))

    def replace_policy(self, namespace: str, name: str, selector: Json | None = None, **spec: Any) -> None:
        self.kubectl.replace(_policy(namespace, name, selector, spec))

    def delete_policy(self, namespace: str, name: str) -> None:
        self.kubectl.run("--namespace", namespace, "delete", "networkpolicy", name)

    def label(self, pod: End, labels: Mapping[str, str | None]) -> None:
        namespace, name = pod.name.split("/")
        self.kubectl.run("--namespace", namespace, "label", "--overwrite", "pod", name, *_changes(labels))

    def label_namespace(self, namespace: str, labels: Mapping[str, str | None]) -> None:
        self.kubectl.run("label", "--overwrite", "namespace", namespace, *_changes(labels))

    def outside(self) -> End:
        """Return a program on the far node's own network: to policy its address is no pod's."""
        allowed = {"pod-security.kubernetes.io/enforce": "privileged"}
        return self.pod(self.far, self.namespace("outside", allowed), "outside", hostNetwork=True)

    def _check_open(self, ways: Sequence[Way]) -> None:
        every = {(way, family): Verdict.ALLOWED for way in ways for family in self.families}
        try:
            self._hold(every, self.patience)
        except AssertionError as error:
            raise LabError(f"not open without policy: {error}") from None

    def _hold(self, expected: Expected, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while wrong := self._wrong(expected, _BRIEFLY):
            assert time.monotonic() < deadline, f"after {timeout:.0f} s: {_told(wrong, expected)}"
        wrong = self._wrong(expected, _PATIENTLY)
        assert not wrong, f"did not stay so: {_told(wrong, expected)}"

    def _wrong(self, expected: Expected, seconds: float) -> Expected:
        """Try every connection; return what was not as expected, with what it was."""
        by_source: dict[End, list[tuple[Way, Family]]] = {}
        for way, family in expected:
            assert way.protocol is Transport.TCP, "pods of these tests serve TCP alone"
            by_source.setdefault(way.source, []).append((way, family))
        with ThreadPoolExecutor(len(by_source)) as pool:
            answers = pool.map(lambda source: self._probe(source, by_source[source], seconds), by_source)
            found = {one: verdict for answer in answers for one, verdict in answer.items()}
        return {one: found[one] for one, wanted in expected.items() if found[one] is not wanted}

    def _probe(self, source: End, ways: Sequence[tuple[Way, Family]], seconds: float) -> Expected:
        targets = [[way.destination.address(family), way.port] for way, family in ways]
        namespace, name = source.name.split("/")
        source.address(self.families[0])  # it runs
        command = ("python3", "-c", _INSIDE, "probe", str(seconds), json.dumps(targets))
        verdicts = json.loads(self.kubectl.execute(namespace, name, *command))
        return {one: Verdict(verdict) for one, verdict in zip(ways, verdicts, strict=True)}


def _is_ready(node: Json) -> bool:
    conditions = node.get("status", {}).get("conditions", ())
    return any(found["type"] == "Ready" and found["status"] == "True" for found in conditions)


def _policy(namespace: str, name: str, selector: Json | None, spec: Json) -> Json:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": selector or {}, **spec},
    }


def _changes(labels: Mapping[str, str | None]) -> list[str]:
    return [f"{key}-" if value is None else f"{key}={value}" for key, value in labels.items()]


def _told(wrong: Expected, expected: Expected) -> str:
    return "; ".join(
        f"{way.source.name} → {way.destination.address(family)} {way.port} is {verdict},"
        f" not {expected[way, family]}"
        for (way, family), verdict in wrong.items()
    )
