"""What an agent tells for a replay: from its engine and what its kernel tracks."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

import msgspec

from agent.clock import moment
from agent.dataplane.logged import Decided
from agent.kernel.conntrack import ConntrackError, Tracked, Tuple
from agent.kube.events import Synced
from agent.kube.model import Kind, Namespace
from agent.net import Direction
from agent.observe.flows.flow import End, Flow, Report
from agent.observe.replay.here import ENDS, Here, Surroundings, Witness, answer, decode
from agent.observe.replay.seen import Seen, Sort
from agent.observe.routes import Request
from agent.policy.engine import Engine
from tests.build import network, packed, pod, upsert
from tests.unit.convert.test_lines import ingress

WEB = pod("web", "10.0.0.1", "fd00::1")
API = pod("api", "10.0.0.2", "fd00::2")
FAR = pod("far", "10.0.9.1", namespace="far", node="there")
OTHER = pod("other", "10.0.9.2", namespace="other", node="there")
PROXY = pod("proxy", "172.18.0.9", node="there", host_network=True)
OWN = packed("172.18.0.1")


def entry(source: str, destination: str, number: int, asked: str = "", protocol: int = 6) -> Tracked:
    """Return a connection to what answers; ``asked`` is the Service's address where there is one."""
    a, b = packed(source), packed(destination)
    return Tracked(
        Tuple(a, packed(asked or destination), protocol, 999, 80), Tuple(b, a, protocol, number, 999), True
    )


def flow(number: int, source: End, destination: End, direction: Direction, **more: object) -> Flow:
    made = Flow(
        number=number,
        first=moment(1.0),
        last=moment(2.0),
        verdict=Decided.ALLOWED,
        direction=direction,
        pod="",
        protocol="TCP",
        source=source,
        destination=destination,
        why="",
    )
    return msgspec.structs.replace(made, **more)


def witness(tracked: Iterable[Tracked] = (), reports: Iterable[Report] = ()) -> Witness:
    engine = Engine("here")
    policy = ingress()
    objects = upsert(Namespace("shop"), Namespace("far"), WEB, API, FAR, OTHER, PROXY, policy)
    engine.apply([*objects, *(Synced(kind) for kind in Kind)], 0.0)
    found = list(tracked)

    def of(addresses: Collection[bytes]) -> list[Tracked]:
        assert addresses == {*WEB.addresses, *API.addresses}
        return found

    return Witness(
        node="here",
        extract=engine.extract,
        pods=engine.all_pods,
        local=lambda: frozenset(a for one in engine.local_pods() for a in one.addresses),
        tracked=of,
        around=lambda: Surroundings(frozenset([OWN]), [network("10.9.0.0/16")]),
        reports=lambda: list(reports),
    )


def test_tracked_connections_are_told_as_their_pods_are_asked() -> None:
    found = witness(
        [
            entry("10.0.0.1", "10.0.0.2", 8080, asked="10.96.0.1"),
            entry("10.0.0.1", "10.0.0.2", 8080),
            entry("10.0.9.1", "10.0.0.2", 53, protocol=17),
            entry("fd00::1", "fd00::2", 8080),
            entry("192.0.2.7", "10.0.0.2", 443),
            entry("172.18.0.9", "10.0.0.2", 443),
            # The node's own, and other nodes that are let in.
            entry("172.18.0.1", "10.0.0.2", 443),
            entry("10.9.1.1", "10.0.0.2", 443),
        ]
    ).tell()
    assert found.connections == (
        Seen(Sort("10.0.0.1", "10.0.0.2", 6, 8080, "shop/web", "shop/api"), tracked=2),
        Seen(Sort("10.0.9.1", "10.0.0.2", 17, 53, "far/far", "shop/api"), tracked=1),
        Seen(Sort("172.18.0.9", "10.0.0.2", 6, 443, "", "shop/api"), tracked=1),
        Seen(Sort("192.0.2.7", "10.0.0.2", 6, 443, "", "shop/api"), tracked=1),
        Seen(Sort("fd00::1", "fd00::2", 6, 8080, "shop/web", "shop/api"), tracked=1),
    )
    assert {one.name for one in found.pods} == {"web", "api", "far", "proxy"}
    assert {one.name for one in found.namespaces} == {"shop", "far"}
    assert [str(one.key) for one in found.policies] == ["shop/p"]
    assert decode(msgspec.json.encode(found)) == found


def test_reports_are_told_by_the_names_of_their_pods_and_once_for_both_directions() -> None:
    web, api = End("10.0.0.1", 999, "shop/web"), End("10.0.0.2", 8080, "shop/api")
    gone = End("10.0.0.77", 999, "shop/gone")
    found = witness(
        reports=[
            flow(1, web, api, Direction.EGRESS, count=3),
            flow(2, web, api, Direction.INGRESS),
            flow(3, gone, api, Direction.INGRESS),
            flow(4, web, api, Direction.INGRESS, notes=("it is not the first packet of a connection",)),
            flow(5, End("192.0.2.1"), End("10.0.0.2", None, "shop/api"), Direction.INGRESS, protocol="ICMP"),
            flow(
                6,
                End("192.0.2.1"),
                End("10.0.0.2", None, "shop/api"),
                Direction.INGRESS,
                protocol="protocol 47",
            ),
        ]
    ).tell()
    assert found.connections == (
        Seen(Sort("10.0.0.1", "10.0.0.2", 6, 8080, "shop/web", "shop/api"), logged=3),
        Seen(Sort("10.0.0.77", "10.0.0.2", 6, 8080, "shop/gone", "shop/api"), logged=1),
        Seen(Sort("192.0.2.1", "10.0.0.2", 1, 0, "", "shop/api"), logged=1),
        Seen(Sort("192.0.2.1", "10.0.0.2", 47, 0, "", "shop/api"), logged=1),
    )


def test_where_the_kernel_cannot_be_read_that_is_told() -> None:
    def refuse(_: Collection[bytes]) -> list[Tracked]:
        raise ConntrackError("connection tracking may not be changed", "run the agent with CAP_NET_ADMIN")

    made = witness()
    found = Witness(made.node, made.extract, made.pods, made.local, refuse, made.around, made.reports).tell()
    assert found.unread == "connection tracking may not be changed; run the agent with CAP_NET_ADMIN"


def test_ends_are_asked_about_alone() -> None:
    def asked(ends: str) -> tuple[int, bytes]:
        found = answer(witness([entry("10.0.0.1", "10.0.0.2", 1)]), Request("/seen", {"ends": [ends]}))
        return found.code, found.body

    code, body = asked("far/far,10.0.0.1")
    found = msgspec.json.decode(body, type=Here)
    assert (code, found.connections, {one.name for one in found.pods}) == (200, (), {"far", "web"})
    assert asked("far")[0] == 400
    assert asked("a/b/c")[0] == 400
    assert asked(",".join(["10.0.0.1"] * (ENDS + 1)))[0] == 400
    whole = answer(witness([entry("10.0.0.1", "10.0.0.2", 1)]), Request("/seen", {}))
    assert len(json.loads(whole.body)["connections"]) == 1


def test_a_loop_that_is_busy_is_said() -> None:
    def busy(_: object) -> object:
        raise TimeoutError("the loop has not answered")

    made = witness()
    slow = Witness(made.node, busy, made.pods, made.local, made.tracked, made.around, made.reports)  # type: ignore[arg-type]
    assert answer(slow, Request("/seen", {"ends": ["far/far"]})).code == 503
