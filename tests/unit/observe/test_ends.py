"""Which pods a question means."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from agent.kube.model import Key, Pod
from agent.observe.explain.ends import Inventory, Unresolved, resolve
from agent.observe.hits import MOST, Hits
from agent.sources.services import Backend, FoundService, ServicePort, ServicesError
from agent.spec.evaluator import Endpoint
from agent.spec.question import question_of
from agent.spec.workloads import pods_of, workloads_of
from tests.build import packed


def address(number: int) -> bytes:
    return packed(f"10.0.0.{number}")


def label(key: str, value: str, name: str, number: int) -> Pod:
    return Pod("shop", name, labels={key: value}, addresses=(address(number),))


PODS = (
    label("pod-template-hash", "5d9c7", "web-5d9c7-aaaaa", 1),
    label("pod-template-hash", "5d9c7", "web-5d9c7-bbbbb", 2),
    label("statefulset.kubernetes.io/pod-name", "db-0", "db-0", 3),
    label("controller-revision-hash", "77", "log-x7k2p", 4),
    label("batch.kubernetes.io/job-name", "tidy-29000000", "tidy-29000000-q9x7z", 5),
    label("app", "plain", "plain", 6),
)
FRONT = FoundService(
    Key("shop", "front"),
    (packed("10.96.0.7"),),
    (ServicePort("http", "TCP", 80), ServicePort("dns", "UDP", 53)),
    (
        Backend(Key("shop", "web-5d9c7-aaaaa"), address(1), True, {("http", "TCP"): 8080}),
        Backend(Key("shop", "web-5d9c7-bbbbb"), address(2), False, {("http", "TCP"): 8080}),
        Backend(None, packed("192.0.2.9"), True, {("http", "TCP"): 9090}),
    ),
)


def inventory(*services: FoundService, refused: str = "") -> Inventory:
    def named(key: Key) -> FoundService | None:
        if refused:
            raise ServicesError(refused)
        return next((one for one in services if one.key == key), None)

    def at(end: bytes) -> FoundService | None:
        if refused:
            raise ServicesError(refused)
        return next((one for one in services if end in one.addresses), None)

    known: set[Endpoint] = {one.key for one in PODS} | {a for one in PODS for a in one.addresses}
    return Inventory(known.__contains__, lambda: PODS, named, at)


def asked(
    destination: str, port: str = "80", where: Inventory | None = None
) -> list[tuple[Endpoint, int | str]]:
    found = resolve(question_of("shop/plain", destination, port), where or inventory(FRONT))
    return [(one.destination, one.service.port) for one in found.questions]


def names(ends: Sequence[tuple[Endpoint, int | str]]) -> list[str]:
    return [end.name if isinstance(end, Key) else "" for end, _ in ends]


@pytest.mark.parametrize(
    ("number", "workloads"),
    [
        (0, [("Deployment", "web"), ("ReplicaSet", "web-5d9c7")]),
        (2, [("StatefulSet", "db")]),
        (3, [("DaemonSet", "log")]),
        (4, [("Job", "tidy-29000000"), ("CronJob", "tidy")]),
        (5, []),
    ],
)
def test_a_pods_workload_is_told_by_its_labels(number: int, workloads: list[tuple[str, str]]) -> None:
    assert list(workloads_of(PODS[number])) == workloads


def test_a_controller_of_any_kind_is_a_workload_and_none_is_named_twice() -> None:
    own = Pod("shop", "a", workload="Rollout/web")
    assert list(workloads_of(own)) == [("Rollout", "web")]
    told = msgspec.structs.replace(PODS[0], workload="Deployment/web")
    assert list(workloads_of(told)) == list(workloads_of(PODS[0]))


def test_the_pods_of_a_workload() -> None:
    both = [PODS[0].key, PODS[1].key]
    assert pods_of(PODS, "Deployment", "web") == both
    assert pods_of(PODS, "Deployment", "web", "shop") == both
    assert pods_of(PODS, "Deployment", "web", "other") == []
    assert names(asked("shop/deploy/web")) == names(asked("deployment/web")) == [key.name for key in both]
    assert names(asked("shop/cronjob/tidy")) == ["tidy-29000000-q9x7z"]
    assert names(asked("shop/db")) == ["db-0"]


def test_a_pod_and_an_address_mean_themselves() -> None:
    assert asked("shop/db-0") == [(Key("shop", "db-0"), 80)]
    assert asked("10.0.0.3") == [(address(3), 80)]
    assert asked("192.0.2.1") == [(packed("192.0.2.1"), 80)]
    assert names(asked("pod/db-0")) == ["db-0"]


@pytest.mark.parametrize(
    "name", ["shop/svc/front", "shop/front", "front.shop.svc", "front.shop", "10.96.0.7"]
)
def test_a_service_means_its_ready_endpoints_and_their_ports(name: str) -> None:
    meant = [(Key("shop", "web-5d9c7-aaaaa"), 8080), (packed("192.0.2.9"), 9090)]
    assert asked(name) == meant
    assert asked(name, "http") == meant


def test_a_headless_service_translates_no_port() -> None:
    headless = FRONT._replace(addresses=())
    assert [port for _, port in asked("shop/front", "8080", inventory(headless))] == [8080, 8080]


@pytest.mark.parametrize(
    ("destination", "port", "why"),
    [
        (
            "shop/front",
            "81",
            "Service shop/front has no port 81 for TCP; its ports: 80/tcp (http), 53/udp (dns)",
        ),
        ("shop/front", "53/udp", "Service shop/front: no endpoint has its port 53"),
        ("shop/svc/frint", "80", "there is no Service shop/frint"),
        ("shop/deployment/wep", "80", "no pod is of Deployment shop/wep; did you mean web?"),
        ("shop/plaim", "80", "there is no pod shop/plaim; did you mean shop/plain?"),
        ("nowhere/x", "80", "there is no pod nowhere/x, and no pod in namespace nowhere is known"),
        ("no/worker", "80", "Node worker is no pod; ask about its address"),
        ("127.0.0.1", "80", "127.0.0.1 is a loopback address"),
    ],
)
def test_what_stands_for_no_pod_is_told(destination: str, port: str, why: str) -> None:
    with pytest.raises(Unresolved) as told:
        asked(destination, port)
    assert str(told.value).startswith(why)


def test_services_that_may_not_be_read_are_told_where_they_matter() -> None:
    where = inventory(refused="forbidden")
    assert asked("shop/db-0", where=where) == [(Key("shop", "db-0"), 80)]
    with pytest.raises(Unresolved, match="there is no pod shop/nobody; forbidden"):
        asked("shop/nobody", where=where)
    found = resolve(question_of("shop/plain", "10.96.0.7", "80"), where)
    assert found.notes == ["whether 10.96.0.7 is a Service's address is not known: forbidden"]
    with pytest.raises(Unresolved, match="this agent reads manifests"):
        asked("shop/svc/front", where=Inventory(inventory().has, lambda: PODS))


def test_a_rules_last_hit_is_when_a_look_saw_it_grow() -> None:
    hits = Hits()

    def look(packets: int, now: float) -> float | None:
        return hits.saw("one", packets, now)

    assert [look(5, 1.0), look(5, 2.0), look(6, 3.0), look(6, 4.0), look(0, 5.0), look(1, 6.0)] == [
        None,
        None,
        3.0,
        3.0,
        3.0,
        6.0,
    ]
    for number in range(MOST):
        hits.saw(number, 0, 7.0)
    assert look(1, 8.0) is None
