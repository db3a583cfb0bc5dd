"""Objects, and whether a kube-apiserver's create accepts them.

The verdicts are a real server's (1.36.3, strict field validation); tests/cluster asks it again.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def policy(spec: Any, **metadata: Any) -> Json:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "a", "namespace": "default", **metadata},
        "spec": spec,
    }


def rule(**fields: Any) -> Json:
    return policy({"podSelector": {}, "ingress": [fields]})


def port(**fields: Any) -> Json:
    return rule(ports=[fields])


def block(cidr: Any, *excepts: Any) -> Json:
    return rule(**{"from": [{"ipBlock": {"cidr": cidr, **({"except": list(excepts)} if excepts else {})}}]})


def selector(**fields: Any) -> Json:
    return policy({"podSelector": fields})


def expression(**fields: Any) -> Json:
    return selector(matchExpressions=[fields])


def peer(**fields: Any) -> Json:
    return rule(**{"from": [fields]})


def types(value: Any) -> Json:
    return policy({"policyTypes": value})


def pod(spec: Any = None, **metadata: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", **metadata},
        "spec": {"containers": [{"name": "c", "image": "i"}], **(spec or {})},
    }


def container_ports(*ports: Json) -> Json:
    return pod({"containers": [{"name": "c", "image": "i", "ports": list(ports)}]})


def namespace(name: str, **metadata: Any) -> Json:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, **metadata}}


ACCEPTED: list[Json] = [
    policy({}),
    policy(None),
    policy({"podSelector": None}),
    policy({}, name="a.b"),
    policy({}, labels={"a": None}),
    policy({}, annotations={"UP/x": "any thing"}),
    policy({}, annotations={"A": "x"}),
    policy({"ingress": [None]}),
    port(),
    port(port=None),
    port(port=80),
    port(port="http"),
    port(protocol="SCTP"),
    port(port=80, endPort=80),
    port(port=80, endPort=None),
    block("10.0.0.0/8"),
    block("10.0.0.1/32"),
    block("fd00::/8"),
    block("FD00::/8"),
    block("fd00:0::/8"),
    block("00::/8"),
    block("::/0"),
    block("0.0.0.0/0"),
    block("::1.2.3.4/128"),
    block("10.0.0.0/8", "10.1.0.0/16"),
    rule(**{"from": None}),
    peer(podSelector={}, namespaceSelector={}),
    types(["Ingress", "Ingress"]),
    types([]),
    types(None),
    selector(matchLabels={"a": "b"}),
    selector(matchLabels={"a": ""}),
    selector(matchLabels={"a": None}),
    expression(key="a", operator="In", values=["x"]),
    expression(key="a", operator="In", values=[""]),
    expression(key="a", operator="In", values=[None]),
    expression(key="a", operator="NotIn", values=["x", "x"]),
    expression(key="a", operator="Exists", values=[]),
    expression(key="a", operator="DoesNotExist"),
    pod(),
    pod(creationTimestamp=None),
    pod({"initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}]}),
    container_ports({"containerPort": 80}),
    container_ports({"containerPort": 80, "protocol": ""}),
    container_ports({"containerPort": 80, "name": ""}),
    pod(
        {
            "containers": [
                {"name": "c", "image": "i", "ports": [{"name": "x", "containerPort": 1}]},
                {"name": "d", "image": "i", "ports": [{"name": "x", "containerPort": 2}]},
            ]
        }
    ),
    namespace("a"),
    namespace("a", labels={"kubernetes.io/metadata.name": "other"}),
    namespace("a", namespace="b"),
    {**namespace("a"), "spec": {"finalizers": ["kubernetes"]}},
]

REFUSED: list[Json] = [
    policy({}, name="A"),
    policy({}, name="x" * 254),
    policy({}, labels={"a": "b c"}),
    policy({}, labels={"a/b/c": "d"}),
    policy({}, labels={"-a": "d"}),
    policy({}, labels={"": "x"}),
    policy({}, labels={"A.b/c": "x"}),
    policy({}, annotations={"a b": "x"}),
    policy({}, bogus=1),
    policy({"ingress": {}}),
    port(port="80"),
    port(port=""),
    port(port=0),
    port(port=65536),
    port(port=-1),
    port(port=80.5),
    port(port=True),
    port(port="a--b"),
    port(port="-a"),
    port(port="abcdefghijklmnop"),
    port(port="HTTP"),
    port(protocol="tcp"),
    port(protocol="ICMP"),
    port(protocol=""),
    port(port=80, endPort=79),
    port(port=80, endPort=65536),
    port(endPort=80),
    port(port="http", endPort=80),
    port(port=80, endport=90),
    port(port=80, endPort="90"),
    block("10.0.0.1/8"),
    block("10.0.0.1"),
    block("010.0.0.0/8"),
    block("10.0.0.0/08"),
    block("10.0.0.0/+8"),
    block("::ffff:10.0.0.0/104"),
    block("::ffff:0:0/96"),
    block("fd00::1/8"),
    block("0.0.0.0/33"),
    block(""),
    block("a"),
    block("fe80::%eth0/64"),
    block("10.0.0.0/8\n"),
    block(" 10.0.0.0/8"),
    block("00000::/8"),
    block("1.2.3.4/"),
    block("10.0.0.0/8", "10.0.0.0/8"),
    block("10.0.0.0/8", "11.0.0.0/16"),
    block("10.0.0.0/8", "10.0.0.0/7"),
    block("10.0.0.0/8", "10.1.0.1/16"),
    block("10.0.0.0/8", "fd00::/64"),
    block("10.0.0.0/8", ""),
    block("::/0", "::ffff:10.0.0.0/104"),
    peer(),
    peer(podSelector={}, ipBlock={"cidr": "10.0.0.0/8"}),
    peer(podSelector=None),
    peer(ipBlock={}),
    peer(podSelector={"matchLabel": {"a": "b"}}),
    rule(**{"from": [None]}),
    rule(**{"from": {}}),
    rule(to=[]),
    rule(form=[]),
    types(["ingress"]),
    types(["Ingress", "Egress", "Ingress"]),
    types([""]),
    types([None]),
    types("Ingress"),
    selector(matchLabels={"a b": ""}),
    selector(matchLabels={"a": "b c"}),
    selector(matchLabels={"a": 1}),
    selector(matchLabels=[]),
    selector(matchExpressions=[None]),
    expression(key="a", operator="In"),
    expression(key="a", operator="In", values=[]),
    expression(key="a", operator="In", values=["x y"]),
    expression(key="a", operator="In", values=["x" * 64]),
    expression(key="a", operator="Exists", values=["x"]),
    expression(key="a", operator="Gt", values=["1"]),
    expression(key="a", operator="in", values=["1"]),
    expression(key="", operator="Exists"),
    expression(operator="Exists"),
    expression(key="a"),
    expression(key="a b", operator="Exists"),
    expression(key="a", operator="In", value=["x"]),
    pod(name="A"),
    pod({"nodeName": "N"}),
    pod({"hostNetwork": "yes"}),
    pod({"hostnetwork": True}),
    pod(labels={"a": True}),
    pod(creationTimestamp="x"),
    pod({"initContainers": [{"name": "s", "image": "i", "restartPolicy": "Nope"}]}),
    container_ports({}),
    container_ports({"containerPort": 0}),
    container_ports({"containerPort": 70000}),
    container_ports({"containerPort": "80"}),
    container_ports({"containerport": 80}),
    container_ports({"containerPort": 80, "name": "A"}),
    container_ports({"containerPort": 80, "protocol": "tcp"}),
    container_ports({"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}),
    container_ports(
        {"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a", "protocol": "UDP"}
    ),
    namespace("a.b"),
    namespace("A"),
    namespace("x" * 64),
    namespace("a", labels=[]),
    {**namespace("a"), "spec": {"bogus": 1}},
    {**namespace("a"), "bogus": 1},
]
