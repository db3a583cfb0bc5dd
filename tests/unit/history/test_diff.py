"""What changed in an object, in lines."""

from __future__ import annotations

import pytest

from agent.history.diff import LINES, lines
from agent.kube.model import (
    IPBlock,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Object,
    Operator,
    Peer,
    Pod,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.net import Network, Protocol

WEB = Selector((Requirement("app", Operator.IN, ("web",)),))
API = Selector((Requirement("app", Operator.IN, ("api",)),))
TEAM = Selector((Requirement("team", Operator.IN, ("a",)),))
HTTP, DNS = Port(Protocol.TCP, 80), Port(Protocol.UDP, "dns")


def policy(*ingress: Rule, selector: Selector = WEB, egress: tuple[Rule, ...] | None = None) -> NetworkPolicy:
    return NetworkPolicy("shop", "db", selector, ingress, egress)


def test_a_policy_that_is_added_or_deleted_is_told_whole() -> None:
    whole = policy(
        Rule((Peer(API),), (HTTP,)),
        Rule((Peer(namespace_selector=TEAM), Peer(Selector(), Selector())), (Port(Protocol.TCP, 1, 9), DNS)),
        egress=(Rule(),),
    )
    said = (
        "selects pods[app=web]",
        "isolates ingress",
        "ingress[0] from pods[app=api] port 80/TCP",
        "ingress[1] from namespaces[team=a], all pods in all namespaces port 1-9/TCP, dns/UDP",
        "isolates egress",
        "egress[0] to any port any",
    )
    assert lines(None, whole) == tuple(f"+{line}" for line in said)
    assert lines(whole, None) == tuple(f"-{line}" for line in said)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        pytest.param(policy(Rule()), policy(Rule()), (), id="nothing"),
        pytest.param(
            policy(Rule((Peer(API),))),
            policy(Rule((Peer(API),)), Rule((Peer(WEB),), (HTTP,))),
            ("+ingress[1] from pods[app=web] port 80/TCP",),
            id="a rule more",
        ),
        pytest.param(
            policy(Rule((Peer(API),)), Rule((), (HTTP,)), Rule((), (DNS,))),
            policy(Rule((Peer(API),)), Rule((), (DNS,))),
            ("-ingress[1] from any port 80/TCP",),
            id="a rule less in the middle",
        ),
        pytest.param(
            policy(Rule(), Rule((Peer(API), Peer(WEB)), (HTTP,))),
            policy(Rule(), Rule((Peer(API), Peer(None, TEAM)), (HTTP,))),
            ("-ingress[1] from pods[app=web]", "+ingress[1] from namespaces[team=a]"),
            id="a peer of a rule",
        ),
        pytest.param(
            policy(Rule((Peer(API),), (HTTP,))),
            policy(Rule((Peer(API),), (HTTP, DNS))),
            ("+ingress[0] port dns/UDP",),
            id="a port of a rule",
        ),
        pytest.param(
            policy(Rule((Peer(API),), (HTTP,))),
            policy(Rule((), (HTTP,))),
            ("-ingress[0] from pods[app=api] port 80/TCP", "+ingress[0] from any port 80/TCP"),
            id="from some to any is never told as less",
        ),
        pytest.param(
            policy(),
            policy(selector=API),
            ("-selects pods[app=web]", "+selects pods[app=api]"),
            id="selector",
        ),
        pytest.param(
            policy(egress=(Rule(),)), policy(), ("-isolates egress", "-egress[0] to any port any"), id="types"
        ),
        pytest.param(
            policy(Rule((Peer(block=IPBlock(Network(bytes((10, 0, 0, 0)), 8))),))),
            policy(
                Rule(
                    (
                        Peer(
                            block=IPBlock(
                                Network(bytes((10, 0, 0, 0)), 8), (Network(bytes((10, 1, 0, 0)), 16),)
                            )
                        ),
                    )
                )
            ),
            ("-ingress[0] from 10.0.0.0/8", "+ingress[0] from 10.0.0.0/8 except 10.1.0.0/16"),
            id="a block",
        ),
    ],
)
def test_of_a_policy_that_changed_only_what_changed_is_told(
    old: Object, new: Object, told: tuple[str, ...]
) -> None:
    assert lines(old, new) == told


def test_a_peer_of_a_field_not_known_is_nobody() -> None:
    assert lines(policy(), policy(Rule((Peer(),)))) == ("+ingress[0] from nobody port any",)


def test_a_diff_is_bounded_in_lines_and_in_each_line() -> None:
    many = policy(*(Rule((), (Port(Protocol.TCP, number),)) for number in range(100)))
    found = lines(None, many)
    assert len(found) == LINES
    assert found[-1] == "and 83 more"
    wide = policy(
        Rule(tuple(Peer(Selector((Requirement("a" * 60 + str(n), Operator.EXISTS),))) for n in range(50)))
    )
    assert [len(line) for line in lines(policy(), wide)] == [300]


def test_two_great_lists_of_rules_are_compared_at_their_ends_and_else_counted() -> None:
    def rules(first: int, number: int) -> tuple[Rule, ...]:
        return tuple(Rule((), (Port(Protocol.TCP, port),)) for port in range(first, first + number))

    old = policy(*rules(0, 4_000))
    assert lines(old, policy(*rules(0, 4_000), Rule((), (DNS,)))) == ("+ingress[4000] from any port dns/UDP",)
    assert lines(old, policy(*rules(4_000, 4_000))) == ("ingress: 4000 rules before, 4000 now",)


def test_what_changed_of_a_pod() -> None:
    old = Pod("shop", "db-0", "1", {"app": "db", "tier": "old"}, "here", ())
    new = Pod(
        "shop",
        "db-0",
        "1",
        {"app": "db", "tier": "new"},
        "here",
        (bytes((10, 0, 0, 5)),),
        (NamedPort("sql", Protocol.TCP, 5432),),
    )
    assert lines(old, new) == (
        "+address 10.0.0.5",
        "-label tier=old",
        "+label tier=new",
        "+port sql 5432/TCP",
    )
    assert lines(new, Pod("shop", "db-0", "2", new.labels, "here", new.addresses, new.ports)) == (
        "another pod of the same name",
    )
    assert lines(old, Pod("shop", "db-0", "1", old.labels, "here", finished=True)) == ("+finished",)


def test_what_changed_of_a_namespace() -> None:
    assert lines(Namespace("shop", {"team": "a"}), Namespace("shop", {}, ingress_isolated=True)) == (
        "-label team=a",
        "+isolates ingress",
    )


def test_what_tenants_write_is_one_printable_line() -> None:
    found = lines(None, Namespace("shop", {"a": "x\n\x1b[31mready"}))
    assert found == ("+label a=x [31mready",)


def test_rules_that_are_there_many_times_are_not_compared() -> None:
    """Finding what is alike among them would take half a second of the only processor that Python uses."""
    sorts = [Rule((), (Port(Protocol.TCP, number),)) for number in (1, 2, 3)]
    old = policy(*(sorts[number % 2] for number in range(400)))
    new = policy(sorts[2], *(sorts[number // 2 % 2] for number in range(400)), sorts[2])
    assert lines(old, new) == ("ingress: 400 rules before, 402 now",)
    few = policy(sorts[2], *old.ingress[:20] if old.ingress else ())
    assert lines(policy(*few.ingress[1:] if few.ingress else ()), few) == ("+ingress[0] from any port 3/TCP",)
