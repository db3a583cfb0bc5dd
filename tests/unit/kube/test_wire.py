"""What an API server sends becomes values, leniently, and one bad object takes no other with it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from agent.kube.events import UNKNOWN, Delete, Invalid, Origin, Upsert
from agent.kube.model import (
    IPBlock,
    Key,
    Kind,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Node,
    Operator,
    Peer,
    Pod,
    Port,
    Requirement,
    Selector,
)
from agent.kube.wire import Bookmark, Decoded, Status, Unreadable, decode_page
from agent.net import Direction, Protocol, address_text
from tests.lab.reading import decode_watch_line


def event(kind: Kind, data: Any) -> Any:
    decoded = decode_watch_line(kind, json.dumps({"type": "ADDED", "object": data}).encode())
    assert isinstance(decoded, Decoded)
    return decoded.event


def value(kind: Kind, data: Any) -> Any:
    found = event(kind, data)
    assert isinstance(found, Upsert), found
    return found.object


def decoded(**parts: Any) -> Pod:
    found = value(Kind.POD, {"metadata": {"name": "p", "namespace": "x"}, **parts})
    assert isinstance(found, Pod)
    return found


def policy(spec: Any) -> NetworkPolicy:
    found = value(Kind.POLICY, {"metadata": {"name": "p", "namespace": "x"}, "spec": spec})
    assert isinstance(found, NetworkPolicy)
    return found


def peers(*entries: Any) -> tuple[Peer, ...]:
    ingress = policy({"podSelector": {}, "ingress": [{"from": list(entries)}]}).ingress
    assert ingress is not None
    return ingress[0].peers


def test_a_pod_whole() -> None:
    assert value(
        Kind.POD,
        {
            "metadata": {
                "name": "p",
                "namespace": "x",
                "uid": "u",
                "labels": {"a": "b"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{"anything": {}}],
            },
            "spec": {"nodeName": "n", "hostNetwork": True, "containers": [{"name": "c"}]},
            "status": {"phase": "Failed", "podIP": "10.0.0.1", "startTime": "2026-01-01T00:00:01Z"},
        },
    ) == Pod(
        namespace="x",
        name="p",
        uid="u",
        labels={"a": "b"},
        node="n",
        addresses=(bytes([10, 0, 0, 1]),),
        host_network=True,
        finished=True,
        started="2026-01-01T00:00:01Z",
        created="2026-01-01T00:00:00Z",
    )


def owner(kind: str, name: str, *, controller: bool | None = True) -> Any:
    return {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": controller}


@pytest.mark.parametrize(
    ("owners", "workload"),
    [
        ([owner("ReplicaSet", "web-5d4f")], "Deployment/web"),
        ([owner("ReplicaSet", "web-other")], "ReplicaSet/web-other"),
        ([owner("Node", "n", controller=None), owner("StatefulSet", "db")], "StatefulSet/db"),
        ([owner("Node", "n", controller=False)], ""),
        ([], ""),
        (None, ""),
        ("x", ""),
        ([{"kind": 5, "controller": True}], ""),
    ],
)
def test_a_pod_knows_what_controls_it_and_junk_there_refuses_no_pod(owners: Any, workload: str) -> None:
    labels = {"pod-template-hash": "5d4f"}
    found = decoded(metadata={"name": "p", "namespace": "x", "labels": labels, "ownerReferences": owners})
    assert found.workload == workload


def test_a_pod_has_one_address_per_family_and_the_first_holds() -> None:
    ips = ["fd00::1", "10.0.0.1", "10.0.0.2", "fd00::2", "junk"]
    found = decoded(status={"podIP": "9.9.9.9", "podIPs": [{"ip": ip} for ip in ips]})
    assert found.addresses == (bytes.fromhex("fd" + "00" * 14 + "01"), bytes([10, 0, 0, 1]))


def test_the_unspecified_address_is_no_pods() -> None:
    assert decoded(status={"podIPs": [{"ip": "0.0.0.0"}, {"ip": "::"}]}).addresses == ()


def test_a_mapped_pod_address_is_ipv4() -> None:
    assert decoded(status={"podIP": "::ffff:10.0.0.1"}).addresses == (bytes([10, 0, 0, 1]),)


def test_named_ports_come_from_containers_then_sidecars_and_the_first_holds() -> None:
    def port(name: str, number: int, protocol: str | None = None) -> dict[str, Any]:
        return {"name": name, "containerPort": number, **({"protocol": protocol} if protocol else {})}

    found = decoded(
        spec={
            "initContainers": [
                {"ports": [port("init", 1)]},
                {"restartPolicy": "Always", "ports": [port("web", 2), port("side", 3)]},
            ],
            "containers": [
                {"ports": [port("web", 4), {"containerPort": 5}, port("web", 6, "UDP")]},
                {"ports": [port("web", 7), port("odd", 8, "ICMP")]},
                {},
            ],
        }
    )
    assert found.ports == (
        NamedPort("web", Protocol.TCP, 4),
        NamedPort("web", Protocol.UDP, 6),
        NamedPort("side", Protocol.TCP, 3),
    )


def test_equal_labels_and_ports_are_shared() -> None:
    parts: dict[str, Any] = {"spec": {"containers": [{"ports": [{"name": "a", "containerPort": 1}]}]}}
    metadata = {"namespace": "x", "labels": {"a": "b"}}
    first = value(Kind.POD, {"metadata": {**metadata, "name": "1"}, **parts})
    second = value(Kind.POD, {"metadata": {**metadata, "name": "2"}, **parts})
    assert first.labels is second.labels
    assert first.ports is second.ports


def test_a_namespace_with_the_old_annotation_is_isolated() -> None:
    annotation = {"net.beta.kubernetes.io/network-policy": '{"ingress":{"isolation":"DefaultDeny"}}'}
    found = value(Kind.NAMESPACE, {"metadata": {"name": "x", "labels": None, "annotations": annotation}})
    assert found == Namespace("x", {}, True)


def test_a_node_has_its_addresses_and_pod_ranges() -> None:
    addresses = [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"}]
    data = {"metadata": {"name": "n"}, "status": {"addresses": addresses}, "spec": {"podCIDR": "10.1.0.0/24"}}
    found = value(Kind.NODE, data)
    assert isinstance(found, Node)
    assert found.addresses == (bytes([10, 0, 0, 1]),)
    assert [str(n) for n in found.pod_cidrs] == ["10.1.0.0/24"]
    data["spec"] = {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]}
    assert [str(n) for n in value(Kind.NODE, data).pod_cidrs] == ["10.1.0.0/24", "fd00:1::/64"]


def test_a_node_has_the_addresses_that_its_tunnels_send_from() -> None:
    annotations = {
        "flannel.alpha.coreos.com/public-ip": "192.0.2.1",
        "flannel.alpha.coreos.com/public-ipv6": "2001:db8::1",
        "projectcalico.org/IPv4Address": "198.51.100.1/24",
        "projectcalico.org/IPv6Address": "not an address",
        "example.com/ip": "203.0.113.1",
    }
    status = {"addresses": [{"address": "10.0.0.1"}, {"address": "192.0.2.1"}]}
    found = value(Kind.NODE, {"metadata": {"name": "n", "annotations": annotations}, "status": status})
    assert isinstance(found, Node)
    assert list(map(address_text, found.addresses)) == [
        "10.0.0.1",
        "192.0.2.1",
        "2001:db8::1",
        "198.51.100.1",
    ]


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({}, (), None),
        ({"egress": []}, (), None),
        ({"egress": [{}]}, (), 1),
        ({"policyTypes": ["Egress"]}, None, ()),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, None, ()),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, (), None),
        ({"policyTypes": [], "egress": [{}]}, (), 1),
    ],
)
def test_policy_types_are_resolved(spec: Any, ingress: Any, egress: Any) -> None:
    found = policy(spec)
    assert found.ingress == ingress
    assert (len(found.egress) if found.egress else found.egress) == egress
    assert found.ignored == tuple(d for d in Direction if spec.get(d.value) and found.rules(d) is None)


def test_a_selector_is_in_normal_form() -> None:
    found = policy(
        {
            "podSelector": {
                "matchLabels": {"b": "1"},
                "matchExpressions": [
                    {"key": "b", "operator": "In", "values": ["1", "1"]},
                    {"key": "a", "operator": "NotIn", "values": ["y", "x"]},
                ],
            }
        }
    )
    assert found.pod_selector == Selector(
        (Requirement("a", Operator.NOT_IN, ("x", "y")), Requirement("b", Operator.IN, ("1",)))
    )


def test_ports_default_to_tcp() -> None:
    ports = [{}, {"port": "web"}, {"protocol": "UDP", "port": 5, "endPort": 9}]
    found = policy({"ingress": [{"ports": ports}]}).ingress
    assert found is not None
    assert found[0].ports == (Port(), Port(port="web"), Port(Protocol.UDP, 5, 9))


def test_a_peer_with_no_field_known_here_matches_nothing() -> None:
    assert peers({"somethingNew": {}}) == (Peer(),)


def test_stored_blocks_are_read_leniently() -> None:
    (found,) = peers({"ipBlock": {"cidr": "010.1.2.3/8", "except": ["10.1.0.9/16", "11.0.0.0/8"]}})
    assert found.block is not None
    assert str(found.block.cidr) == "10.0.0.0/8"
    assert [str(n) for n in found.block.excepts] == ["10.1.0.0/16"]
    assert isinstance(found.block, IPBlock)


def test_a_stored_block_that_excepts_all_of_itself_matches_nothing() -> None:
    assert peers({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}) == (Peer(),)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "x"}}]}]}, "cidr"),
        ({"podSelector": {}, "ingress": [{"ports": [{"protocol": "ICMP"}]}]}, "protocol"),
        ({"podSelector": {}, "policyTypes": ["Sideways"]}, "policyTypes[0]"),
        ({"podSelector": {}, "ingress": 5}, "ingress"),
    ],
)
def test_a_stored_policy_that_is_not_understood_is_invalid_and_closed(spec: Any, field: str) -> None:
    found = event(Kind.POLICY, {"metadata": {"name": "p", "namespace": "x"}, "spec": spec})
    assert isinstance(found, Invalid)
    assert found.key == Key("x", "p")
    assert [p.field.endswith(field) for p in found.problems] == [True]
    assert found.closed is not None
    assert found.closed.ingress == ()


def test_stored_names_and_labels_are_not_held_to_a_create() -> None:
    found = policy({"podSelector": {"matchLabels": {"a b": "c d"}}, "whatIsThis": 1})
    assert str(found.pod_selector) == "a b=c d"


def test_one_bad_object_takes_no_other_of_its_page() -> None:
    items = [
        {"metadata": {"name": "good", "namespace": "x", "resourceVersion": "1"}},
        {"metadata": {"name": "bad", "namespace": "x", "resourceVersion": "2"}, "spec": {"nodeName": 5}},
        {"metadata": {"name": 5}},
    ]
    meta = {"resourceVersion": "9", "continue": "more"}
    page = decode_page(Kind.POD, json.dumps({"metadata": meta, "items": items}).encode())
    assert [(i.key.name, type(i.event)) for i in page.items] == [("good", Upsert), ("bad", Invalid)]
    bad = page.items[1].event
    assert isinstance(bad, Invalid)
    assert bad.problems[0].field == "spec.nodeName"
    assert (page.resource_version, page.continuation, page.unreadable) == ("9", "more", 1)


def test_labels_that_are_no_strings_make_one_object_invalid() -> None:
    items = [{"metadata": {"name": "a", "labels": {"x": 1}}}, {"metadata": {"name": "b"}}]
    page = decode_page(Kind.NAMESPACE, json.dumps({"items": items}).encode())
    assert [type(i.event) for i in page.items] == [Invalid, Upsert]


def test_a_body_that_is_no_list_raises() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_page(Kind.POD, b"<html>")


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}', Bookmark("7")),
        (
            b'{"type":"DELETED","object":{"metadata":{"name":"p","namespace":"x","resourceVersion":"8"}}}',
            Decoded(Key("x", "p"), "8", Delete(Kind.POD, Key("x", "p"))),
        ),
    ],
)
def test_watch_lines(line: bytes, meaning: Any) -> None:
    assert decode_watch_line(Kind.POD, line) == meaning


def test_an_error_event_is_a_status() -> None:
    found = decode_watch_line(
        Kind.POD, b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}'
    )
    assert isinstance(found, Status)
    assert found.code == 410


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"type":"ADDED","object":{}}', b"\xff", b'{"type":1}'])
def test_a_line_that_is_no_event_is_said_to_be_none(line: bytes) -> None:
    assert isinstance(decode_watch_line(Kind.POD, line), Unreadable)


def managed(*entries: Any, event: str = "MODIFIED", **metadata: Any) -> Any:
    """Return the event of a policy's line of a watch, with these entries of managedFields."""
    meta = {"name": "p", "namespace": "x", "managedFields": list(entries), **metadata}
    line = json.dumps({"type": event, "object": {"metadata": meta, "spec": {"podSelector": {}}}})
    found = decode_watch_line(Kind.POLICY, line.encode())
    assert isinstance(found, Decoded)
    return found.event


