"""The features of NetworkPolicy, one test each, from the API server to real packets, in both families.

Each runs in both layouts and both iptables modes. Every test has a server and a client beside it on one
node, and clients on the other, so that each verdict is seen on a packet within a node and on one between
nodes. ``tests/conformance`` runs the same on any cluster.
"""

from __future__ import annotations

from tests.cluster.scene import (
    End,
    Stage,
    Way,
    around,
    block,
    host,
    pods,
    port,
    rule,
    spanning,
    to,
    where,
)
from tests.lab.client import Json

INGRESS: Json = {"policyTypes": ["Ingress"]}
EGRESS: Json = {"policyTypes": ["Egress"]}
SERVER = pods(pod="server")


class Cast:
    """Namespace ``a``: a server, clients a and b; namespace ``b``: the same. All are open to each other."""

    def __init__(self, scene: Stage) -> None:
        self.a = scene.namespace("a", {"ns": "a"})
        self.b = scene.namespace("b", {"ns": "b"})
        near, far = scene.near, scene.far
        named = [("serve-80", "TCP", 80), ("serve-81", "TCP", 81)]
        both = {"tcp": (80, 81), "ports": named}
        self.server: End = scene.pod(near, self.a, "server", {"pod": "server"}, **both)
        self.a_client_a: End = scene.pod(near, self.a, "client-a", {"pod": "client-a"})
        self.a_client_b: End = scene.pod(far, self.a, "client-b", {"pod": "client-b"})
        self.b_server: End = scene.pod(far, self.b, "server", {"pod": "server"}, **both)
        self.b_client_a: End = scene.pod(far, self.b, "client-a", {"pod": "client-a"})
        self.b_client_b: End = scene.pod(near, self.b, "client-b", {"pod": "client-b"})
        servers = (self.server, self.b_server)
        self.everyone = (self.a_client_a, self.a_client_b, self.b_client_a, self.b_client_b, *servers)
        scene.are_open(
            [Way(one, other) for one in self.everyone for other in self.everyone if one is not other]
            + [Way(one, other, 81) for one in self.everyone for other in servers if one is not other]
        )

    def to_server(self, *clients: End, port: int = 80) -> list[Way]:
        return [Way(client, self.server, port) for client in clients]

    def others(self, *clients: End, port: int = 80) -> list[Way]:
        """Return the ways to the server of everyone but these."""
        rest = [one for one in self.everyone if one not in clients and one is not self.server]
        return self.to_server(*rest, port=port)


