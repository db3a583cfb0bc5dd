"""NetworkPolicy: plain data to a value in normal form (``networking.k8s.io/v1``)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from agent.kube import names
from agent.kube.address import covers, lenient_network, strict_network
from agent.kube.check import Check
from agent.kube.events import Problem
from agent.kube.mode import NO_MODE, ModeSaid
from agent.kube.model import (
    IPBlock,
    Key,
    NetworkPolicy,
    Operator,
    Peer,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.net import Direction, Network, Protocol

PROTOCOLS = {p.name: p for p in Protocol}

_OPERATORS = {o.value: o for o in Operator}
_SPEC = ("podSelector", "policyTypes", "ingress", "egress")
_SELECTOR = ("matchLabels", "matchExpressions")
_REQUIREMENT = ("key", "operator", "values")
_PEER = ("podSelector", "namespaceSelector", "ipBlock")
_BLOCK = ("cidr", "except")
_PORT = ("protocol", "port", "endPort")
_RULES = {"ingress": ("from", "ports"), "egress": ("to", "ports")}


class PolicyReading(NamedTuple):
    """A policy, or what is wrong with it and the policy that closes the pods it selects.

    ``closed`` is None when the podSelector cannot be read. ``partial`` is what could be read of a policy with
    problems: where a problem is, it may say more or less than was written, so it is never enforced.
    """

    policy: NetworkPolicy | None
    problems: tuple[Problem, ...] = ()
    closed: NetworkPolicy | None = None
    partial: NetworkPolicy | None = None


def read_policy(key: Key, spec: object, *, strict: bool) -> PolicyReading:
    """Read a NetworkPolicy's spec; ``strict`` for new objects, else as stored ones are read.

    Never raises, whatever the data.
    """
    check = Check(strict=strict)
    fields = check.mapping(spec, "spec", _SPEC)
    fields_readable = not check.problems
    selector = read_selector(check, fields.get("podSelector"), "spec.podSelector")
    # An unknown field beside no podSelector may well be the podSelector, misspelt.
    selector_readable = (
        isinstance(spec, dict | None)
        and (fields_readable or fields.get("podSelector") is not None)
        and not any(p.field.startswith("spec.podSelector") for p in check.problems)
    )
    types = _policy_types(check, fields)
    rules = {
        direction: tuple(
            _rule(check, rule, f"spec.{direction}[{index}]", direction)
            for index, rule in enumerate(check.sequence(fields.get(direction), f"spec.{direction}"))
        )
        for direction in _RULES
    }
    policy = NetworkPolicy(
        namespace=key.namespace,
        name=key.name,
        pod_selector=selector,
        ingress=rules["ingress"] if "Ingress" in types else None,
        egress=rules["egress"] if "Egress" in types else None,
        ignored=tuple(d for d in Direction if rules[d.value] and d.value.capitalize() not in types),
    )
    if not check.problems:
        return PolicyReading(policy)
    if not selector_readable:
        return PolicyReading(None, tuple(check.problems), partial=policy)
    if not fields_readable or not isinstance(fields.get("egress"), list | None):
        types = {"Ingress", "Egress"}
    closed = NetworkPolicy(
        namespace=key.namespace,
        name=key.name,
        pod_selector=selector,
        ingress=() if "Ingress" in types else None,
        egress=() if "Egress" in types else None,
    )
    return PolicyReading(None, tuple(check.problems), closed, policy)


def staged(reading: PolicyReading, said: ModeSaid) -> PolicyReading:
    """Return a reading of which the policy's annotation says this: one that is not valid is audited, too."""
    if said == NO_MODE:
        return reading
    policy, closed = (
        None if one is None else msgspec.structs.replace(one, staging=said)
        for one in (reading.policy, reading.closed)
    )
    return reading._replace(policy=policy, closed=closed)


def closing(policy: NetworkPolicy) -> NetworkPolicy:
    """Return the policy that isolates the same pods in the same directions and allows nothing."""
    return msgspec.structs.replace(
        policy,
        ingress=None if policy.ingress is None else (),
        egress=None if policy.egress is None else (),
    )