def entry(manager: str, at: str, operation: str = "Update", **more: Any) -> Any:
    return {"manager": manager, "operation": operation, "time": at, "fieldsV1": {"f:spec": {}}, **more}


def test_who_wrote_last_is_told_with_an_object() -> None:
    found = managed(
        entry("helm", "2026-01-01T00:00:00Z"),
        entry("kubectl", "2026-01-01T00:00:02Z", "Apply"),
        entry("flux", "2026-01-01T00:00:01Z"),
    )
    assert found.origin == Origin("kubectl", "Apply", "2026-01-01T00:00:02Z")


def test_of_two_within_a_second_the_one_counts_that_wrote_more_than_a_status() -> None:
    status = entry("kubelet", "2026-01-01T00:00:02Z", subresource="status")
    found = managed(status, entry("kubectl-label", "2026-01-01T00:00:02Z"), status)
    assert found.origin.manager == "kubectl-label"


@pytest.mark.parametrize("junk", [{"manager": 5}, None, [], "x", {"manager": "m", "time": {}}])
def test_what_cannot_be_read_of_who_wrote_refuses_no_object(junk: Any) -> None:
    found = managed(junk)
    assert isinstance(found, Upsert)
    assert found.origin == UNKNOWN


def test_an_object_that_is_gone_says_when_it_was_to_be_gone_if_it_knows() -> None:
    gone = managed(
        entry("helm", "2026-01-01T00:00:00Z"), event="DELETED", deletionTimestamp="2026-01-02T00:00:00Z"
    )
    assert gone == Delete(Kind.POLICY, Key("x", "p"), Origin(at="2026-01-02T00:00:00Z"))
    assert managed(event="DELETED").origin == UNKNOWN
    assert managed(event="DELETED", deletionTimestamp=7).origin == UNKNOWN


def test_of_a_list_who_wrote_is_told_of_policies_and_not_of_all_pods() -> None:
    for kind, told in ((Kind.POLICY, True), (Kind.POD, False)):
        meta = {"name": "p", "namespace": "x", "managedFields": [entry("helm", "2026-01-01T00:00:00Z")]}
        page = decode_page(kind, json.dumps({"items": [{"metadata": meta}]}).encode())
        (found,) = page.items
        assert isinstance(found.event, Upsert)
        assert (found.event.origin.manager == "helm") is told
