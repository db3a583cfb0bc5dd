"""What a cluster's objects say beside what policies are about: Services, their range, who owns a pod.

None of it changes a verdict. It tells a person who asks about a Service's address, or a Deployment, what to
ask about instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from agent.kube.address import lenient_address, lenient_network
from agent.kube.model import Key
from agent.net import Network


class Service(NamedTuple):
    """A Service: its packed ClusterIPs, and the labels of the pods behind it.

    ``outside`` are its addresses outside the cluster, which are its own at its ``ports`` only, each a
    protocol's name and a number. At these a node translates them like a ClusterIP, for pods, too.
    """

    key: Key
    addresses: tuple[bytes, ...]
    selector: Mapping[str, str]
    outside: frozenset[bytes] = frozenset()
    ports: frozenset[tuple[str, int]] = frozenset()


class ServiceRange(NamedTuple):
    """Addresses that are given to Services only; ``source`` says which object shows that."""

    network: Network
    source: str


class Owner(NamedTuple):
    """The workload that a pod is of: of a Deployment's pod the Deployment."""

    pod: Key
    kind: str
    name: str


class Ingress(NamedTuple):
    """An Ingress: the names of the Services of its namespace that it sends requests to."""

    key: Key
    services: tuple[str, ...]


Fact = Service | ServiceRange | Owner | Ingress

_FLAG = re.compile(r"--service-cluster-ip-range[= ](\S+)")
_KUBEADM = re.compile(r"^\s*serviceSubnet:\s*[\"']?([^\s\"']+)", re.MULTILINE)


def is_fact(type_text: str) -> bool:
    """Whether objects of a type, written as ``v1 Service``, are looked at here and nowhere else."""
    return type_text.rpartition(" ")[2] in ("Service", "ServiceCIDR", "Ingress")


def facts_of(kind: str, data: Mapping[str, Any]) -> Iterator[Fact]:
    """Give what one object says; nothing of one that is not as it should be."""
    meta = _mapping(data.get("metadata"))
    key = Key(str(meta.get("namespace") or "default"), str(meta.get("name") or ""))
    spec = _mapping(data.get("spec"))
    if kind == "Service":
        selector = {str(k): str(v) for k, v in _mapping(spec.get("selector")).items()}
        texts = [*_texts(spec.get("clusterIPs")), *_texts([spec.get("clusterIP")])]
        addresses = dict.fromkeys(a for a in map(lenient_address, texts) if a is not None)
        yield Service(
            key, tuple(addresses), selector, frozenset(_outside(data, spec)), frozenset(_ports(spec))
        )
    elif kind == "Ingress":
        yield Ingress(key, tuple(dict.fromkeys(_backends(spec))))
    elif kind == "ServiceCIDR":
        yield from _ranges(_texts(spec.get("cidrs")), f"ServiceCIDR {key.name}")
    elif kind == "ConfigMap" and key.name == "kubeadm-config":
        for text in _texts([*_mapping(data.get("data")).values()]):
            for found in _KUBEADM.findall(text):
                yield from _ranges(found.split(","), f"ConfigMap {key}")
    elif kind == "Pod":
        yield from _of_pod(key, meta, spec)


def _backends(spec: Mapping[str, Any]) -> Iterator[str]:
    """Give the Services of an Ingress (``IngressBackend``, networking.k8s.io/v1 and its betas)."""
    backends = [spec.get("defaultBackend"), spec.get("backend")]
    for rule in map(_mapping, _list(spec.get("rules"))):
        paths = _list(_mapping(rule.get("http")).get("paths"))
        backends += [_mapping(path).get("backend") for path in paths]
    for backend in map(_mapping, backends):
        name = _mapping(backend.get("service")).get("name") or backend.get("serviceName")
        if isinstance(name, str):
            yield name


def _outside(data: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[bytes]:
    """Give a Service's external addresses, and those of its load balancer that nodes translate (KEP-1860)."""
    balancer = _mapping(_mapping(data.get("status")).get("loadBalancer"))
    entries = map(_mapping, _list(balancer.get("ingress")))
    told = [entry.get("ip") for entry in entries if entry.get("ipMode") != "Proxy"]
    for text in _texts([*_list(spec.get("externalIPs")), *told]):
        address = lenient_address(text)
        if address is not None:
            yield address


def _ports(spec: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for fields in map(_mapping, _list(spec.get("ports"))):
        if isinstance(number := fields.get("port"), int):
            yield str(fields.get("protocol") or "TCP"), number


def _of_pod(key: Key, meta: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[Fact]:
    for owner in _list(meta.get("ownerReferences")):
        fields = _mapping(owner)
        kind, name = str(fields.get("kind") or ""), str(fields.get("name") or "")
        if not fields.get("controller"):
            continue
        yield Owner(key, kind, name)
        # A Deployment calls its ReplicaSets by its own name and the hash that their pods have as a label.
        suffix = f"-{_mapping(meta.get('labels')).get('pod-template-hash')}"
        if kind == "ReplicaSet" and name.endswith(suffix):
            yield Owner(key, "Deployment", name.removesuffix(suffix))
    for container in _list(spec.get("containers")):
        fields = _mapping(container)
        line = " ".join((*_texts(fields.get("command")), *_texts(fields.get("args"))))
        for found in _FLAG.findall(line):
            yield from _ranges(found.split(","), f"--service-cluster-ip-range of Pod {key}")


def _ranges(texts: list[str], source: str) -> Iterator[ServiceRange]:
    for text in texts:
        network = lenient_network(text.strip())
        if network is not None:
            yield ServiceRange(network, source)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    return [text for text in _list(value) if isinstance(text, str)]