def _policy_types(check: Check, spec: object) -> set[str]:
    """Return the directions a spec names; both when they cannot be read."""
    assert isinstance(spec, dict)  # noqa: S101 - narrows the type; the caller has checked it
    before = len(check.problems)
    entries = check.sequence(spec.get("policyTypes"), "spec.policyTypes")
    if check.strict and len(entries) > 2:
        check.add("spec.policyTypes", f"{len(entries)} entries; write Ingress and Egress once each")
    types = set()
    for index, entry in enumerate(entries):
        path = f"spec.policyTypes[{index}]"
        text = check.text(entry, path)
        if text in ("Ingress", "Egress"):
            types.add(text)
        elif text or entry is None or entry == "":
            check.add(path, f"{entry!r} is no policy type; write Ingress or Egress")
    if len(check.problems) > before:
        return {"Ingress", "Egress"}
    if not types:
        return {"Ingress", "Egress"} if spec.get("egress") else {"Ingress"}
    return types


def read_selector(check: Check, value: object, path: str) -> Selector:
    """Read a LabelSelector (meta/v1): sorted, unique requirements; matchLabels as In with one value."""
    if not value and isinstance(value, dict | None):
        return Selector()
    fields = check.mapping(value, path, _SELECTOR)
    requirements = set()
    for key, text in check.texts(fields.get("matchLabels"), f"{path}.matchLabels").items():
        if check.strict:
            check.refuse(f"{path}.matchLabels", names.qualified_name(key))
            check.refuse(f"{path}.matchLabels[{key}]", names.label_value(text))
        requirements.add(Requirement(key, Operator.IN, (text,)))
    expressions = fields.get("matchExpressions")
    for index, expression in enumerate(check.sequence(expressions, f"{path}.matchExpressions")):
        requirements.add(_requirement(check, expression, f"{path}.matchExpressions[{index}]"))
    return Selector(tuple(sorted(requirements)) if len(requirements) > 1 else tuple(requirements))


def _requirement(check: Check, value: object, path: str) -> Requirement:
    fields = check.mapping(value, path, _REQUIREMENT)
    key = check.text(fields.get("key"), f"{path}.key")
    check.refuse(f"{path}.key", names.qualified_name(key))
    raw = check.sequence(fields.get("values"), f"{path}.values")
    values = [check.text(v, f"{path}.values[{i}]") for i, v in enumerate(raw)]
    for index, text in enumerate(values):
        check.refuse(f"{path}.values[{index}]", names.label_value(text))
    name = check.text(fields.get("operator"), f"{path}.operator")
    operator = _OPERATORS.get(name)
    if operator is None:
        check.add(f"{path}.operator", f"{name!r} is no operator; write In, NotIn, Exists or DoesNotExist")
        return Requirement(key, Operator.IN)
    if operator in (Operator.IN, Operator.NOT_IN):
        if not raw:
            check.add(f"{path}.values", f"empty with operator {name}; name at least one value")
    elif raw:
        check.add(f"{path}.values", f"not allowed with operator {name}; remove the values")
    return Requirement(key, operator, tuple(sorted(set(values))))


def _rule(check: Check, value: object, path: str, direction: str) -> Rule:
    known = _RULES[direction]
    fields = check.mapping(value, path, known)
    peers = check.sequence(fields.get(known[0]), f"{path}.{known[0]}")
    ports = check.sequence(fields.get("ports"), f"{path}.ports")
    return Rule(
        tuple(_peer(check, peer, f"{path}.{known[0]}[{i}]") for i, peer in enumerate(peers)),
        tuple(_port(check, port, f"{path}.ports[{i}]") for i, port in enumerate(ports)),
    )


def _peer(check: Check, value: object, path: str) -> Peer:
    if not check.strict and (plain := _plain_block(value)) is not None:
        return plain
    before = len(check.problems)
    fields = check.mapping(value, path, _PEER)
    pods, namespaces, block = map(fields.get, _PEER)
    if block is not None:
        if pods is not None or namespaces is not None:
            check.add(path, "ipBlock beside a selector; make two entries of the list of them")
        return _block(check, block, f"{path}.ipBlock")
    # Of a peer whose only field is unknown, that is what is said.
    if pods is None and namespaces is None and check.strict and len(check.problems) == before:
        check.add(path, "empty; name a podSelector, a namespaceSelector or an ipBlock, or remove the entry")
    return Peer(
        None if pods is None else read_selector(check, pods, f"{path}.podSelector"),
        None if namespaces is None else read_selector(check, namespaces, f"{path}.namespaceSelector"),
    )


