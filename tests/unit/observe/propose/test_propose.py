"""Policies from a flow log: the smallest ones, by workload, that allow what was seen."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from agent.convert.statement import Statement
from agent.convert.write import write_line
from agent.dataplane.logged import Decided
from agent.kube.model import Key, Namespace, Pod
from agent.net import Direction, address_text
from agent.observe.flows.flow import End, Flow
from agent.observe.propose.propose import Proposal, ProposalError, propose
from agent.observe.propose.workloads import Workloads
from agent.observe.replay.judging import Judge
from agent.spec.cluster import Cluster, cluster_of
from agent.spec.evaluator import judge
from agent.spec.verdict import Packet
from tests.build import packed, pod
from tests.unit.observe.replay.test_here import flow

IN, OUT = Direction.INGRESS, Direction.EGRESS


def relabelled(of: Pod, labels: dict[str, str]) -> Pod:
    return msgspec.structs.replace(of, labels=labels)


def deployed(
    name: str, address: str, suffix: str = "aaaaa", version: str = "6d4f9c7b8", **labels: str
) -> Pod:
    """Return a pod of a Deployment."""
    made = pod(f"{name}-{version}-{suffix}", address)
    return msgspec.structs.replace(made, labels={"app": name, "pod-template-hash": version, **labels})


WEB = deployed("web", "10.0.0.1")
WEB2 = deployed("web", "10.0.0.2", "bbbbb", tier="front")
API = deployed("api", "10.0.0.3", version="75b8d")
DB = relabelled(pod("db-0", "10.0.0.4"), {"app": "db", "statefulset.kubernetes.io/pod-name": "db-0"})
OPS = pod("prometheus", "10.0.1.1", namespace="ops", app="prometheus")
ALL = (WEB, WEB2, API, DB, OPS)


def cluster(*pods: Pod) -> Cluster:
    names = {one.namespace: {"kubernetes.io/metadata.name": one.namespace} for one in pods}
    return cluster_of((*(Namespace(name, labels) for name, labels in names.items()), *pods))


def end(of: Pod | str, port: int | None = None) -> End:
    if isinstance(of, str):
        return End(of, port)
    return End(address_text(of.addresses[0]), port, str(of.key))


def seen(
    source: Pod | str, destination: Pod | str, port: int, direction: Direction = IN, **more: object
) -> Flow:
    return flow(1, end(source), end(destination, port), direction, **more)


def lines(found: Proposal) -> list[str]:
    return [write_line(Statement(one)) for one in found.policies]


def proposed(pods: Sequence[Pod], *flows: Flow) -> list[str]:
    return lines(propose(cluster(*pods), flows))


def test_one_policy_for_each_workload_and_direction_that_the_log_tells_of() -> None:
    assert proposed(
        ALL,
        seen(WEB, API, 8080),
        seen(WEB2, API, 8080),
        seen(OPS, API, 9090),
        seen(API, DB, 5432, OUT),
        seen("192.0.2.7", WEB, 443),
    ) == [
        "allow shop/api to shop/db on tcp/5432 as api-egress",
        "allow shop/api from ops/prometheus on tcp/9090; from shop/web on tcp/8080 as api-ingress",
        "allow shop/web from 192.0.2.7/32 on tcp/443 as web-ingress",
    ]


def test_what_only_the_other_end_has_logged_is_allowed_too() -> None:
    """Looking up names closes the web's egress; its connections to the api are in the api's log alone."""
    dns = relabelled(pod("dns", "10.0.9.9", namespace="kube-system"), {"k8s-app": "kube-dns"})
    found = proposed((*ALL, dns), seen(WEB, API, 8080), seen(WEB, dns, 53, OUT, protocol="UDP"))
    assert found == [
        "allow shop/api from shop/web on tcp/8080 as api-ingress",
        "allow shop/web to shop/api on tcp/8080; to kube-system/{k8s-app=kube-dns} on udp/53 as web-egress",
    ]


def test_rules_are_few_peers_with_the_same_ports_and_ports_in_a_row_together() -> None:
    ports = (8080, 8081, 8082, 9090)
    flows = [seen(peer, API, port) for peer in (WEB, OPS, "192.0.2.0", "192.0.2.1") for port in ports]
    assert proposed(ALL, *flows, seen("fd00::1", API, 1)) == [
        "allow shop/api from fd00::1/128 on tcp/1; from ops/prometheus, shop/web, 192.0.2.0/31 on "
        "tcp/8080-8082, tcp/9090 as api-ingress"
    ]


def test_only_what_was_logged_with_a_verdict_that_is_chosen() -> None:
    denied = seen(OPS, API, 1, verdict=Decided.DENIED)
    assert proposed(ALL, denied) == []
    found = propose(cluster(*ALL), [denied, seen(WEB, API, 2)], frozenset([Decided.DENIED]))
    assert lines(found) == ["allow shop/api from ops/prometheus on tcp/1 as api-ingress"]
    assert found.connections == 1


def test_what_no_policy_says_is_left_out_and_counted() -> None:
    found = propose(
        cluster(*ALL),
        [
            flow(1, end(WEB), end(API), IN, protocol="ICMP", count=3),
            seen(WEB, API, 1, notes=("it is not the first packet of a connection",)),
            seen(pod("gone", "10.0.0.99"), API, 1),
            seen(pod("gone", "10.0.0.1"), API, 1),
        ],
    )
    assert found.policies == ()
    assert found.notes == (
        "left out: 2 packets, since a pod of theirs is gone",
        "left out: 3 packets, since no policy can allow ICMP and the like but with every port",
        "left out: 1 packet, since they are not the first of a connection",
    )


def test_a_pod_that_is_gone_is_taken_for_one_of_its_workload() -> None:
    gone = pod("web-59fcf4d5b-zzzzz", "10.0.0.1")
    assert proposed(ALL, seen(gone, API, 8080)) == ["allow shop/api from shop/web on tcp/8080 as api-ingress"]
    workloads = Workloads(ALL)
    assert workloads.standin(Key("shop", "db-7")) == DB.key
    assert workloads.standin(Key("shop", "db-x")) is None
    assert workloads.standin(Key("other", "web-59fcf4d5b-zzzzz")) is None


def test_pods_that_a_broad_selector_isolates_keep_what_was_seen_of_them() -> None:
    """Pods without labels are selected by a policy for the whole namespace, and so are all others there."""
    bare = msgspec.structs.replace(pod("bare", "10.0.0.8"), labels={})
    found = propose(cluster(*ALL, bare), [seen(WEB, bare, 80), seen(WEB, API, 8080, OUT)])
    assert lines(found) == [
        "allow shop/api from shop/web on tcp/8080 as api-ingress",
        "allow shop/* from shop/web on tcp/80 as bare-ingress",
        "allow shop/web to shop/* on tcp/80; to shop/api on tcp/8080 as web-egress",
    ]
    assert found.notes == (
        "namespace shop: some pods have no label of their own, so a policy for them is for all its pods",
    )


def test_the_fewest_labels_that_mean_exactly_the_pods() -> None:
    common = {"app.kubernetes.io/name": "shop", "app.kubernetes.io/version": "1", "team": "a"}
    one = msgspec.structs.replace(
        deployed("one", "10.0.0.1"), labels={**common, "role": "one", "pod-template-hash": "x"}
    )
    two = msgspec.structs.replace(
        deployed("two", "10.0.0.2"), labels={**common, "role": "two", "pod-template-hash": "y"}
    )
    workloads = Workloads([one, two])
    assert str(workloads.of(one.key).selector) == "role=one"
    alone = Workloads([one])
    assert str(alone.of(one.key).selector) == "app.kubernetes.io/name=shop"
    both = msgspec.structs.replace(two, labels={**two.labels, "role": "one", "part": "b"})
    assert str(Workloads([one, both]).of(both.key).selector) == "part=b"


def test_two_workloads_of_one_name_have_policies_of_two_names() -> None:
    job = msgspec.structs.replace(
        pod("web-12345", "10.0.0.7"), labels={"kind": "job", "batch.kubernetes.io/job-name": "web"}
    )
    found = propose(cluster(*ALL, job), [seen(API, WEB, 1), seen(API, job, 2)])
    assert sorted(one.name for one in found.policies) == ["web-2-ingress", "web-ingress"]


@pytest.mark.parametrize("isolated", [False, True])
def test_without_any_one_rule_something_that_was_seen_is_denied(isolated: bool) -> None:
    flows = [
        *(seen(WEB, API, port) for port in (80, 81, 443)),
        seen(OPS, API, 80),
        seen("192.0.2.7", API, 80),
        seen(API, DB, 5432, OUT),
        seen(API, DB, 5432),
    ]
    whole = cluster(*ALL)
    if isolated:
        closed = Namespace("shop", {"kubernetes.io/metadata.name": "shop"}, ingress_isolated=True)
        whole = cluster_of((*whole.namespaces.values(), closed, *whole.pods.values()))
    found = propose(whole, flows)
    packets = [
        Packet(packed(f.source.address), packed(f.destination.address), 6, f.destination.port or 0)
        for f in flows
    ]

    def denied(policies: Sequence[object]) -> int:
        tried = cluster_of((*cluster(*ALL).namespaces.values(), *ALL, *policies))  # type: ignore[arg-type]
        assert all(judge(tried, p).allowed is Judge(tried).judge(p).allowed for p in packets)
        return sum(not judge(tried, packet).allowed for packet in packets)

    assert denied(found.policies) == 0
    for index, policy in enumerate(found.policies):
        for direction in Direction:
            rules = policy.rules(direction) or ()
            for number in range(len(rules)):
                less = msgspec.structs.replace(
                    policy, **{direction.value: rules[:number] + rules[number + 1 :]}
                )
                assert denied([*found.policies[:index], less, *found.policies[index + 1 :]]) > 0


def test_what_would_not_allow_what_was_seen_is_not_proposed() -> None:
    nameless = cluster_of((Namespace("shop"), Namespace("ops"), *ALL))
    with pytest.raises(ProposalError, match=r"would not allow 10\.0\.1\.1 to 10\.0\.0\.3, 6/9090"):
        propose(nameless, [seen(OPS, API, 9090)])
