"""What is said beside a verdict: the mistakes that are likely behind it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.kube.model import Attached, NetworkPolicy, Port, Rule
from agent.net import Direction
from tests.build import labelled
from tests.unit.spec.scene import (
    STRANGER,
    TCP,
    UDP,
    WEB,
    ask,
    egress,
    ingress,
)


def test_hints_name_the_policies_that_are_not_for_a_pod_and_decide_nothing() -> None:
    typo = NetworkPolicy("shop", "p", labelled(app="wbe"), ingress=())
    found = ask(typo)
    assert found.ingress.hints == (
        "shop/p is not for shop/web: its podSelector is app=wbe, the pod has app=web",
    )
    assert (found.allowed, found.egress.hints) == (True, ())
    many = (NetworkPolicy("shop", f"p{n}", labelled(app="x"), ingress=()) for n in range(5))
    assert ask(*many).ingress.hints[3:] == ("policies of its namespace that are not for it either: 2 more",)
    assert ask(ingress(name="q"), typo).ingress.hints == (), "what decides is enough"


def test_a_hint_says_that_rules_of_a_direction_that_is_not_named_have_no_effect() -> None:
    ignored = NetworkPolicy("shop", "p", labelled(app="client"), ingress=(), ignored=(Direction.EGRESS,))
    assert ask(ignored).egress.hints == (
        "the rules for egress of shop/p have no effect: its policyTypes do not name Egress; add Egress there",
    )
    assert ask(ignored).allowed
    assert ask(ignored, source=STRANGER).egress.hints == (), "it is not that pod's"


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ((Port(TCP, 5432),), True),
        ((Port(TCP, 53),), True),
        ((Port(UDP, 53),), False),
        ((Port(UDP, 50, 60),), False),
        ((Port(UDP, "dns"),), False),
        ((Port(UDP, None),), False),
        ((), False),
    ],
)
def test_a_hint_says_that_dns_was_forgotten(ports: tuple[Port, ...], said: bool) -> None:
    hints = ask(egress(Rule(ports=ports))).egress.hints
    wanted = "DNS is not allowed: no egress rule for shop/client has UDP port 53, so it cannot look up names"
    assert hints == ((wanted,) if said else ())


def test_a_hint_says_that_an_address_is_told_by_the_network_plugin() -> None:
    early = replace(WEB, attached=Attached(1, WEB.addresses, early=True))
    said = "the address of shop/web is told by its network plugin (CNI): its status does not say it yet"
    assert ask(early).ingress.hints == (said,)
    assert ask(early, ingress()).ingress.hints == (said,)
    reported = replace(WEB, attached=Attached(1, WEB.addresses))
    assert ask(reported).ingress.hints == ()