def _plain_block(value: object) -> Peer | None:
    """Return a peer that is a block without excepts and nothing else; a policy may have thousands."""
    block = value.get("ipBlock") if isinstance(value, dict) and len(value) == 1 else None
    text = block.get("cidr") if isinstance(block, dict) and len(block) == 1 else None
    network = lenient_network(text) if isinstance(text, str) else None
    return None if network is None else Peer(block=IPBlock(network))


def _block(check: Check, value: object, path: str) -> Peer:
    fields = check.mapping(value, path, _BLOCK)
    cidr = _network(check, fields.get("cidr"), f"{path}.cidr")
    excepts = []
    for index, entry in enumerate(check.sequence(fields.get("except"), f"{path}.except")):
        inner = _network(check, entry, f"{path}.except[{index}]")
        if cidr is None or inner is None:
            continue
        if covers(cidr, inner) and cidr.prefix < inner.prefix:
            excepts.append(inner)
        elif check.strict:
            check.add(
                f"{path}.except[{index}]",
                f"{inner} is not strictly inside {cidr}; write a smaller block inside it, or remove it",
            )
        elif covers(inner, cidr):
            # Older API servers stored these; such a block allows no address at all.
            return Peer()
    return Peer() if cidr is None else Peer(block=IPBlock(cidr, tuple(sorted(set(excepts)))))


def _network(check: Check, value: object, path: str) -> Network | None:
    text = check.text(value, path)
    if not text:
        if value is None or value == "":
            check.add(path, "missing; write a block such as 10.9.8.0/24 or 2001:db8::/64")
        return None
    network = strict_network(text) if check.strict else lenient_network(text)
    if network is None:
        network = f"{text!r} is not a CIDR; write one such as 10.9.8.0/24 or 2001:db8::/64"
    if isinstance(network, str):
        check.add(path, network)
        return lenient_network(text)
    return network


def _port(check: Check, value: object, path: str) -> Port:
    fields = check.mapping(value, path, _PORT)
    protocol = read_protocol(check, fields.get("protocol"), f"{path}.protocol")
    port = fields.get("port")
    number_or_name: int | str | None = None
    if isinstance(port, str):
        number_or_name = port
        check.refuse(f"{path}.port", names.port_name(port))
    elif port is not None:
        number_or_name = read_port_number(check, port, f"{path}.port")
    end = check.integer(fields.get("endPort"), f"{path}.endPort")
    if end is not None:
        if port is None:
            check.add(f"{path}.endPort", f"{end} without port; name the range's first port in port")
        elif isinstance(port, str):
            check.add(f"{path}.endPort", f"{end} beside the named port {port!r}; remove endPort")
        elif wrong := names.port_number(end):
            check.add(f"{path}.endPort", wrong)
        elif isinstance(number_or_name, int) and end < number_or_name:
            check.add(f"{path}.endPort", f"{end} is less than port {number_or_name}; exchange the two")
    return Port(protocol, number_or_name, end)


def read_protocol(check: Check, value: object, path: str) -> Protocol:
    """Read a transport protocol; unset is TCP."""
    if value is None:
        return Protocol.TCP
    protocol = PROTOCOLS.get(value) if isinstance(value, str) else None
    if protocol is None:
        meant = value.upper() if isinstance(value, str) and value.upper() in PROTOCOLS else "TCP, UDP or SCTP"
        check.add(path, f"{value!r} is no protocol; write {meant}")
        return Protocol.TCP
    return protocol


def read_port_number(check: Check, value: object, path: str) -> int | None:
    """Read a port number from 1 to 65535."""
    number = check.integer(value, path)
    if number is not None and (wrong := names.port_number(number)):
        check.add(path, wrong)
        return None
    return number
