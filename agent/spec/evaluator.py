"""The specification as a function: whether a packet may pass, and which policies and rules decide it.

Written from the API reference (``networking.k8s.io/v1``, ``NetworkPolicySpec``) and docs/semantics.md, to be
read beside them from top to bottom. Slow and plain on purpose: it looks through every object for every
question. It shares nothing with the compiler but the objects, what a label selector matches and what policies
cost (:mod:`agent.policy.budget`), so that each can be held against the other.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from agent.kube.mode import Mode
from agent.kube.model import IPBlock, Key, NetworkPolicy, Peer, Pod, Port, Rule, Selector
from agent.net import Direction, Family, Protocol, address_text, family_of
from agent.spec.cluster import (
    Cluster,
    closed_by_budget,
    in_force,
    ip_of,
    mode_in,
    named_port,
    network_of,
    own_node,
    owner,
    stranger_text,
    written_in,
)
from agent.spec.hints import (
    disabled,
    early_address,
    labels_text,
    names_text,
    not_selecting,
    without_dns,
    without_effect,
)
from agent.spec.verdict import (
    Answer,
    DirectionVerdict,
    Packet,
    PolicyFinding,
    RuleFinding,
    Verdict,
)

Endpoint = Key | bytes
"""One end of a connection: a pod by its key, or a packed address."""

_PROTOCOLS = {protocol.value: protocol.name for protocol in Protocol} | {1: "ICMP", 58: "ICMPv6"}
_REASONS = 4
"""Reasons given of each rule; the rest are counted."""


class CannotSayError(Exception):
    """The objects do not tell; the message says what is missing, for people."""


# --- Endpoints: which addresses, which pod ----------------------------------------------------------------


def evaluate(
    cluster: Cluster, source: Endpoint, destination: Endpoint, protocol: Protocol, port: int | str
) -> tuple[Verdict, ...]:
    """Return the verdict for each address family that both ends have, IPv4 first.

    A port's name is looked up on the destination pod. Raises CannotSayError when the cluster does not tell:
    no such pod, a pod without an address, no family in common, no port of that name.
    """
    sources, destinations = _addresses(cluster, source), _addresses(cluster, destination)
    families = sorted(sources.keys() & destinations.keys())
    if not families:
        raise CannotSayError(
            f"{_endpoint_text(source)} has no address of the family that {_endpoint_text(destination)} has"
        )
    verdicts = []
    for family in families:
        number = port if isinstance(port, int) else number_of(cluster, destinations[family], protocol, port)
        verdicts.append(judge(cluster, Packet(sources[family], destinations[family], protocol, number)))
    return tuple(verdicts)


def _addresses(cluster: Cluster, endpoint: Endpoint) -> dict[Family, bytes]:
    if isinstance(endpoint, bytes):
        return {family_of(endpoint): endpoint}
    pod = cluster.pods.get(endpoint)
    if pod is None:
        raise CannotSayError(f"there is no pod {endpoint}")
    if pod.finished:
        raise CannotSayError(f"the pod {endpoint} has finished, so it sends and takes nothing")
    if not pod.addresses:
        raise CannotSayError(f"the pod {endpoint} has no address yet")
    if pod.host_network:
        return {family_of(address): address for address in pod.addresses}
    found = {family_of(a): a for a in pod.addresses if owner(cluster, a) is pod}
    if not found:
        address = pod.addresses[0]
        later = owner(cluster, address)
        assert later is not None  # noqa: S101 - the pod itself claims it
        raise CannotSayError(
            f"the address of {endpoint}, {address_text(address)}, is now that of {later.key}, a newer pod"
        )
    return found


def number_of(cluster: Cluster, address: bytes, protocol: Protocol, name: str) -> int:
    """Return the number that the pod at an address gives a port's name, or raise CannotSayError."""
    pod = owner(cluster, address)
    if pod is None:
        raise CannotSayError(f"{address_text(address)} is no pod's address, so it gives no port a name")
    number = named_port(pod, name, protocol)
    if number is None:
        has = [f"{p.name}/{p.protocol.name.lower()}" for p in pod.ports]
        near = difflib.get_close_matches(name, [p.name for p in pod.ports], 1) if len(has) > 1 else []
        meant = next((text for text in has if near and text.startswith(f"{near[0]}/")), "")
        raise CannotSayError(
            f"{pod.key} has no port named {name} for {protocol.name}; its named ports: "
            + (", ".join(has) or "none")
            + (f"; did you mean {meant}?" if meant else "")
        )
    return number


