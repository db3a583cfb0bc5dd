"""Rules that another program plants among the agent's own: each that lets through, or drops, is found."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.rules import names
from agent.kube.model import Namespace, NetworkPolicy, Object, Rule
from agent.net import Direction, Family
from agent.policy.engine import Engine
from agent.proof.difference import Result
from agent.proof.prove import prove
from tests.build import labelled, pod, upsert
from tests.property.kernel_model import Kernel
from tests.property.modelled import make_backend
from tests.property.test_proof import given_of, reading_of
from tests.property.words import HERE

PLANTED = (
    ("FORWARD", "-i eth7 -j ACCEPT"),
    ("FORWARD", "-o eth7 -j ACCEPT"),
    ("FORWARD", "-m physdev --physdev-in eth7 -j RETURN"),
    ("FORWARD", "-i eth7 -j DROP"),
    ("FORWARD", "-m mark --mark 0x8000/0x8000 -j ACCEPT"),
    ("FORWARD", "-m mark --mark 0x5 -j DROP"),
    ("FORWARD", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP"),
    ("FORWARD", "-m hl --hl-eq 64 -j DROP"),
    ("FORWARD", "-p icmp -m icmp --icmp-type 8 -j REJECT --reject-with icmp-port-unreachable"),
    ("FORWARD", "-m connmark --mark 0x0/0x1 -j DROP"),
    ("FORWARD", "-s 10.0.0.0/255.0.0.255 -j ACCEPT"),
    ("FORWARD", "-p tcp -j SET --add-set {cache} src,dst,dst --exist --timeout 600"),
    ("INGRESS", "-i eth7 -j RETURN"),
    ("INGRESS", "-m mark --mark 0x8000/0x8000 -j RETURN"),
)


def cluster() -> list[Object]:
    deny: tuple[Rule, ...] = ()
    return [
        Namespace("shop", {}),
        pod("web", "10.0.0.1", app="web"),
        pod("open", "10.0.0.3", app="open"),
        pod("far", "10.0.0.2", node="there"),
        NetworkPolicy("shop", "shut", labelled(app="web"), deny, deny),
    ]


def found(chain: str, rule: str) -> Result:
    engine, kernel = Engine(HERE), Kernel()
    engine.apply(upsert(*cluster()), 0.0)
    assert not make_backend(kernel).sync(engine.lowered).faults
    table = kernel.tables[Family.V4]
    cache = next((n for n in kernel.sets if n.startswith("KUBE-") and n.endswith("x")), "")
    for name, (shape, _) in kernel.sets.items():
        if shape.type == "hash:ip,port,ip" and name.endswith("4"):
            cache = name
    full = names.FORWARD if chain == "FORWARD" else names.judge(Direction.INGRESS)
    if rule:
        table[full] = (rule.format(cache=cache), *table[full])
    return prove(given_of(cluster()), reading_of(kernel))


@pytest.mark.guarantee("7.1")
@pytest.mark.parametrize(("chain", "rule"), PLANTED, ids=lambda part: part)
def test_a_planted_rule_is_found(chain: str, rule: str) -> None:
    assert found(chain, "").differences == ()
    assert found(chain, rule).differences, rule