def test_default_deny(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(cast.a, "default-deny", **INGRESS)
    inside = [p for p in cast.everyone if p.name.startswith(cast.a)]
    outside = [p for p in cast.everyone if p not in inside]
    scene.expect(
        denied=[Way(one, other) for one in cast.everyone for other in inside if one is not other],
        allowed=[Way(one, other) for one in cast.everyone for other in outside if one is not other],
    )


def test_traffic_from_pods_within_the_servers_namespace_by_pod_selector(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(
        cast.a, "allow-client-a", SERVER, **INGRESS, ingress=[rule({"podSelector": pods(pod="client-a")})]
    )
    scene.expect(allowed=cast.to_server(cast.a_client_a), denied=cast.others(cast.a_client_a))


def test_only_from_a_different_namespace_by_namespace_selector(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(cast.a, "allow-b", SERVER, ingress=[rule({"namespaceSelector": pods(ns="b")})])
    allowed = (cast.b_client_a, cast.b_client_b, cast.b_server)
    scene.expect(allowed=cast.to_server(*allowed), denied=cast.others(*allowed))


def test_pod_selector_with_match_expressions(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(
        cast.a, "in", SERVER, ingress=[rule({"podSelector": where("pod", "In", "client-a", "nobody")})]
    )
    scene.expect(allowed=cast.to_server(cast.a_client_a), denied=cast.others(cast.a_client_a))
    not_in = rule({"podSelector": where("pod", "NotIn", "client-a")})
    scene.replace_policy(cast.a, "in", SERVER, ingress=[not_in])
    scene.expect(allowed=cast.to_server(cast.a_client_b), denied=cast.others(cast.a_client_b))
    absent = rule({"podSelector": where("role", "DoesNotExist")})
    scene.replace_policy(cast.a, "in", where("pod", "Exists"), ingress=[absent])
    inside = (cast.a_client_a, cast.a_client_b)
    scene.expect(allowed=cast.to_server(*inside), denied=cast.others(*inside))


def test_namespace_selector_with_match_expressions(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(
        cast.a, "in", SERVER, ingress=[rule({"namespaceSelector": where("ns", "In", "b", "nowhere")})]
    )
    inside, outside = (cast.a_client_a, cast.a_client_b), (cast.b_client_a, cast.b_client_b, cast.b_server)
    scene.expect(allowed=cast.to_server(*outside), denied=cast.others(*outside))
    not_in = rule({"namespaceSelector": where("ns", "NotIn", "b")})
    scene.replace_policy(cast.a, "in", SERVER, ingress=[not_in])
    scene.expect(allowed=cast.to_server(*inside), denied=cast.others(*inside))


def test_pod_selector_or_namespace_selector(scene: Stage) -> None:
    cast = Cast(scene)
    either = rule({"podSelector": pods(pod="client-b")}, {"namespaceSelector": pods(ns="b")})
    scene.policy(cast.a, "either", SERVER, ingress=[either])
    scene.expect(denied=cast.to_server(cast.a_client_a), allowed=cast.others(cast.a_client_a))


def test_pod_selector_and_namespace_selector(scene: Stage) -> None:
    cast = Cast(scene)
    both = {"podSelector": pods(pod="client-b"), "namespaceSelector": pods(ns="b")}
    scene.policy(cast.a, "both", SERVER, ingress=[rule(both)])
    scene.expect(allowed=cast.to_server(cast.b_client_b), denied=cast.others(cast.b_client_b))


def test_only_from_a_pod_in_a_different_namespace_by_both(scene: Stage) -> None:
    cast = Cast(scene)
    both = {
        "podSelector": where("pod", "NotIn", "client-b", "server"),
        "namespaceSelector": where("ns", "NotIn", "a"),
    }
    # namespaces without the label are selected as well, but hold no pods here
    scene.policy(cast.a, "both", SERVER, ingress=[rule(both)])
    scene.expect(allowed=cast.to_server(cast.b_client_a), denied=cast.others(cast.b_client_a))


def test_ports(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(cast.a, "only-81", SERVER, ingress=[rule(ports=[port(81)])])
    scene.expect(allowed=cast.others(port=81), denied=cast.others(port=80))


def test_multiple_stacked_policies_with_overlapping_pod_selectors(scene: Stage) -> None:
    cast = Cast(scene)
    a, b = {"podSelector": pods(pod="client-a")}, {"podSelector": pods(pod="client-b")}
    scene.policy(cast.a, "a-80", SERVER, ingress=[rule(a, ports=[port(80)])])
    scene.policy(
        cast.a, "b-81", where("pod", "In", "server", "client-a"), ingress=[rule(b, ports=[port(81)])]
    )
    scene.expect(
        allowed=cast.to_server(cast.a_client_a) + cast.to_server(cast.a_client_b, port=81),
        denied=cast.others(cast.a_client_a) + cast.others(cast.a_client_b, port=81),
    )
    scene.policy(cast.a, "all-81", ingress=[rule({"podSelector": {}}, ports=[port(81)])])
    inside = (cast.a_client_a, cast.a_client_b)
    scene.expect(
        allowed=cast.to_server(cast.a_client_a) + cast.to_server(*inside, port=81),
        denied=cast.others(cast.a_client_a) + cast.others(*inside, port=81),
    )


def test_allow_all(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(cast.a, "deny", **INGRESS)
    scene.expect(denied=cast.others())
    scene.policy(cast.a, "allow-all", ingress=[{}])
    scene.expect(allowed=cast.others() + cast.others(port=81))


def test_ingress_on_one_named_port(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(cast.a, "named", SERVER, ingress=[rule(ports=[port("serve-81")])])
    scene.expect(allowed=cast.others(port=81), denied=cast.others(port=80))
    scene.replace_policy(cast.a, "named", SERVER, ingress=[rule(ports=[port("nobody-has-it")])])
    scene.expect(denied=cast.others(port=80) + cast.others(port=81))


def test_ingress_from_a_namespace_on_one_named_port(scene: Stage) -> None:
    cast = Cast(scene)
    from_b = rule({"namespaceSelector": pods(ns="b")}, ports=[port("serve-80")])
    scene.policy(cast.a, "named", SERVER, ingress=[from_b])
    outside = (cast.b_client_a, cast.b_client_b, cast.b_server)
    scene.expect(allowed=cast.to_server(*outside), denied=cast.others(*outside) + cast.others(port=81))


def test_egress_on_one_named_port(scene: Stage) -> None:
    cast = Cast(scene)
    client = pods(pod="client-a")
    scene.policy(cast.a, "named", client, **EGRESS, egress=[to(ports=[port("serve-80")])])
    servers = (cast.server, cast.b_server)
    scene.expect(
        allowed=[Way(cast.a_client_a, server) for server in servers]
        + cast.to_server(cast.a_client_b, port=81),
        denied=[Way(cast.a_client_a, server, 81) for server in servers]
        + [Way(cast.a_client_a, cast.b_client_b)],
    )
    named = to({"namespaceSelector": pods(ns="b")}, ports=[port("serve-81")])
    scene.replace_policy(cast.a, "named", client, **EGRESS, egress=[named])
    scene.expect(
        allowed=[Way(cast.a_client_a, cast.b_server, 81)],
        denied=[Way(cast.a_client_a, cast.b_server), *cast.to_server(cast.a_client_a, port=81)],
    )


def test_updated_policy(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(cast.a, "one", SERVER, ingress=[rule({"podSelector": pods(pod="client-a")})])
    scene.expect(allowed=cast.to_server(cast.a_client_a), denied=cast.others(cast.a_client_a))
    scene.replace_policy(cast.a, "one", SERVER, ingress=[rule({"podSelector": pods(pod="client-b")})])
    scene.expect(allowed=cast.to_server(cast.a_client_b), denied=cast.others(cast.a_client_b))
    scene.replace_policy(
        cast.a, "one", pods(pod="client-a"), ingress=[rule({"podSelector": pods(pod="client-b")})]
    )
    scene.expect(
        allowed=[*cast.others(), Way(cast.a_client_b, cast.a_client_a)],
        denied=[Way(cast.server, cast.a_client_a)],
    )


def test_updated_namespace(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(cast.a, "from-c", SERVER, ingress=[rule({"namespaceSelector": pods(ns="c")})])
    outside = (cast.b_client_a, cast.b_client_b, cast.b_server)
    scene.expect(denied=cast.others())
    scene.label_namespace(cast.b, {"ns": "c"})
    scene.expect(allowed=cast.to_server(*outside), denied=cast.others(*outside))
    scene.label_namespace(cast.b, {"ns": None})
    scene.expect(denied=cast.others())


def test_updated_pod_allowed(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(cast.a, "from-new", SERVER, ingress=[rule({"podSelector": pods(role="new")})])
    scene.expect(denied=cast.others())
    for client in (cast.a_client_a, cast.a_client_b):
        scene.label(client, {"role": "new"})
    inside = (cast.a_client_a, cast.a_client_b)
    scene.expect(allowed=cast.to_server(*inside), denied=cast.others(*inside))


def test_updated_pod_denied(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(cast.a, "not-bad", SERVER, ingress=[rule({"podSelector": where("bad", "DoesNotExist")})])
    inside = (cast.a_client_a, cast.a_client_b)
    scene.expect(allowed=cast.to_server(*inside), denied=cast.others(*inside))
    for client in inside:
        scene.label(client, {"bad": "yes"})
    scene.expect(denied=cast.others())


def test_egress_to_a_server_in_a_different_namespace_by_both_selectors(scene: Stage) -> None:
    cast = Cast(scene)
    both = {"podSelector": SERVER, "namespaceSelector": pods(ns="b")}
    scene.policy(cast.a, "to-b", pods(pod="client-a"), **EGRESS, egress=[to(both, ports=[port(80)])])
    client = cast.a_client_a
    scene.expect(
        allowed=[Way(client, cast.b_server), Way(cast.a_client_b, cast.server)],
        denied=[
            Way(client, cast.b_server, 81),
            Way(client, cast.server),
            Way(client, cast.b_client_a),
            Way(client, cast.b_client_b),
            Way(client, cast.a_client_b),
        ],
    )


def test_multiple_ingress_policies_with_allow_all_taking_precedence(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(cast.a, "from-b", SERVER, ingress=[rule({"podSelector": pods(pod="client-b")})])
    scene.expect(allowed=cast.to_server(cast.a_client_b), denied=cast.others(cast.a_client_b))
    scene.policy(cast.a, "all", SERVER, ingress=[{}])
    scene.expect(allowed=cast.others() + cast.others(port=81))


def test_multiple_egress_policies_with_allow_all_taking_precedence(scene: Stage) -> None:
    cast = Cast(scene)
    client = cast.a_client_a
    only = to({"podSelector": pods(pod="client-b")})
    scene.policy(cast.a, "to-b", pods(pod="client-a"), **EGRESS, egress=[only])
    servers = [Way(client, cast.server), Way(client, cast.b_server)]
    scene.expect(allowed=[Way(client, cast.a_client_b)], denied=servers)
    scene.policy(cast.a, "all", pods(pod="client-a"), **EGRESS, egress=[{}])
    scene.expect(allowed=[Way(client, cast.a_client_b), *servers])


def test_policies_stop_after_deletion(scene: Stage) -> None:
    cast = Cast(scene)
    scene.policy(cast.a, "deny-in", **INGRESS)
    scene.policy(cast.a, "deny-out", pods(pod="client-a"), **EGRESS)
    away = Way(cast.a_client_a, cast.b_server)
    scene.expect(denied=[*cast.others(), away])
    scene.delete_policy(cast.a, "deny-in")
    inside = cast.to_server(cast.a_client_a)
    scene.expect(denied=[*inside, away], allowed=cast.others(cast.a_client_a))
    scene.delete_policy(cast.a, "deny-out")
    scene.expect(allowed=[*cast.others(), away])


def test_egress_to_a_cidr_block(scene: Stage) -> None:
    cast = Cast(scene)
    client = cast.a_client_a
    outside = scene.outside()
    scene.are_open([Way(client, outside)])
    scene.policy(cast.a, "one", pods(pod="client-a"), **EGRESS, egress=[to(*scene.hosts(cast.server))])
    others = [Way(client, other) for other in (cast.a_client_b, cast.b_server, outside)]
    scene.expect(allowed=cast.to_server(client), denied=others)
    wide = [block(around(family, outside, cast.everyone)) for family in scene.families]
    scene.replace_policy(cast.a, "one", pods(pod="client-a"), **EGRESS, egress=[to(*wide)])
    scene.expect(
        allowed=[Way(client, outside)],
        denied=[*cast.to_server(client), *others[:2]],
    )


def test_the_except_clause(scene: Stage) -> None:
    cast = Cast(scene)
    client = cast.a_client_a
    excepting = [
        block(spanning(family, *cast.everyone), host(cast.server, family)) for family in scene.families
    ]
    scene.policy(cast.a, "most", pods(pod="client-a"), **EGRESS, egress=[to(*excepting)])
    others = [Way(client, other) for other in (cast.a_client_b, cast.b_server, cast.b_client_b)]
    scene.expect(allowed=others, denied=cast.to_server(client))
    # What one block excepts and another covers is allowed.
    scene.policy(cast.a, "it", pods(pod="client-a"), **EGRESS, egress=[to(*scene.hosts(cast.server))])
    scene.expect(allowed=[*others, *cast.to_server(client)])


def test_ingress_and_egress_controlled_independently(scene: Stage) -> None:
    cast = Cast(scene)
    subject = pods(pod="client-a")
    inwards = [Way(other, cast.a_client_a) for other in (cast.a_client_b, cast.b_client_b, cast.server)]
    outwards = [Way(cast.a_client_a, other) for other in (cast.server, cast.a_client_b, cast.b_server)]
    scene.policy(cast.a, "in", subject, **INGRESS)
    scene.expect(denied=inwards, allowed=outwards)
    scene.policy(cast.a, "out", subject, **EGRESS)
    scene.expect(denied=inwards + outwards)
    scene.delete_policy(cast.a, "in")
    scene.expect(allowed=inwards, denied=outwards)
    # What the server's ingress allows does not answer for the client's egress, nor the other way round.
    scene.policy(cast.a, "server", SERVER, ingress=[rule({"podSelector": subject})])
    scene.expect(denied=[*outwards, *cast.to_server(cast.a_client_b)])
    only_server = to({"podSelector": SERVER})
    scene.replace_policy(cast.a, "out", subject, **EGRESS, egress=[only_server])
    scene.expect(
        allowed=cast.to_server(cast.a_client_a), denied=[*outwards[1:], *cast.others(cast.a_client_a)]
    )
