"""Ports of rules held against the ports that pods declare, and those of Services before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.kube.model import Port, Rule
from agent.lint.finding import Hit
from agent.lint.rules.shape import port_text, rules_of
from agent.lint.scene import DeclaredPort, Policy, Scene, SeenPod, SeenService, ServicePort
from agent.net import Direction, Protocol
from agent.words import some


def _asked(policy: Policy, scene: Scene) -> Iterator[tuple[str, Port, Sequence[SeenPod]]]:
    """Give each port that no pod declares which it is about, with these pods."""
    for direction, path, rule in rules_of(policy):
        targets = _targets(policy, scene, direction, rule)
        if not targets:
            continue
        declared = {one for pod in targets for one in pod.ports}
        met = {port for port in rule.ports if any(_fits(port, one) for one in declared)}
        # Ports are often declared for one protocol and serve two, as DNS does.
        numbers = {port._replace(protocol=Protocol.TCP) for port in met}
        for index, port in enumerate(rule.ports):
            if port.port is None or port in met or port._replace(protocol=Protocol.TCP) in numbers:
                continue
            yield f"{path}.ports[{index}].port", port, targets


def _targets(policy: Policy, scene: Scene, direction: Direction, rule: Rule) -> Sequence[SeenPod]:
    """Return the pods on which a rule's ports are; none where the input cannot tell all of them."""
    if direction is Direction.INGRESS:
        return scene.selected(policy)
    found: list[SeenPod] = []
    for peer in rule.peers:
        pods = None if peer.block is not None else scene.peer_pods(policy, peer)
        if not pods:
            return ()
        found += pods
    return found


def _fits(port: Port, declared: DeclaredPort) -> bool:
    if declared.protocol is not port.protocol:
        return False
    if isinstance(port.port, str):
        return declared.name == port.port
    return port.port is not None and port.port <= declared.number <= (port.end or port.port)


def service_port(policy: Policy, scene: Scene) -> Iterator[Hit]:
    for path, port, pods in _asked(policy, scene):
        found = _service(scene, port, pods)
        if found is not None:
            service, meant = found
            yield Hit(
                path,
                f"{port_text(port)} is a port of Service {service.key}, which leads to {meant.target} of its "
                "pods; policies are held against the pods' port",
                f"write {meant.target}",
            )


def _service(scene: Scene, port: Port, pods: Sequence[SeenPod]) -> tuple[SeenService, ServicePort] | None:
    """Return the Service whose port a rule has in place of the pods', if one is before these pods."""
    for namespace in dict.fromkeys(pod.key.namespace for pod in pods):
        for service in scene.services_of.get(namespace, ()):
            wanted = service.selector.items()
            behind = [p for p in pods if p.key.namespace == namespace and wanted <= p.labels.items()]
            if not (wanted and behind):
                continue
            for one in service.ports:
                asked = one.name if isinstance(port.port, str) else one.number
                if one.protocol is port.protocol and port.port == asked and one.target != port.port:
                    return service, one
    return None


def port_not_declared(policy: Policy, scene: Scene) -> Iterator[Hit]:
    for path, port, pods in _asked(policy, scene):
        if _service(scene, port, pods) is not None:
            continue
        # Containers may listen on ports that they do not declare, but have names only for those they do.
        if isinstance(port.port, int) and not all(pod.ports for pod in pods):
            continue
        declared = {_text(one) for pod in pods for one in pod.ports}
        other = {
            o.protocol.name for pod in pods for o in pod.ports if _fits(port._replace(protocol=o.protocol), o)
        }
        named = some({pod.title for pod in pods})
        yield Hit(
            path,
            f"{port_text(port)} is declared by none of the pods ({named})",
            f"they declare it for {some(other)}; write protocol: {min(other)}"
            if other
            else f"they declare {some(declared)}; write one of these, or declare the port in the container"
            if declared
            else "they declare no port; declare it in the container",
        )


def _text(port: DeclaredPort) -> str:
    name = f" ({port.name})" if port.name else ""
    return f"{port.protocol.name} {port.number}{name}"
