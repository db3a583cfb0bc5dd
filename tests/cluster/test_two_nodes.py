"""What holds between two nodes, each with its agent: whose policy is enforced where, moves, Services."""

from __future__ import annotations

import itertools

import pytest

from agent.net import Family, Protocol
from tests.cluster.scene import Scene, Way, pods, port, rule, to
from tests.lab import packets
from tests.lab.node import Pod
from tests.lab.place import Place
from tests.lab.service import Service, add_service, remove_service

_numbers = itertools.count(1)


def _arrivals(scene: Scene, source: Pod, destination: Pod, at: Place) -> int:
    """Return how many of two datagrams, one a family, from a pod to another arrive at a place."""
    with packets.sniff(at, b"here-i-am") as arrived:
        for family in Family:
            here, there = source.address(family), destination.address(family)
            packets.send_ip(source, packets.udp(here, there, 7777, b"here-i-am"))
        scene.lab.settle()
        return arrived.count()


def test_each_sides_policy_is_enforced_on_its_own_node(scene: Scene) -> None:
    namespace = scene.namespace("a")
    client = scene.pod(scene.near, namespace, "client", {"app": "client"})
    server = scene.pod(scene.far, namespace, "server", {"app": "server"})
    way, back = Way(client, server), Way(server, client)
    scene.are_open([way, back])
    assert _arrivals(scene, client, server, scene.far) == _arrivals(scene, client, server, server) == 2

    scene.policy(namespace, "in", pods(app="server"), policyTypes=["Ingress"])
    scene.expect(denied=[way], allowed=[back])
    assert _arrivals(scene, client, server, scene.far) == 2
    assert _arrivals(scene, client, server, server) == 0

    scene.policy(namespace, "out", pods(app="client"), policyTypes=["Egress"])
    scene.expect(denied=[way], allowed=[back])
    assert _arrivals(scene, client, server, scene.far) == 0

    scene.workspace.delete_policy(namespace, "in")
    scene.expect(denied=[way], allowed=[back])
    scene.policy(namespace, "in", pods(app="server"), ingress=[rule({"podSelector": pods(app="client")})])
    scene.expect(denied=[way], allowed=[back])
    scene.workspace.replace_policy(
        namespace, "out", pods(app="client"), policyTypes=["Egress"], egress=[to({"podSelector": {}})]
    )
    scene.expect(allowed=[way, back])


def test_a_pod_moves_between_nodes_and_its_address_is_used_again(scene: Scene) -> None:
    namespace = scene.namespace("a")
    clients = [
        scene.pod(node, namespace, f"{which}-{number}", {"app": which})
        for which in ("client", "stranger")
        for number, node in enumerate((scene.near, scene.far))
    ]
    client, stranger = clients[:2], clients[2:]
    guarded = scene.pod(scene.near, namespace, "guarded", {"app": "guarded"})
    web = scene.pod(scene.near, namespace, "web", {"app": "web"})
    scene.are_open([Way(one, other) for one in clients for other in (web, guarded)] + [Way(web, guarded)])
    scene.policy(namespace, "web", pods(app="web"), ingress=[rule({"podSelector": pods(app="client")})])
    scene.policy(namespace, "guarded", pods(app="guarded"), ingress=[rule({"podSelector": pods(app="web")})])

    def expect_of(pod: Pod) -> None:
        scene.expect(
            allowed=[*(Way(one, pod) for one in client), Way(pod, guarded)],
            denied=[*(Way(one, pod) for one in stranger), *(Way(one, guarded) for one in clients)],
        )

    expect_of(web)
    addresses = web.v4, web.v6
    scene.workspace.delete_pod(web)
    moved = scene.pod(scene.far, namespace, "web", {"app": "web"}, addresses=addresses)
    expect_of(moved)

    # The address goes to a pod that no policy selects, on the first node again: it is open, and no peer.
    scene.workspace.delete_pod(moved)
    other = scene.pod(scene.near, namespace, "other", {"app": "other"}, addresses=addresses)
    scene.expect(allowed=[Way(one, other) for one in clients], denied=[Way(other, guarded)])

    # And to one that is isolated again, on the other node.
    scene.workspace.delete_pod(other)
    again = scene.pod(scene.far, namespace, "web", {"app": "web"}, addresses=addresses)
    expect_of(again)


@pytest.mark.parametrize("protocol", list(Protocol), ids=lambda p: p.name.lower())
def test_a_service_address_limited_by_workload_label(scene: Scene, protocol: Protocol) -> None:
    namespace = scene.namespace("a")
    numbers = {"tcp": [80], "udp": [80], "sctp": [80]}
    servers = [
        scene.pod(node, namespace, f"server-{number}", {"app": "server"}, **numbers)
        for number, node in enumerate((scene.near, scene.far))
    ]
    friends, strangers = (
        [
            scene.pod(node, namespace, f"{which}-{number}", {"app": which})
            for number, node in enumerate((scene.near, scene.far))
        ]
        for which in ("friend", "stranger")
    )
    # One Service for each server: a Service of both would be right by luck.
    services = [Service(next(_numbers), protocol, 1080, 80, (server,)) for server in servers]
    nodes = (scene.near, scene.far)
    for node, service in itertools.product(nodes, services):
        add_service(node, service)

    def ways(clients: list[Pod]) -> list[Way]:
        return [Way(client, service, 1080, protocol) for client in clients for service in services]

    try:
        scene.are_open(ways(friends) + ways(strangers))
        friendly = rule({"podSelector": pods(app="friend")}, ports=[port(80, protocol.name)])
        scene.policy(namespace, "server", pods(app="server"), ingress=[friendly])
        scene.expect(allowed=ways(friends), denied=ways(strangers))
        # Egress is judged by the pod that the Service's address stands for, and its port.
        away = to({"podSelector": pods(app="server")}, ports=[port(80, protocol.name)])
        scene.policy(namespace, "friend", pods(app="friend"), policyTypes=["Egress"], egress=[away])
        scene.expect(allowed=ways(friends), denied=ways(strangers))
        elsewhere = to({"podSelector": pods(app="server")}, ports=[port(1080, protocol.name)])
        scene.workspace.replace_policy(
            namespace, "friend", pods(app="friend"), policyTypes=["Egress"], egress=[elsewhere]
        )
        scene.expect(denied=ways(friends) + ways(strangers))
    finally:
        for node, service in itertools.product(nodes, services):
            remove_service(node, service)
