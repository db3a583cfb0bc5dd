"""Ports of rules held against the ports that pods declare, and those of Services before them."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from agent.kube.model import Port, Rule
from agent.lint.finding import Hit
from agent.lint.rules.shape import port_text, rules_of
from agent.lint.scene import DeclaredPort, Policy, Scene, SeenPod, SeenService, ServicePort
from agent.net import Direction, Protocol
from agent.words import some


class _Targets:
    """The pods that a rule's ports are on. What they declare is put together once, for thousands of ports."""

    def __init__(self, pods: Sequence[SeenPod], scene: Scene) -> None:
        self._pods = pods
        self._scene = scene
        declared = {one for pod in pods for one in pod.ports}
        self._names = {(one.protocol, one.name) for one in declared}
        self._numbers = {
            protocol: sorted({one.number for one in declared if one.protocol is protocol})
            for protocol in Protocol
        }
        self.declared = {_text(one) for one in declared}

    def declare(self, port: Port) -> bool:
        """Whether one of them declares a port, or one of a range."""
        if isinstance(port.port, str):
            return (port.protocol, port.port) in self._names
        if port.port is None:
            return False
        numbers = self._numbers[port.protocol]
        at = bisect_left(numbers, port.port)
        return at < len(numbers) and numbers[at] <= (port.end or port.port)

    @functools.cached_property
    def all_declare_some(self) -> bool:
        return all(pod.ports for pod in self._pods)

    @functools.cached_property
    def named(self) -> str:
        return some({pod.title for pod in self._pods})

    @functools.cached_property
    def _services(self) -> dict[tuple[Protocol, int | str], tuple[SeenService, ServicePort]]:
        """The Services before these pods, by the port that a client asks for: its number or its name."""
        found: dict[tuple[Protocol, int | str], tuple[SeenService, ServicePort]] = {}
        for namespace in dict.fromkeys(pod.key.namespace for pod in self._pods):
            here = [pod for pod in self._pods if pod.key.namespace == namespace]
            for service in self._scene.services_of.get(namespace, ()):
                wanted = service.selector.items()
                if not (wanted and any(wanted <= pod.labels.items() for pod in here)):
                    continue
                for one in service.ports:
                    for asked in (one.number, one.name):
                        if one.target != asked:
                            found.setdefault((one.protocol, asked), (service, one))
        return found

    def service(self, port: Port) -> tuple[SeenService, ServicePort] | None:
        """Return the Service whose port a rule has in place of the pods', if one is before these pods."""
        return None if port.port is None else self._services.get((port.protocol, port.port))


def _asked(policy: Policy, scene: Scene) -> Iterator[tuple[str, Port, _Targets]]:
    """Give each port that no pod declares which it is about, with these pods."""
    for direction, path, rule in rules_of(policy):
        pods = _targets(policy, scene, direction, rule) if rule.ports else ()
        if not pods:
            continue
        targets = _Targets(pods, scene)
        met = {port for port in rule.ports if targets.declare(port)}
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


def service_port(policy: Policy, scene: Scene) -> Iterator[Hit]:
    for path, port, targets in _asked(policy, scene):
        if (found := targets.service(port)) is not None:
            service, meant = found
            yield Hit(
                path,
                f"{port_text(port)} is a port of Service {service.key}, which leads to {meant.target} of its "
                "pods; policies are held against the pods' port",
                f"write {meant.target}",
            )


def port_not_declared(policy: Policy, scene: Scene) -> Iterator[Hit]:
    for path, port, targets in _asked(policy, scene):
        if targets.service(port) is not None:
            continue
        # Containers may listen on ports that they do not declare, but have names only for those they do.
        if isinstance(port.port, int) and not targets.all_declare_some:
            continue
        other = {one.name for one in Protocol if targets.declare(port._replace(protocol=one))}
        yield Hit(
            path,
            f"{port_text(port)} is declared by none of the pods ({targets.named})",
            f"they declare it for {some(other)}; write protocol: {min(other)}"
            if other
            else f"they declare {some(targets.declared)}; write one of these, or declare the port in the "
            "container"
            if targets.declared
            else "they declare no port; declare it in the container",
        )


def _text(port: DeclaredPort) -> str:
    name = f" ({port.name})" if port.name else ""
    return f"{port.protocol.name} {port.number}{name}"
