"""The pods and policies that tests of the specification ask about."""

from __future__ import annotations

from agent.kube.model import Namespace, NetworkPolicy, Object, Pod, Rule
from agent.net import Protocol
from agent.spec.cluster import cluster_of
from agent.spec.evaluator import Endpoint, evaluate
from agent.spec.verdict import Verdict
from tests.build import labelled, packed, pod, port

TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP
SHOP = Namespace("shop", {"team": "shop"})
OTHER = Namespace("other", {"team": "other"})
WEB = pod("web", "10.0.0.1", "fd00::1", ports=(port("http", 8080), port("dns", 53, UDP)))
CLIENT = pod("client", "10.0.0.2", "fd00::2", ports=(port("http", 80),))
STRANGER = pod("stranger", "10.0.0.3", "fd00::3", namespace="other")
PODS = (SHOP, OTHER, WEB, CLIENT, STRANGER)
OUTSIDE = packed("192.0.2.1")


def key(found: Endpoint | Pod) -> Endpoint:
    return found.key if isinstance(found, Pod) else found


def ask(
    *objects: Object,
    source: Endpoint | Pod = CLIENT,
    destination: Endpoint | Pod = WEB,
    service: tuple[Protocol, int | str] = (TCP, 80),
) -> Verdict:
    """Return the IPv4 verdict, the only one when an end is an address."""
    return evaluate(cluster_of((*PODS, *objects)), key(source), key(destination), *service)[0]


def ingress(*rules: Rule, name: str = "p") -> NetworkPolicy:
    return NetworkPolicy("shop", name, labelled(app="web"), ingress=rules)


def egress(*rules: Rule, name: str = "p") -> NetworkPolicy:
    return NetworkPolicy("shop", name, labelled(app="client"), egress=rules)
