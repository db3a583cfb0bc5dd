"""From packets as the kernel logs them to what people are told."""

from __future__ import annotations

import datetime
import struct
from collections.abc import Sequence
from typing import ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.logged import Cause, Decided, Judged, judged_by
from agent.kernel.conntrack import Tuple
from agent.kernel.nflog import Logged
from agent.kube.events import Event, Invalid
from agent.kube.model import Key, Kind, Namespace, NetworkPolicy, Object, Peer, Pod, Port, Rule, Selector
from agent.net import Direction, address_text
from agent.observe.flows.digest import AT_ONCE, BURST, Digest
from agent.observe.flows.flow import (
    REASONS,
    End,
    Flow,
    Nearest,
    Report,
    Unlogged,
    as_json,
    as_text,
    from_json,
)
from agent.observe.flows.inventory import Inventory
from agent.policy.budget.limits import DEFAULT, Budgets, PolicyBudget
from agent.policy.engine import Engine
from agent.policy.extract import Extract
from tests.build import labelled, packed, pod, upsert
from tests.lab import packets

NOON = datetime.datetime(2026, 1, 1, 12, 0, tzinfo=datetime.UTC)
WINDOW = 30.0

WEB = pod("web", "10.244.1.10", "fd00::10", app="web")
DB = pod("db", "10.244.1.11", "fd00::11", app="db")
OUTER = pod("agent", "192.0.2.7", node="other", host_network=True)
SHOP = Namespace("shop")
DENY = NetworkPolicy("shop", "deny", ingress=(), egress=())
TO_DB = NetworkPolicy(
    "shop",
    "db",
    labelled(app="db"),
    ingress=(
        Rule((Peer(labelled(app="api")),), (Port(port=5432),)),
        Rule((Peer(labelled(app="web")),), (Port(port=8080),)),
    ),
)


class Node:
    """An engine as the digest asks it, and the time."""

    services: ClassVar = {packed("10.96.0.9"): "shop/front"}

    def __init__(self, *objects: Object, budgets: Budgets = DEFAULT) -> None:
        self.engine = Engine("here", budgets=budgets)
        self.tell(upsert(*objects))
        self.asked: list[Sequence[bytes]] = []
        self.scans = 0
        self.busy = False
        self.now = 0.0
        inventory = Inventory(self.extract, self.pods, lambda: {"veth1": Key("shop", "evil")})
        self.digest = Digest(
            inventory,
            WINDOW,
            lambda: NOON.timestamp() + self.now,
            lambda address: self.services.get(address, ""),
        )

    def tell(self, events: list[Event]) -> None:
        self.engine.apply(events, 0.0)

    def extract(self, addresses: Sequence[bytes]) -> Extract:
        if self.busy:
            raise TimeoutError
        self.asked.append(addresses)
        return self.engine.extract(addresses)

    def pods(self) -> list[Pod]:
        self.scans += 1
        return self.engine.all_pods()

    def report(self, *logged: Logged) -> list[Report]:
        self.digest.take(logged, self.now)
        return self.digest.reports(self.now)

    def one(self, *logged: Logged) -> Flow:
        (found,) = self.report(*logged)
        assert isinstance(found, Flow)
        return found


def denied(
    packet: bytes, direction: Direction = Direction.INGRESS, original: Tuple | None = None, at: float = 0.0
) -> Logged:
    return Logged(2, 2, Judged(Decided.DENIED, direction).prefix, packet, at=at, original=original)


def syn(source: Pod | str, destination: Pod | str, port: int, *, v6: bool = False) -> bytes:
    ends = [address_text(end.addresses[v6]) if isinstance(end, Pod) else end for end in (source, destination)]
    return packets.tcp_syn(ends[0], ends[1], port)


def test_the_workload_of_an_end_is_named() -> None:
    web = msgspec.structs.replace(WEB, workload="Deployment/web")
    found = Node(web, DB, SHOP, TO_DB).one(denied(syn(web, DB, 5432)))
    assert (found.source.workload, found.destination.workload) == ("Deployment/web", "")
    assert "shop/web (Deployment/web, 10.244.1.10) to shop/db (10.244.1.11) port 5432" in as_text(found)


@pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
def test_both_ends_are_named_and_the_nearest_rule_is_told(v6: bool) -> None:
    node = Node(WEB, DB, SHOP, DENY, TO_DB)
    found = node.one(denied(syn(WEB, DB, 5432, v6=v6), at=NOON.timestamp()))
    assert found == Flow(
        number=1,
        first=NOON,
        last=NOON,
        verdict=Decided.DENIED,
        direction=Direction.INGRESS,
        pod="shop/db",
        protocol="TCP",
        source=End("fd00::10" if v6 else "10.244.1.10", None, "shop/web", "shop", "here", "uid of web"),
        destination=End("fd00::11" if v6 else "10.244.1.11", 5432, "shop/db", "shop", "here", "uid of db"),
        why="rule 1 of shop/db comes nearest: its peer matches, its port does not (TCP 5432 is not 8080)",
        policies=("shop/db", "shop/deny"),
        nearest=Nearest("shop/db", 1, peer=True, port=False, why="TCP 5432 is not 8080"),
    )


def test_a_rule_whose_port_alone_matches_is_nearest_if_no_peer_does() -> None:
    api = pod("other", "10.244.1.12", app="other")
    found = Node(api, DB, SHOP, TO_DB).one(denied(syn(api, DB, 5432)))
    assert found.nearest == Nearest(
        "shop/db", 0, False, True, "shop/other does not match app=api: it has app=other"
    )


def test_egress_is_judged_at_its_source() -> None:
    found = Node(WEB, DB, SHOP, DENY).one(denied(syn(WEB, DB, 80), Direction.EGRESS))
    assert (found.pod, found.why) == ("shop/web", "isolated by shop/deny, without any egress rule")


def test_a_service_port_in_a_policy_is_named_with_the_port_to_write() -> None:
    original = Tuple(WEB.addresses[0], packed("10.96.0.9"), 6, 9999, 8080)
    found = Node(WEB, DB, SHOP, TO_DB).one(denied(syn(WEB, DB, 5432), original=original))
    assert found.why.endswith("; 8080 is the port of the Service: a policy sees the pod's, so write 5432")
    # A port that no rule allows either is no such mistake.
    other = Tuple(WEB.addresses[0], packed("10.96.0.9"), 6, 9999, 81)
    assert (
        "port of the Service"
        not in Node(WEB, DB, SHOP, TO_DB).one(denied(syn(WEB, DB, 5432), original=other)).why
    )


@pytest.mark.parametrize(("port", "said"), [(53, True), (54, False)])
def test_denied_dns_says_that_no_rule_allows_it(port: int, said: bool) -> None:
    out = NetworkPolicy(
        "shop", "out", labelled(app="web"), egress=(Rule((Peer(labelled(app="db")),), (Port(port=80),)),)
    )
    found = Node(WEB, DB, SHOP, out).one(denied(syn(WEB, "192.0.2.53", port), Direction.EGRESS))
    assert ("DNS is not allowed: no egress rule for shop/web has UDP port 53" in found.why) is said


def test_where_nothing_matches_it_says_how_many_rules_there_are() -> None:
    api = pod("other", "10.244.1.12", app="other")
    found = Node(api, DB, SHOP, TO_DB).one(denied(syn(api, DB, 1)))
    assert found.why == "isolated by shop/db: of 2 rules, none has its peer or its port"
    assert found.nearest is None


def test_a_policy_over_budget_is_named() -> None:
    budgets = Budgets(PolicyBudget(rules=1))
    found = Node(WEB, DB, SHOP, TO_DB, budgets=budgets).one(denied(syn(WEB, DB, 8080)))
    assert found.why.startswith("shop/db is over budget and allows nothing: ")


def test_a_policy_that_cannot_be_used_is_named() -> None:
    node = Node(WEB, DB, SHOP)
    closed = NetworkPolicy("shop", "wrong", Selector(), ingress=())
    node.tell([Invalid(Kind.POLICY, Key("shop", "wrong"), (), closed)])
    found = node.one(denied(syn(WEB, DB, 8080)))
    assert found.why == "shop/wrong cannot be used as written, and allows nothing until it is corrected"


def test_what_the_policies_of_now_would_not_deny_is_not_explained_by_them() -> None:
    found = Node(WEB, DB, SHOP, TO_DB).one(denied(syn(WEB, DB, 8080)))
    assert found.why == (
        "by the policies of now it is allowed: they have changed since, or were not written yet, or somebody "
        "changed the kernel's rules (netpol-agent history says which)"
    )