# --- One packet -------------------------------------------------------------------------------------------


def judge(cluster: Cluster, packet: Packet) -> Verdict:
    """Return the verdict of a packet: it needs its source's egress and its destination's ingress.

    Each is judged on its own: that one direction allows it says nothing about the other.
    """
    return Verdict(
        packet,
        egress=judge_direction(cluster, Direction.EGRESS, packet),
        ingress=judge_direction(cluster, Direction.INGRESS, packet),
        caveat=own_node(cluster, packet.source, packet.destination)
        or own_node(cluster, packet.destination, packet.source),
    )


def judge_direction(cluster: Cluster, direction: Direction, packet: Packet) -> DirectionVerdict:
    """Return the verdict of one direction: each stage is asked in turn; the first with an answer gives it."""
    for stage in (_if_no_pod, _if_to_itself, _if_not_isolated):
        verdict = stage(cluster, direction, packet)
        if verdict is not None:
            return verdict
    return _by_policies(cluster, direction, packet)


def _if_no_pod(cluster: Cluster, direction: Direction, packet: Packet) -> DirectionVerdict | None:
    address = _own_address(direction, packet)
    if owner(cluster, address) is not None:
        return None
    return DirectionVerdict(
        direction, True, None, (), f"{stranger_text(cluster, address)}: no policy applies"
    )


def _if_to_itself(cluster: Cluster, direction: Direction, packet: Packet) -> DirectionVerdict | None:
    pod = _pod(cluster, direction, packet)
    if owner(cluster, _peer_address(direction, packet)) is not pod:
        return None
    return DirectionVerdict(direction, True, pod.key, (), "what a pod sends to itself is never judged")


def _if_not_isolated(cluster: Cluster, direction: Direction, packet: Packet) -> DirectionVerdict | None:
    pod = _pod(cluster, direction, packet)
    if isolating(cluster, direction, pod):
        return None
    why = f"no policy isolates {pod.key} on {direction}"
    policies = in_force(cluster, pod.namespace)
    hints = (
        *without_effect(policies, direction, pod),
        *not_selecting(policies, direction, pod),
        *disabled(_disabled(cluster, pod), direction, pod),
        *early_address(pod),
    )
    audited = _findings(cluster, auditing(cluster, direction, pod), direction, packet)
    return DirectionVerdict(direction, True, pod.key, (), why, hints, audited)


def _by_policies(cluster: Cluster, direction: Direction, packet: Packet) -> DirectionVerdict:
    """Policies are additive: one rule that matches is enough, whichever policy it is of.

    A policy for which there is no budget on the pod's node allows nothing.
    """
    pod = _pod(cluster, direction, packet)
    policies = isolating(cluster, direction, pod)
    findings = _findings(cluster, policies, direction, packet)
    allowed = any(rule.allows for finding in findings for rule in finding.rules)
    why = "a rule allows it" if allowed else "no rule of the policies that isolate it allows it"
    hints = (
        *without_effect(in_force(cluster, pod.namespace), direction, pod),
        *disabled(_disabled(cluster, pod), direction, pod),
        *(without_dns(policies, pod.key) if direction is Direction.EGRESS else ()),
        *early_address(pod),
    )
    audited = _findings(cluster, auditing(cluster, direction, pod), direction, packet)
    return DirectionVerdict(direction, allowed, pod.key, findings, why, hints, audited)


