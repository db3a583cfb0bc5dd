"""What one policy shows by itself: lists, directions, entries that add nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any

from agent.kube.model import Operator, Peer, Port, Rule, Selector
from agent.lint.finding import Hit
from agent.lint.modes import no_mode
from agent.lint.scene import Policy, Scene, narrower
from agent.lint.spans import Span, span_of
from agent.net import Direction, Protocol

PEERS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
_DESCRIPTION = 1000
_TYPE = {Direction.INGRESS: "Ingress", Direction.EGRESS: "Egress"}
CURRENT = "networking.k8s.io/v1"
_DNS = 53


def rules_of(policy: Policy) -> Iterator[tuple[Direction, str, Rule]]:
    """Give each rule that has an effect, with its direction and path."""
    for direction in Direction:
        for index, rule in enumerate(policy.value.rules(direction) or ()):
            yield direction, f"spec.{direction}[{index}]", rule


def port_text(port: Port) -> str:
    """Return a port for people: ``TCP 8080``."""
    if port.port is None:
        return f"all of {port.protocol.name}"
    end = f"-{port.end}" if port.end is not None and port.end != port.port else ""
    return f"{port.protocol.name} {port.port}{end}"


def deprecated_version(policy: Policy, _: Scene) -> Iterator[Hit]:
    if policy.version != CURRENT:
        yield Hit(
            "apiVersion",
            f"{policy.version} is not served since Kubernetes 1.16",
            f"write {CURRENT}; --fix does",
        )


def type_missing(policy: Policy, _: Scene) -> Iterator[Hit]:
    for direction in policy.value.ignored:
        yield Hit(
            f"spec.{direction}",
            f"these rules have no effect: policyTypes does not name {_TYPE[direction]}",
            f"add {_TYPE[direction]} to policyTypes, or remove the rules",
        )


def egress_not_isolated(policy: Policy, _: Scene) -> Iterator[Hit]:
    spec = policy.spec
    if "egress" in spec and not spec["egress"] and policy.value.egress is None:
        absent = not spec.get("policyTypes")
        yield Hit(
            "spec.egress",
            "an empty list does not isolate egress: everything may be sent",
            "add policyTypes with Egress to deny all egress, or remove egress"
            if absent
            else "add Egress to policyTypes to deny all egress, or remove egress",
        )


def empty_list(policy: Policy, _: Scene) -> Iterator[Hit]:
    for direction, path, _rule in rules_of(policy):
        index = int(path.rpartition("[")[2][:-1])
        written = (policy.spec.get(direction.value) or [])[index]
        fields: Mapping[str, Any] = written if isinstance(written, dict) else {}
        for field in (PEERS[direction], "ports"):
            if field in fields and not fields[field]:
                what = "every peer" if field != "ports" else "every port"
                yield Hit(
                    f"{path}.{field}",
                    f"an empty list matches {what}, as if the field were absent",
                    f"name the {'ports' if field == 'ports' else 'peers'}, or remove the rule to allow none; "
                    f"to allow {what}, remove the field",
                )


def rule_covers_others(policy: Policy, _: Scene) -> Iterator[Hit]:
    for direction in Direction:
        rules = policy.value.rules(direction) or ()
        first = next((i for i, rule in enumerate(rules) if not rule.peers and not rule.ports), None)
        if first is not None and len(rules) > 1:
            yield Hit(
                f"spec.{direction}[{first}]",
                f"allows every peer on every port, so the other {direction} rules have no effect",
                "narrow this rule, or remove the others",
            )


def egress_without_dns(policy: Policy, scene: Scene) -> Iterator[Hit]:
    rules = policy.value.egress
    if not rules or _allows_dns(rules) or all(map(_needs_no_names, rules)):
        return
    selected = scene.selected(policy)
    for other in scene.beside[policy.key.namespace]:
        if not _allows_dns(other.value.egress or ()):
            continue
        also = scene.selected(other)
        if narrower(policy.value.pod_selector, other.value.pod_selector) or (
            selected and {pod.title for pod in selected} <= {pod.title for pod in also}
        ):
            return
    yield Hit(
        "spec.egress",
        "no policy here lets these pods ask DNS, so they find nothing by its name",
        "add a rule to the pods of the cluster's DNS on ports 53 of UDP and TCP",
    )


def _allows_dns(rules: tuple[Rule, ...]) -> bool:
    return any(not rule.ports or any(map(_is_dns, rule.ports)) for rule in rules)


def _is_dns(port: Port) -> bool:
    if port.protocol is not Protocol.UDP:
        return False
    if isinstance(port.port, str):
        return "dns" in port.port or port.port == "domain"
    return port.port is None or port.port <= _DNS <= (port.end or port.port)


def _needs_no_names(rule: Rule) -> bool:
    """Whether a rule is about single addresses only: who knows these needs no name."""
    return bool(rule.peers) and all(
        peer.block is not None and peer.block.cidr.prefix == 8 * len(peer.block.cidr.address)
        for peer in rule.peers
    )


def duplicate_port(policy: Policy, _: Scene) -> Iterator[Hit]:
    for _direction, path, rule in rules_of(policy):
        if len(rule.ports) < 2:
            continue
        spans = [*map(span_of, rule.ports)]
        first: dict[Span, int] = {}
        for index, span in enumerate(spans):
            first.setdefault(span, index)
        within = _within(first)
        for index, (port, span) in enumerate(zip(rule.ports, spans, strict=True)):
            outer = within.get(first[span])
            if outer is not None or first[span] != index:
                what = "twice" if outer is None else f"within {port_text(rule.ports[outer])}"
                yield Hit(f"{path}.ports[{index}]", f"{port_text(port)} is listed {what}", "remove it")


def _within(spans: Mapping[Span, int]) -> dict[int, int]:
    """Return whose spans lie within whose, each within that one which reaches furthest of those around it."""
    found: dict[int, int] = {}
    # Of two that begin at one place, the longer comes first, so what is around a span is always before it.
    furthest: Span | None = None
    for span in sorted(sorted(spans, key=lambda one: one.last, reverse=True), key=lambda one: one.first):
        if furthest is not None and furthest.last >= span.last:
            found[spans[span]] = spans[furthest]
        else:
            furthest = span
    return found


def duplicate_peer(policy: Policy, _: Scene) -> Iterator[Hit]:
    for direction, path, rule in rules_of(policy):
        seen: dict[Peer, int] = {}
        for index, peer in enumerate(rule.peers):
            before = seen.setdefault(peer, index)
            if before != index:
                field = PEERS[direction]
                yield Hit(
                    f"{path}.{field}[{index}]",
                    f"the same as {field}[{before}]",
                    "remove it, or correct one of the two",
                )


def duplicate_rule(policy: Policy, _: Scene) -> Iterator[Hit]:
    for direction in Direction:
        seen: dict[tuple[frozenset[Peer], frozenset[Port]], int] = {}
        for index, rule in enumerate(policy.value.rules(direction) or ()):
            before = seen.setdefault((frozenset(rule.peers), frozenset(rule.ports)), index)
            if before != index:
                yield Hit(
                    f"spec.{direction}[{index}]", f"says the same as {direction}[{before}]", "remove it"
                )


def split_peer(policy: Policy, _: Scene) -> Iterator[Hit]:
    for direction, path, rule in rules_of(policy):
        for index, (one, two) in enumerate(zip(rule.peers, rule.peers[1:], strict=False)):
            namespaces, pods = one.namespace_selector, two.pod_selector
            if namespaces is None or one.pod_selector is not None or two.namespace_selector is not None:
                continue
            if pods is not None and pods.requirements:
                whose = f"namespaces with {namespaces}" if namespaces.requirements else "every namespace"
                yield Hit(
                    f"{path}.{PEERS[direction]}[{index + 1}]",
                    f"a peer of its own beside the one before: all pods of {whose} are allowed, and pods "
                    f"with {pods} of namespace {policy.key.namespace}",
                    "to allow only such pods of those namespaces, remove the dash before podSelector",
                )


def contradiction(policy: Policy, _: Scene) -> Iterator[Hit]:
    for path, selector in _selectors(policy):
        if key := _contradicted(selector):
            yield Hit(
                path,
                f"no object can have labels that match: the requirements for {key} exclude each other",
                "keep one of them",
            )


def _selectors(policy: Policy) -> Iterator[tuple[str, Selector]]:
    yield "spec.podSelector", policy.value.pod_selector
    for direction, path, rule in rules_of(policy):
        for index, peer in enumerate(rule.peers):
            here = f"{path}.{PEERS[direction]}[{index}]"
            if peer.pod_selector is not None:
                yield f"{here}.podSelector", peer.pod_selector
            if peer.namespace_selector is not None:
                yield f"{here}.namespaceSelector", peer.namespace_selector


def _contradicted(selector: Selector) -> str:
    """Return the key whose requirements no label meets; "" when there is none."""
    if len(selector.requirements) < 2:
        return ""
    by_key: dict[str, list[tuple[Operator, set[str]]]] = {}
    for requirement in selector.requirements:
        by_key.setdefault(requirement.key, []).append((requirement.operator, set(requirement.values)))
    for key, mine in sorted(by_key.items(), key=itemgetter(0)):
        wanted = [values for operator, values in mine if operator is Operator.IN]
        unwanted = set[str]().union(*(values for operator, values in mine if operator is Operator.NOT_IN))
        operators = {operator for operator, _ in mine}
        if Operator.DOES_NOT_EXIST in operators and operators & {Operator.IN, Operator.EXISTS}:
            return key
        if wanted and not set.intersection(*wanted) - unwanted:
            return key
    return ""


def named_port_to_block(policy: Policy, _: Scene) -> Iterator[Hit]:
    for direction, path, rule in rules_of(policy):
        if direction is not Direction.EGRESS or not rule.peers:
            continue
        if all(peer.block is not None for peer in rule.peers):
            for index, port in enumerate(rule.ports):
                if isinstance(port.port, str):
                    yield Hit(
                        f"{path}.ports[{index}].port",
                        f"{port.port!r} never matches here: only pods have names for ports, not blocks",
                        "write the port's number",
                    )


def unknown_mode(policy: Policy, _: Scene) -> Iterator[Hit]:
    yield from no_mode(policy.value.staging, "the policy is")


def long_description(policy: Policy, _: Scene) -> Iterator[Hit]:
    annotations = policy.metadata.get("annotations")
    for key, text in (annotations if isinstance(annotations, dict) else {}).items():
        if key.rpartition("/")[2] == "description" and isinstance(text, str) and len(text) > _DESCRIPTION:
            yield Hit(
                f"metadata.annotations[{key}]",
                f"{len(text)} characters; consoles show and save no more than {_DESCRIPTION:,}",
                "shorten it, and link to the rest",
            )