def test_an_address_that_is_nobodys_any_more_is_still_told() -> None:
    found = Node(WEB, SHOP).one(denied(syn(WEB, "10.244.1.99", 80)))
    assert (found.pod, found.destination) == ("", End("10.244.1.99", 80))
    assert found.why == "10.244.1.99 is no pod's address; it stays closed after a pod that was isolated"


def test_the_address_of_a_node_is_named_and_looked_for_seldom() -> None:
    node = Node(DB, OUTER, SHOP, DENY)
    for port in (80, 81):
        found = node.one(denied(syn("192.0.2.7", DB, port)))
        assert found.source == End("192.0.2.7", node="other")
    assert node.scans == 1


def test_what_was_asked_for_before_translation_is_told() -> None:
    original = Tuple(WEB.addresses[0], packed("10.96.0.9"), 6, 9999, 80)
    found = Node(WEB, DB, SHOP, TO_DB).one(denied(syn(WEB, DB, 5432), original=original))
    assert found.service == End("10.96.0.9", 80, service="shop/front")
    assert ", asked for Service shop/front (10.96.0.9) port 80:" in as_text(found)
    same = Tuple(WEB.addresses[0], DB.addresses[0], 6, 9999, 5433)
    assert Node(WEB, DB, SHOP, TO_DB).one(denied(syn(WEB, DB, 5433), original=same)).service is None


@pytest.mark.parametrize(
    ("judged", "source", "pod_of_link", "why"),
    [
        (
            Judged(Decided.DENIED, Direction.EGRESS, Cause.LINK, "veth1"),
            "10.244.1.10",
            "shop/evil",
            "10.244.1.10 is the address of shop/web, but the packet came by the link of shop/evil (veth1): "
            "dropped, whatever the policies allow",
        ),
        (
            Judged(Decided.DENIED, Direction.INGRESS, Cause.LINK, "veth9"),
            "10.9.9.9",
            "",
            "10.244.1.11 is the address of shop/db, but the packet was to leave by the link veth9: dropped, "
            "whatever the policies allow",
        ),
        (
            Judged(Decided.DENIED, Direction.EGRESS, Cause.FURTHER, "veth1"),
            "10.9.9.9",
            "shop/evil",
            "10.9.9.9 is a further address behind the link of shop/evil (veth1), which the API does not "
            "know: none of the egress policies of that pod allows it",
        ),
    ],
)
def test_what_a_link_denies_is_told_of_the_pod_that_has_the_link(
    judged: Judged, source: str, pod_of_link: str, why: str
) -> None:
    found = Node(WEB, DB, SHOP, TO_DB).one(Logged(2, 2, judged.prefix, syn(source, DB, 80)))
    assert (found.pod, found.why, found.policies) == (pod_of_link, why, ())


@pytest.mark.parametrize("direction", list(Direction))
def test_what_no_pod_is_known_to_have_is_told_as_that(direction: Direction) -> None:
    prefix = Judged(Decided.DENIED, direction, Cause.UNKNOWN).prefix
    egress = direction is Direction.EGRESS
    packet = syn("10.244.1.99", DB, 80) if egress else syn(WEB, "10.244.1.99", 80)
    found = Node(WEB, DB, SHOP, TO_DB).one(Logged(2, 2, prefix, packet))
    assert (found.pod, found.policies, found.direction) == ("", (), direction)
    assert found.why == (
        "10.244.1.99 is in a network of this node's pods, and no pod is known to have it: closed until one "
        "is (--new-pods deny)"
    )


def test_allowed_connections_name_the_rules_that_allow_them() -> None:
    prefix = Judged(Decided.ALLOWED, Direction.INGRESS).prefix
    found = Node(WEB, DB, SHOP, DENY, TO_DB).one(Logged(2, 2, prefix, syn(WEB, DB, 8080)))
    assert (found.verdict, found.rules, found.why) == (
        Decided.ALLOWED,
        ("shop/db[1]",),
        "allowed by shop/db[1]",
    )


def test_icmp_has_its_type_and_a_middle_packet_and_a_fragment_say_so() -> None:
    node = Node(WEB, DB, SHOP, DENY)
    echo = node.one(denied(packets.echo_request("10.244.1.10", "10.244.1.11", b"")))
    assert (echo.protocol, echo.icmp, echo.destination.port) == ("ICMP", (8, 0), None)
    middle = node.one(denied(packets.tcp("10.244.1.10", "10.244.1.11", 80, flags=0x10)))
    assert "not the first packet of a connection" in middle.notes[0]
    later = bytearray(packets.udp("10.244.1.10", "10.244.1.11", 80, b""))
    later[6:8] = struct.pack("!H", 9)
    assert node.one(denied(bytes(later))).notes == ("it is a later fragment of a packet, without ports",)