def _findings(
    cluster: Cluster, policies: list[NetworkPolicy], direction: Direction, packet: Packet
) -> tuple[PolicyFinding, ...]:
    """Hold a packet against each rule of policies of one namespace, which select one pod."""
    pod = _pod(cluster, direction, packet)
    over = closed_by_budget(cluster, pod.namespace, pod.node) if policies else {}
    return tuple(
        PolicyFinding(policy.key, (), str(over[policy.key]))
        if policy.key in over
        else PolicyFinding(
            policy.key,
            tuple(
                _rule(cluster, policy, number, rule, direction, packet)
                for number, rule in enumerate(policy.rules(direction) or ())
            ),
        )
        for policy in policies
    )


def isolating(cluster: Cluster, direction: Direction, pod: Pod) -> list[NetworkPolicy]:
    """Return the policies that isolate a pod in a direction, sorted by key.

    They are of the pod's namespace, name the direction in policyTypes, select the pod, and are enforced. A
    namespace's DefaultDeny annotation counts as one that selects every pod, names Ingress, and has no rule.
    """
    return _selecting(cluster, direction, pod, Mode.ENFORCE)


def auditing(cluster: Cluster, direction: Direction, pod: Pod) -> list[NetworkPolicy]:
    """Return the policies that would isolate a pod in a direction, and are audited, sorted by key."""
    return _selecting(cluster, direction, pod, Mode.AUDIT)


def _selecting(cluster: Cluster, direction: Direction, pod: Pod, mode: Mode) -> list[NetworkPolicy]:
    return [
        policy
        for policy in in_force(cluster, pod.namespace)
        if policy.rules(direction) is not None
        and policy.pod_selector.matches(pod.labels)
        and mode_in(cluster, policy) is mode
    ]


def _disabled(cluster: Cluster, pod: Pod) -> list[NetworkPolicy]:
    """Return those that are disabled, sorted by key."""
    written = written_in(cluster, pod.namespace)
    return sorted((p for p in written if mode_in(cluster, p) is Mode.DISABLED), key=lambda p: p.key)


# --- One rule ---------------------------------------------------------------------------------------------


def _rule(
    cluster: Cluster, policy: NetworkPolicy, number: int, rule: Rule, direction: Direction, packet: Packet
) -> RuleFinding:
    """Hold a packet against a rule: it matches when its peer does and its port does."""
    return RuleFinding(
        number,
        peer=_any_peer(cluster, policy.namespace, rule, _peer_address(direction, packet)),
        port=_any_port(cluster, rule, packet),
    )


def _any_peer(cluster: Cluster, namespace: str, rule: Rule, address: bytes) -> Answer:
    """``from`` and ``to``: absent or empty is any peer; else one of the list must match."""
    if not rule.peers:
        return Answer(True, "any peer")
    return _first(_peer(cluster, namespace, peer, address) for peer in rule.peers)


def _peer(cluster: Cluster, namespace: str, peer: Peer, address: bytes) -> Answer:
    """``NetworkPolicyPeer``: a block, which matches by address, or selectors, which match pods."""
    if peer.block is not None:
        return _block(peer.block, address)
    if peer.pod_selector is None and peer.namespace_selector is None:
        return Answer(False, "a peer of a kind not known here matches nothing")
    pod = owner(cluster, address)
    if pod is None:
        return Answer(False, f"{stranger_text(cluster, address)}, and a selector matches pods only")
    if peer.namespace_selector is None:
        if pod.namespace != namespace:
            return Answer(False, f"{pod.key} is not in namespace {namespace}")
    else:
        known = cluster.namespaces.get(pod.namespace)
        if known is None:
            return Answer(False, f"namespace {pod.namespace} is not known")
        if not peer.namespace_selector.matches(known.labels):
            return _unlike(f"namespace {pod.namespace}", peer.namespace_selector, known.labels)
    if peer.pod_selector is not None and not peer.pod_selector.matches(pod.labels):
        return _unlike(str(pod.key), peer.pod_selector, pod.labels)
    return Answer(True, f"{pod.key} matches {_selected_text(namespace, peer)}")


def _unlike(what: str, selector: Selector, labels: dict[str, str]) -> Answer:
    return Answer(False, f"{what} does not match {selector}: it has {labels_text(selector, labels)}")


