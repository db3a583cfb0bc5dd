"""What is no pod, no port or no address, and what ``explain`` says to ask about instead."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from agent.commands import cli
from tests.docs import ROOT

EXAMPLES = ROOT / "examples"

WORKLOADS = """
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata:
    {name: web-7d9f-abcde, namespace: shop, labels: {app: web, pod-template-hash: 7d9f},
     ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-7d9f, controller: true}]}
  status: {podIP: 10.9.0.1}
- apiVersion: v1
  kind: Pod
  metadata:
    {name: web-7d9f-xyzzy, namespace: shop, labels: {app: web, pod-template-hash: 7d9f},
     ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-7d9f, controller: true}]}
  status: {podIP: 10.9.0.2}
- apiVersion: v1
  kind: Pod
  metadata:
    {name: db-0, namespace: shop, labels: {app: db},
     ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: db, controller: true}]}
  spec:
    containers:
    - {name: c, ports: [{name: postgres, containerPort: 5432}, {name: http, containerPort: 80}]}
  status: {podIP: 10.9.0.3}
- apiVersion: v1
  kind: Service
  metadata: {name: database, namespace: shop}
  spec: {clusterIP: 10.96.7.7, clusterIPs: [10.96.7.7, 'fd00:96::7'], selector: {app: db}}
- apiVersion: v1
  kind: Service
  metadata: {name: outside, namespace: shop}
  spec: {clusterIP: 10.96.7.8}
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: web, namespace: shop}
- apiVersion: v1
  kind: Service
  metadata: {name: mixed, namespace: prod}
  spec: {clusterIP: 10.96.7.9, selector: {app: mixed}}
- apiVersion: v1
  kind: Pod
  metadata: {name: good, namespace: prod, labels: {app: mixed}}
  status: {podIP: 10.9.1.1}
- apiVersion: v1
  kind: Pod
  metadata: {name: not-yet, namespace: prod, labels: {app: mixed}}
- apiVersion: v1
  kind: Pod
  metadata: {name: on-host, namespace: prod, labels: {app: mixed, on: host}}
  spec: {hostNetwork: true}
  status: {podIP: 10.1.1.1}
- apiVersion: v1
  kind: Pod
  metadata: {name: over, namespace: prod, labels: {app: mixed}}
  status: {podIP: 10.9.1.2, phase: Succeeded}
- apiVersion: v1
  kind: Service
  metadata: {name: host, namespace: prod}
  spec: {clusterIP: 10.96.7.10, selector: {on: host}}
- apiVersion: v1
  kind: Node
  metadata: {name: worker-1}
  status: {addresses: [{type: InternalIP, address: 10.1.1.1}, {type: InternalIP, address: 'fd01::1'}]}
"""

RANGES = {
    "ServiceCIDR kubernetes": """
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/12, 'fd00:96::/112']}
""",
    "--service-cluster-ip-range of Pod kube-system/kube-apiserver-n": """
apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver-n, namespace: kube-system}
spec:
  hostNetwork: true
  containers:
  - {name: a, command: [kube-apiserver, '--service-cluster-ip-range=10.96.0.0/12,fd00:96::/112']}
""",
    "ConfigMap kube-system/kubeadm-config": """
apiVersion: v1
kind: ConfigMap
metadata: {name: kubeadm-config, namespace: kube-system}
data:
  ClusterConfiguration: |
    networking:
      podSubnet: 10.9.0.0/16
      serviceSubnet: 10.96.0.0/12,fd00:96::/112
