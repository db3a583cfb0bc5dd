"""What a person who asks about something that is no pod should ask about instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from agent.kube.address import covers
from agent.kube.facts import Fact, Owner, Service, ServiceRange
from agent.kube.model import Key, Node, Pod
from agent.net import Network, address_text
from agent.spec.cluster import Cluster, owner
from agent.spec.question import KINDS, Question
from agent.spec.unjudged import never_judged
from agent.words import and_more

_DEFAULT = "default"
_SHOWN = 3
"""Names that are shown; the rest are counted."""

_USUAL_RANGES = (
    Network(bytes([10, 96, 0, 0]), 12),
    Network(bytes([10, 43, 0, 0]), 16),
    Network(bytes([10, 100, 0, 0]), 16),
    Network(bytes([10, 152, 183, 0]), 24),
    Network(bytes([172, 20, 0, 0]), 16),
    Network(bytes([34, 118, 224, 0]), 20),
)
"""What installers give Services unless told otherwise: kubeadm, k3s, EKS twice (100, 172), MicroK8s, GKE."""


def instead(cluster: Cluster, facts: Sequence[Fact], question: Question) -> tuple[str, ...]:
    """Return a line for each end that no policy judges, with what to ask about instead.

    That is what is no pod, a Service's address, or one that names no host.
    """
    lines = []
    for end in dict.fromkeys(question[:2]):
        if isinstance(end, Key):
            if end not in cluster.pods:
                lines.append(_missing(cluster, facts, end))
        elif owner(cluster, end) is None and (
            line := never_judged(end) or _service_address(cluster, facts, end)
        ):
            lines.append(line)
    return tuple(lines) or tuple(_at_an_outside_address(cluster, facts, question))


def hints(cluster: Cluster, facts: Sequence[Fact], question: Question) -> Iterator[str]:
    """Give a line where an address may be a Service's, as far as its looks say."""
    end = question.destination
    if isinstance(end, Key) or any(isinstance(fact, Service | ServiceRange) for fact in facts):
        return
    known: list[Pod | Node] = [*cluster.nodes.values(), *cluster.pods.values()]
    if not any(end in one.addresses for one in known) and any(
        _holds(network, end) for network in _USUAL_RANGES
    ):
        yield f"{address_text(end)} may be a Service's address; if it is, ask about a pod behind that Service"