def _block(block: IPBlock, address: bytes) -> Answer:
    """``IPBlock``: exactly the cidr without its own excepts, and never across families."""
    one, text = ip_of(address), address_text(address)
    if one not in network_of(block.cidr):
        return Answer(False, f"{text} is not in {block.cidr}")
    for network in block.excepts:
        if one in network_of(network):
            return Answer(False, f"{text} is in {network}, an except of {block.cidr}")
    return Answer(True, f"{text} is in {block.cidr}")


def _any_port(cluster: Cluster, rule: Rule, packet: Packet) -> Answer:
    """``ports``: absent or empty is any port of any protocol; else one of the list must match."""
    if not rule.ports:
        return Answer(True, "any port")
    return _first(_port(cluster, port, packet) for port in rule.ports)


def _port(cluster: Cluster, port: Port, packet: Packet) -> Answer:
    """``NetworkPolicyPort``: protocol, and a number, a range (both ends included), a name, or any port."""
    protocol = _PROTOCOLS[port.protocol]
    if packet.protocol != port.protocol:
        return Answer(False, f"{_protocol_text(packet.protocol)} is not {protocol}")
    if port.port is None:
        return Answer(True, f"any {protocol} port")
    if isinstance(port.port, str):
        return _name(cluster, port.port, port.protocol, packet)
    if port.end is None:
        if packet.port != port.port:
            return Answer(False, f"{protocol} {packet.port} is not {port.port}")
        return Answer(True, f"{protocol} {packet.port}")
    if not port.port <= packet.port <= port.end:
        return Answer(False, f"{protocol} {packet.port} is not in {port.port}-{port.end}")
    return Answer(True, f"{protocol} {packet.port} is in {port.port}-{port.end}")


def _name(cluster: Cluster, name: str, protocol: Protocol, packet: Packet) -> Answer:
    """Resolve a name on the destination pod, whichever direction the rule is of."""
    pod = owner(cluster, packet.destination)
    if pod is None:
        return Answer(False, f"{stranger_text(cluster, packet.destination)}, so it has no port named {name}")
    number = named_port(pod, name, protocol)
    if number is None:
        return Answer(False, f"{pod.key} has no port named {name} for {protocol.name}: {names_text(pod)}")
    if number != packet.port:
        return Answer(False, f"{protocol.name} {packet.port} is not {name}, which is {number} on {pod.key}")
    return Answer(True, f"{protocol.name} {packet.port} is {name} on {pod.key}")


# --- Words ------------------------------------------------------------------------------------------------


def _own_address(direction: Direction, packet: Packet) -> bytes:
    return packet.destination if direction is Direction.INGRESS else packet.source


def _peer_address(direction: Direction, packet: Packet) -> bytes:
    return packet.source if direction is Direction.INGRESS else packet.destination


def _pod(cluster: Cluster, direction: Direction, packet: Packet) -> Pod:
    pod = owner(cluster, _own_address(direction, packet))
    assert pod is not None  # noqa: S101 - the first stage has answered for addresses that are no pod's
    return pod


def _first(answers: Iterable[Answer]) -> Answer:
    """Return the first that matches, or one that does not, with the reasons of all."""
    found: dict[str, None] = {}
    for answer in answers:
        if answer.yes:
            return answer
        found[answer.why] = None
    reasons = list(found)
    more = f" (and {len(reasons) - _REASONS} more)" if len(reasons) > _REASONS else ""
    return Answer(False, "; ".join(reasons[:_REASONS]) + more)


def _selected_text(namespace: str, peer: Peer) -> str:
    pods = str(peer.pod_selector or "") or "any pod"
    if peer.namespace_selector is None:
        return f"{pods} in namespace {namespace}"
    namespaces = str(peer.namespace_selector)
    return f"{pods} in namespaces {namespaces}" if namespaces else f"{pods} in any namespace"


def _protocol_text(number: int) -> str:
    return _PROTOCOLS.get(number, f"protocol {number}")


def _endpoint_text(endpoint: Endpoint) -> str:
    return address_text(endpoint) if isinstance(endpoint, bytes) else str(endpoint)