""",
}


def explain(*arguments: str, stdin: str = "") -> Result:
    places = [] if "--manifests" in arguments else ["--manifests", "-"]
    return CliRunner().invoke(cli.main, ["explain", *arguments, *places], input=stdin)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            "deployment/web",
            "policies judge pods, not Deployment web; ask about a pod of it: shop/web-7d9f-a",
        ),
        ("deploy/web", "shop/web-7d9f-abcde, shop/web-7d9f-xyzzy"),
        ("shop/deployments.apps/web", "a pod of it: shop/web-7d9f-abcde, shop/web-7d9f-xyzzy"),
        ("rs/web-7d9f", "policies judge pods, not ReplicaSet web-7d9f; ask about a pod of it: shop/web-"),
        ("sts/db", "ask about the pod of it: shop/db-0"),
        ("other/sts/db", "ask about a pod of it, as namespace/pod"),
        ("pod/db-0", "write it as namespace/pod: shop/db-0"),
        (
            "deployment.apps/web",
            "policies judge pods, not Deployment web; ask about a pod of it: shop/",
        ),
        (
            "Deployment/web",
            "policies judge pods, not Deployment web; ask about a pod of it: shop/web-7d9f-a",
        ),
        ("deployment/shop/web", "policies judge pods, not Deployment web; ask about a pod of it: shop/web-"),
        ("deploy/wbe", "there is no pod of Deployment wbe in the manifests; did you mean web?"),
        ("svc/databse", "there is no Service databse in the manifests; did you mean database?"),
        ("svc/nothing-like-it", "there is no Service nothing-like-it in the manifests\n"),
        ("cronjob/web", "policies judge pods, not CronJob web; ask about a pod of it: shop/web-7d9f-abcde"),
        ("Pod/db-0", "write it as namespace/pod: shop/db-0"),
        ("pod/shop/db-0", "write it as namespace/pod: shop/db-0"),
        ("pod/bd-0", "there is no pod bd-0; did you mean shop/db-0?"),
        ("pod/nobody", "there is no pod nobody"),
        ("svc/database", "ask about the pod behind it: shop/db-0"),
        ("svc/outside", "ask about a pod behind it, as namespace/pod"),
        ("shop/web", "there is no pod shop/web; ask about a pod of Deployment web: shop/web-7d9f-abcde, sh"),
        ("shop/db", "there is no pod shop/db; ask about the pod of StatefulSet db: shop/db-0"),
        (
            "shop/database",
            "there is no pod shop/database; ask about the pod behind Service database: shop/db-0",
        ),
        ("prod/mixed", "ask about the pod behind Service mixed: prod/good\n"),
        ("mixed.prod", "no pod default/mixed.prod; ask about the pod behind Service prod/mixed: prod/good\n"),
        ("mixed.prod.svc", "; ask about the pod behind Service prod/mixed: prod/good\n"),
        ("mixed.prod.svc.cluster.local", "; ask about the pod behind Service prod/mixed: prod/good\n"),
        ("shop/mixed.prod.svc", "no pod shop/mixed.prod.svc; ask about the pod behind Service prod/mixed"),
        ("db-0.database.shop.svc", "there is no pod default/db-0.database.shop.svc; did you mean shop/db-0?"),
        ("db-0.shop", "there is no pod default/db-0.shop; did you mean shop/db-0?"),
        ("pg.prod.svc", "there is no pod default/pg.prod.svc; no Service prod/pg is in the manifests either"),
        ("x.pg.prod.svc", "; a host name? policy knows addresses only"),
        ("svc/host", "no pod behind it is judged: none has an address of its own (host network, finished,"),
        ("node/worker-1", "Node worker-1 is no pod; ask about its address: 10.1.1.1, fd01::1"),
        ("nodes/worker-2", "there is no node worker-2 in the manifests; did you mean worker-1?"),
        ("127.0.0.1", "127.0.0.1 is a loopback address: what is sent there stays in the pod, and no policy"),
        ("::1", "::1 is a loopback address"),
        ("0.0.0.0", "0.0.0.0 is no host's address"),
        ("shop/web-7d9f", "ask about a pod of ReplicaSet web-7d9f"),
        ("shop/web-7d9f-abcd", "there is no pod shop/web-7d9f-abcd; did you mean shop/web-7d9f-abcde?"),
        ("db-0", "there is no pod default/db-0; did you mean shop/db-0?"),
        ("shp/other", "there is no pod shp/other, and no namespace shp; did you mean shop?"),
        ("shop/pg.example.com", "a host name? policy knows addresses only: ask about the address that it"),
        (
            "pg.example.com",
            "a host name? policy knows addresses only: ask about the address that it stands for",
        ),
        (
            "10.96.7.7",
            "10.96.7.7 is the address of Service shop/database; ask about the pod behind it: shop/db-0",
        ),
        ("fd00:96::7", "fd00:96::7 is the address of Service shop/database"),
        ("10.96.7.8", "10.96.7.8 is the address of Service shop/outside; ask about a pod behind it, as name"),
    ],
)
@pytest.mark.parametrize("end", [0, 1])
def test_what_is_no_pod_is_answered_with_what_to_ask_about(asked: str, said: str, end: int) -> None:
    ends = ("shop/db-0", asked) if end else (asked, "shop/db-0")
    result = explain(*ends, "5432", stdin=WORKLOADS)
    assert result.exit_code == 2
    assert said in result.stdout
    assert result.stdout.count(said) == 1


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "169.254.169.254",
            "a link-local address: between ports of a bridge it is dropped while the node has",
        ),
        ("fe80::1", "a link-local address: between ports of a bridge it is dropped while the node has"),
        ("224.0.0.251", "a multicast address: between ports of a bridge it is dropped while the node has"),
        ("ff02::fb", "a multicast address: between ports of a bridge it is dropped while the node has"),
        ("255.255.255.255", "the broadcast address: between ports of a bridge it is dropped while the node"),
    ],
)
def test_of_addresses_that_more_than_policy_decides_about_it_cannot_say(address: str, said: str) -> None:
    source = "10.9.9.9" if "." in address else "fd00::9"
    result = explain(source, address, "80", stdin=WORKLOADS)
    assert result.exit_code == 2
    assert f"{address} is {said}" in result.stdout
    assert "As far as the manifests say:" in result.stdout


@pytest.mark.parametrize("shown", RANGES)
def test_an_address_in_the_service_range_is_no_pods(shown: str) -> None:
    def asked(source: str, destination: str) -> Result:
        return explain(source, destination, "80", stdin=f"{WORKLOADS}---{RANGES[shown]}")

    for source, address in (("10.9.9.9", "10.111.255.255"), ("fd00::9", "fd00:96::ffff")):
        result = asked(source, address)
        assert result.exit_code == 2
        assert f"{address} lies in the Service range " in result.stdout
        assert f"({shown}); a Service? ask about a pod behind it" in result.stdout
    assert asked("10.9.9.9", "10.112.0.0").exit_code == 0
    assert asked("fd00::9", "fd00:96::1:0").exit_code == 0


def test_a_pods_address_in_the_service_range_is_the_pods() -> None:
    inside = WORKLOADS.replace("10.9.0.1", "10.96.9.9")
    stdin = f"{inside}---{RANGES['ServiceCIDR kubernetes']}"
    assert explain("10.9.0.3", "10.96.9.9", "80", stdin=stdin).exit_code == 0


def test_without_services_an_address_of_a_usual_range_gets_a_hint_only() -> None:
    result = explain("shop/web", "10.96.0.1", "443", "--manifests", str(EXAMPLES))
    assert result.exit_code == 1
    assert "note: 10.96.0.1 may be a Service's address; if it is, ask about a pod behind" in result.stderr
    assert explain("shop/web", "192.0.2.1", "443", "--manifests", str(EXAMPLES)).stderr == ""


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("10.0.0.0/8", "'10.0.0.0/8' is a block; ask about one address in it, such as 10.0.0.1"),
        ("10.0.0.1/32", "'10.0.0.1/32' is a block; ask about one address in it, such as 10.0.0.1"),
        ("fd00::/64", "'fd00::/64' is a block; ask about one address in it, such as fd00::1"),
        ("10.0.0.1:80", "'10.0.0.1:80' is an address and more; write the address alone"),
        ("[fd00::1]:80", "'[fd00::1]:80' is an address and more; write the address alone"),
        ("[fd00::1]", "'[fd00::1]' is an address and more; write the address alone"),
        ("10.244.1.999", "'10.244.1.999' is not an IP address; write one such as"),
        ("10.244.1", "'10.244.1' is not an IP address; write one such as"),
        ("10.244.01.9", "'10.244.01.9' has leading zeros; write 10.244.1.9"),
        ("shop/db-0:80", "'shop/db-0:80' has a port; write namespace/pod alone, and the port as an argument"),
        ("shop/db-0/80", "'shop/db-0/80' has a port; write namespace/pod alone, and the port as an argument"),
        ("http://db.shop", "'http://db.shop' is a URL; write namespace/pod"),
    ],
)
def test_what_is_neither_a_pod_nor_an_address_is_called_what_it_is(asked: str, said: str) -> None:
    result = explain("shop/db-0", asked, "80", stdin=WORKLOADS)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_a_range_of_ports_is_called_what_it_is() -> None:
    result = explain("shop/db-0", "shop/db-0", "8080-8090", stdin=WORKLOADS)
    assert result.exit_code == 2
    assert "'8080-8090' is a range; ask about one port in it, such as 8080" in result.stderr


@pytest.mark.parametrize("port", ["0", "65536", "99999999999", "9" * 5000])
def test_a_number_that_is_no_port_is_named_as_it_was_written(port: str) -> None:
    result = explain("shop/db-0", "shop/db-0", port, stdin=WORKLOADS)
    assert result.exit_code == 2
    assert f"Error: {port} is no port number; write one from 1 to 65535" in result.stderr


def test_a_services_address_outside_the_cluster_is_its_own_at_its_ports_only() -> None:
    """A node sends a pod's packet on to a pod behind the Service, and policy judges that."""
    balanced = """
---
apiVersion: v1
kind: Service
metadata: {name: balanced, namespace: shop}
spec:
  clusterIP: 10.96.7.11
  selector: {app: db}
  externalIPs: [203.0.113.9, 10.1.1.1]
  ports: [{port: 443, targetPort: 5432}, {port: 53, protocol: UDP}]
status:
  loadBalancer: {ingress: [{ip: 203.0.113.5, ipMode: VIP}, {ip: 203.0.113.6, ipMode: Proxy}, {hostname: lb}]}
"""

    def asked(address: str, port: str) -> Result:
        return explain("shop/web-7d9f-abcde", address, port, stdin=WORKLOADS + balanced)

    for address in ("203.0.113.9", "203.0.113.5", "10.1.1.1"):
        said = f"{address} with TCP 443 is Service shop/balanced; ask about the pod behind it: shop/db-0"
        assert (asked(address, "443").exit_code, said in asked(address, "443").stdout) == (2, True)
    assert asked("203.0.113.9", "53/udp").exit_code == 2
    for address, port in (("203.0.113.9", "53"), ("203.0.113.6", "443"), ("10.1.1.1", "6443")):
        assert asked(address, port).exit_code == 0
    # Packets of the node, or of who sends them through it, are no packets to the Service.
    assert explain("10.1.1.1", "shop/db-0", "443", stdin=WORKLOADS + balanced).exit_code == 0


def test_a_port_that_is_misspelt() -> None:
    result = explain("shop/db-0", "shop/db-0", "postgre", stdin=WORKLOADS)
    assert "its named ports: postgres/tcp, http/tcp; did you mean postgres/tcp?" in result.stdout
