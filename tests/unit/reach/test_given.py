"""The cluster of a matrix: workloads beside pods, and a change laid over what there is."""

from __future__ import annotations

from agent.kube.facts import Owner
from agent.kube.model import Key, NamedPort, Namespace, NetworkPolicy, Object, Pod
from agent.kube.validate import METADATA_NAME
from agent.kube.workloads import Workload
from agent.net import Protocol
from agent.reach.admits import Rules
from agent.reach.ends import By, End, outside, pods_at
from agent.reach.given import given, overlaid, rolled_out
from agent.reach.known import know

_POD = Pod(
    "shop",
    "web-5d-x1",
    labels={"app": "web", "pod-template-hash": "5d"},
    addresses=(bytes([10, 0, 0, 1]),),
)


def workload(kind: str, name: str, owner: tuple[str, str] | None = None, *, idle: bool = False) -> Workload:
    pod = Pod("shop", name, labels={"app": "new"}, ports=(NamedPort("http", Protocol.TCP, 80),))
    return Workload(kind, Key("shop", name), 1, pod, (), owner, idle)


def test_what_another_workload_made_is_not_counted_beside_it() -> None:
    made = workload("ReplicaSet", "web-5d", ("Deployment", "web"))
    alone = workload("Job", "nightly-1", ("CronJob", "nightly"))
    old = workload("ReplicaSet", "api-1", ("Deployment", "api"), idle=True)
    found = given([], (), [("a", one) for one in (made, workload("Deployment", "web"), alone, old)])
    assert dict(found.owners.of) == {
        Key("shop", "deployment/web"): ("Deployment", "web"),
        Key("shop", "job/nightly-1"): ("CronJob", "nightly"),
    }
    assert found.cluster.namespaces == {"shop": Namespace("shop", {METADATA_NAME: "shop"})}


def test_pods_of_a_replica_set_are_of_its_deployment() -> None:
    facts = [Owner(_POD.key, "ReplicaSet", "web-5d"), Owner(_POD.key, "Deployment", "web")]
    found = given([_POD], facts, [("a", workload("Deployment", "web"))])
    assert dict(found.owners.of) == {_POD.key: ("Deployment", "web")}
    assert list(found.cluster.pods) == [_POD.key]


def test_a_change_replaces_what_it_names_and_keeps_what_it_implies() -> None:
    known = Namespace("shop", {METADATA_NAME: "shop", "team": "a"})
    before: list[Object] = [known, NetworkPolicy("shop", "a"), NetworkPolicy("shop", "b")]
    after: list[Object] = [Namespace("shop", {METADATA_NAME: "shop"}), NetworkPolicy("shop", "a", egress=())]
    assert overlaid(before, after) == [known, before[2], after[1]]


def test_pods_of_a_changed_workload_are_as_its_template_says() -> None:
    (pod,) = rolled_out([_POD], (), [("a", workload("Deployment", "web"))])
    assert isinstance(pod, Pod)
    assert pod.labels == {"app": "new", "pod-template-hash": "5d"}
    assert pod.ports == (NamedPort("http", Protocol.TCP, 80),)
    assert pod.addresses == _POD.addresses
    assert rolled_out([_POD], (), [("a", workload("Deployment", "other"))]) == [_POD]


def test_pods_on_the_hosts_network_are_no_ends_and_are_named() -> None:
    found = given([Pod("shop", "agent", addresses=_POD.addresses, host_network=True)], (), ())
    assert found.notes == (
        "on the host's network, so their addresses are no pod's: shop/agent",
        "there are no pods and no workloads in it: give their files, too, or --kubeconfig FILE",
    )
    rules = Rules(know(found.cluster))
    assert pods_at(rules, found.owners, By.POD) == {}
    (ends,) = outside([rules])
    assert list(ends) == [End("", "", "internet")]