def did_you_mean(asked: str, names: Sequence[str]) -> str:
    """Return "; did you mean NAME?" for the nearest of the names there are, or "" when none is near."""
    near = difflib.get_close_matches(asked, names, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _service_address(cluster: Cluster, facts: Sequence[Fact], address: bytes) -> str:
    if owner(cluster, address) is not None:
        return ""
    text = address_text(address)
    for fact in facts:
        if isinstance(fact, Service) and address in fact.addresses:
            asked = _ask(cluster, _behind(cluster, fact), "behind it")
            return f"{text} is the address of Service {fact.key}; {asked}"
    for fact in facts:
        if isinstance(fact, ServiceRange) and _holds(fact.network, address):
            return (
                f"{text} lies in the Service range {fact.network} ({fact.source}); a Service? "
                "ask about a pod behind it"
            )
    return ""


def _at_an_outside_address(cluster: Cluster, facts: Sequence[Fact], question: Question) -> Iterator[str]:
    """Give a line where the destination is a Service's address outside the cluster, at a port of it."""
    _, end, (protocol, port) = question
    if isinstance(end, Key) or owner(cluster, end) is not None:
        return
    for fact in facts:
        if isinstance(fact, Service) and end in fact.outside and (protocol.name, port) in fact.ports:
            asked = _ask(cluster, _behind(cluster, fact), "behind it")
            yield f"{address_text(end)} with {protocol.name} {port} is Service {fact.key}; {asked}"
            return


def _missing(cluster: Cluster, facts: Sequence[Fact], end: Key) -> str:
    word, slash, name = end.name.rpartition("/")
    if slash:
        return _workload(cluster, facts, end.namespace, KINDS[word], name)
    if end.namespace in KINDS and end.namespace not in cluster.namespaces:
        return _workload(cluster, facts, "", KINDS[end.namespace], end.name)
    if hint := _by_dns_name(cluster, facts, end.name):
        return f"there is no pod {end}{hint}"
    hint = _by_owner(cluster, facts, end) or _by_name(cluster, end)
    if "." in end.name and "did you mean" not in hint:
        hint = f"{hint}; a host name? policy knows addresses only: ask about the address that it stands for"
    return f"there is no pod {end}{hint}"


def _by_owner(cluster: Cluster, facts: Sequence[Fact], end: Key) -> str:
    """Say which pods the workload or the Service of a name has."""
    for fact in facts:
        if isinstance(fact, Owner) and (fact.pod.namespace, fact.name) == end:
            pods = [f.pod for f in facts if isinstance(f, Owner) and f[1:] == fact[1:]]
            of_it = [pod for pod in pods if pod.namespace == end.namespace]
            return f"; {_ask(cluster, of_it, f'of {fact.kind} {fact.name}')}"
        if isinstance(fact, Service) and fact.key == end:
            return f"; {_ask(cluster, _behind(cluster, fact), f'behind Service {fact.key.name}')}"
    return ""


def _by_dns_name(cluster: Cluster, facts: Sequence[Fact], name: str) -> str:
    """Say which pods are behind a Service's name in the cluster's DNS, with or without its last labels.

    ``SERVICE.NAMESPACE``, also with ``.svc`` and the cluster's domain; a pod's name may stand before it (the
    DNS specification of Kubernetes, 2.3 and 2.4).
    """
    labels = name.split(".")
    inner = labels[: labels.index("svc", 1)] if "svc" in labels[1:] else labels
    if len(inner) not in (2, 3):
        return ""
    service, namespace = inner[-2:]
    pod = Key(namespace, inner[0])
    if len(inner) == 3:
        return f"; did you mean {pod}?" if pod in cluster.pods else ""
    for fact in facts:
        if isinstance(fact, Service) and fact.key == (namespace, service):
            return f"; {_ask(cluster, _behind(cluster, fact), f'behind Service {fact.key}')}"
    if pod in cluster.pods:
        return f"; did you mean {pod}?"
    return f"; no Service {namespace}/{service} is in the manifests either" if inner != labels else ""


def _by_name(cluster: Cluster, end: Key) -> str:
    """Say which pods, or which namespace, have a name like what was asked about."""
    here = [pod for pod in cluster.pods if pod.namespace == end.namespace]
    begins = sorted(pod for pod in here if pod.name.startswith(f"{end.name}-"))
    if begins:
        return f"; did you mean {'' if len(begins) == 1 else 'one of '}{_listed(begins)}?"
    if elsewhere := sorted(pod for pod in cluster.pods if pod.name == end.name):
        return f"; did you mean {_listed(elsewhere)}?"
    if near := difflib.get_close_matches(end.name, [pod.name for pod in here], 1):
        return f"; did you mean {end.namespace}/{near[0]}?"
    if end.namespace == _DEFAULT and end.namespace not in cluster.namespaces:
        return "; write namespace/pod for a pod of another namespace"
    if end.namespace not in cluster.namespaces:
        return f", and no namespace {end.namespace}{did_you_mean(end.namespace, sorted(cluster.namespaces))}"
    return ""


def _workload(cluster: Cluster, facts: Sequence[Fact], namespace: str, kind: str, name: str) -> str:
    """Say which pods a workload or Service has; ``namespace`` may be "" for any."""

    def fits(key: Key) -> bool:
        return not namespace or key.namespace == namespace

    if kind == "Pod":
        fitting = sorted(filter(fits, cluster.pods))
        if pods := [pod for pod in fitting if pod.name == name]:
            return f"write it as namespace/pod: {_listed(pods)}"
        near = difflib.get_close_matches(name, [pod.name for pod in fitting], 1)
        meant = _listed([pod for pod in fitting if pod.name in near])
        return f"there is no pod {name}" + (f"; did you mean {meant}?" if near else "")
    if kind == "Node":
        return _node(cluster, name)
    if kind == "Service":
        services = [f for f in facts if isinstance(f, Service) and f.key.name == name and fits(f.key)]
        pods = [pod for service in services for pod in _behind(cluster, service)]
        known = [f.key.name for f in facts if isinstance(f, Service) and fits(f.key)]
        if known and not services:
            return f"there is no Service {name} in the manifests{did_you_mean(name, known)}"
    else:
        pods = [
            fact.pod
            for fact in facts
            if isinstance(fact, Owner) and (fact.kind, fact.name) == (kind, name) and fits(fact.pod)
        ]
    if not pods and kind != "Service":
        pods = [pod for pod in cluster.pods if pod.name.startswith(f"{name}-") and fits(pod)]
        known = [f.name for f in facts if isinstance(f, Owner) and f.kind == kind and fits(f.pod)]
        if not pods and (meant := did_you_mean(name, known)):
            return f"there is no pod of {kind} {name} in the manifests{meant}"
    whose = "behind it" if kind == "Service" else "of it"
    return f"policies judge pods, not {kind} {name}; {_ask(cluster, sorted(pods), whose)}"


def _node(cluster: Cluster, name: str) -> str:
    """Say what a node is asked about by."""
    node = cluster.nodes.get(name)
    if node is None:
        known = did_you_mean(name, sorted(cluster.nodes))
        return f"there is no node {name} in the manifests{known}"
    addresses = ", ".join(map(address_text, node.addresses)) or "none is in the manifests"
    return f"Node {name} is no pod; ask about its address: {addresses}"


def _ask(cluster: Cluster, pods: list[Key], whose: str) -> str:
    """Say which of these pods to ask about: those that policy judges."""
    if not pods:
        return f"ask about a pod {whose}, as namespace/pod"
    pods = [key for key in pods if key not in cluster.pods or cluster.pods[key].judged]
    if not pods:
        return (
            f"no pod {whose} is judged: none has an address of its own (host network, finished, not started)"
        )
    return f"ask about {'the pod' if len(pods) == 1 else 'a pod'} {whose}: {_listed(pods)}"


def _behind(cluster: Cluster, service: Service) -> list[Key]:
    """Return the pods that a Service selects; one without a selector selects none (ServiceSpec, core/v1)."""
    return sorted(
        key
        for key, pod in cluster.pods.items()
        if key.namespace == service.key.namespace
        and service.selector
        and service.selector.items() <= pod.labels.items()
    )


def _listed(pods: Sequence[Key]) -> str:
    more = and_more(len(pods), _SHOWN)
    return ", ".join(map(str, pods[:_SHOWN])) + more


def _holds(network: Network, address: bytes) -> bool:
    return covers(network, Network(address, 8 * len(address)))