def test_repeats_are_one_more_report_of_the_same_number() -> None:
    node = Node(WEB, DB, SHOP, DENY)
    first = node.one(denied(syn(WEB, DB, 80)))
    for node.now in (1.0, 2.0, 3.0):
        assert node.report(denied(syn(WEB, DB, 80))) == []
    assert node.digest.due() == WINDOW
    node.now = WINDOW
    again = node.one()
    assert (again.number, again.count) == (first.number, 3)
    assert (again.last - again.first).total_seconds() == 2
    assert again.repeated
    assert not first.repeated


def test_the_loop_is_asked_once_for_many() -> None:
    node = Node(WEB, DB, SHOP, DENY)
    node.report(*(denied(syn(WEB, DB, port)) for port in range(1, AT_ONCE + 1)))
    assert len(node.asked) == 1


def test_what_is_too_much_is_counted_and_told() -> None:
    node = Node(WEB, DB, SHOP, DENY)
    found = node.report(*(denied(syn(WEB, DB, port)) for port in range(1, 2 * BURST + 1)))
    assert len(found) == BURST
    node.now = WINDOW
    told = [report for report in node.report() if isinstance(report, Unlogged)]
    assert [(report.packets, report.why) for report in told] == [(BURST, "there are too many different ones")]
    assert REASONS[told[0].why] == "too_many"
    node.now = 2 * WINDOW
    assert node.report() == []


def test_a_loop_that_is_too_busy_costs_the_names_and_not_the_report() -> None:
    node = Node(WEB, DB, SHOP, DENY)
    node.busy = True
    found = node.one(denied(syn(WEB, DB, 80)))
    assert (found.source, found.why) == (End("10.244.1.10"), "the agent was too busy to say why")


def test_a_foreign_prefix_and_garbage_are_counted() -> None:
    node = Node()
    assert node.report(Logged(2, 2, "somebody", b""), denied(b"garbage")) == []
    node.now = WINDOW
    (told,) = node.report()
    assert isinstance(told, Unlogged)
    assert (told.packets, told.why) == (2, "they cannot be read")
    assert REASONS[told.why] == "unreadable"


@given(st.lists(st.binary(max_size=80), max_size=20))
def test_whatever_comes_is_reported_or_counted(payloads: list[bytes]) -> None:
    node = Node(WEB, DB, SHOP, DENY)
    found = node.report(*map(denied, payloads))
    node.now = WINDOW
    found += node.report()
    told = sum(r.packets if isinstance(r, Unlogged) else r.count for r in found)
    assert told == len(payloads)


def test_a_report_survives_json_and_is_one_line_for_people() -> None:
    node = Node(WEB, DB, SHOP, DENY, TO_DB)
    found = node.one(denied(syn(WEB, DB, 5432)))
    line = as_json(found)
    assert b"\n" not in line
    assert from_json(line) == found
    assert as_text(found) == (
        "12:00:00 denied ingress TCP shop/web (10.244.1.10) to shop/db (10.244.1.11) port 5432: rule 1 of "
        "shop/db comes nearest: its peer matches, its port does not (TCP 5432 is not 8080)"
    )
    unlogged = Unlogged(NOON, 7, "the limit", "shop/db", Direction.INGRESS)
    assert from_json(as_json(unlogged)) == unlogged
    assert as_text(unlogged) == "12:00:00 not logged: 7 packets of ingress of shop/db, the limit"
    assert from_json(b'{"event":"another"}') is None


def test_prefixes_are_told_apart_and_fit() -> None:
    every = [Judged(verdict, direction) for verdict in Decided for direction in Direction]
    every += [
        Judged(Decided.DENIED, direction, cause, "eth0.link-further")
        for direction in Direction
        for cause in Cause
    ]
    assert [judged_by(one.prefix) for one in every] == every
    assert all(len(one.prefix) < 64 and " " not in one.prefix for one in every)
    assert judged_by("netpol-allowed-egress-link-eth0") is None
    assert judged_by("netpol-") is None
