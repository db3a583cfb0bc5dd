"""A NetworkPolicy as a program: what holds, in no form of any backend."""

from __future__ import annotations

import pytest

from agent.kube.model import Key, NetworkPolicy, Peer, Port, Rule, Selector
from agent.net import Direction, Protocol
from agent.policy import program
from agent.policy.compile import compile_policy
from agent.policy.engine import Engine
from agent.policy.lower.policy import lower_policy
from agent.policy.program import PodId, PolicyId, PolicyProgram, PortName, PortRange, Predicate, Tier, Verdict
from tests.build import block, labelled, pod, upsert

IN, OUT = Direction

WEB = labelled(app="web")
BLOCK = block("10.0.0.0/8", "10.1.0.0/16")


def ingress(*rules: Rule) -> tuple[program.Rule, ...]:
    compiled = compile_policy(NetworkPolicy("shop", "p", ingress=rules), IN)
    assert compiled is not None
    return compiled.rules


def test_a_rule_says_exactly_what_the_policy_does() -> None:
    everywhere = Peer(None, labelled(team="a"))
    ports = (Port(Protocol.TCP, 81, 90), Port(Protocol.TCP, 80), Port(Protocol.UDP, "dns"))
    assert ingress(Rule((Peer(WEB), everywhere, Peer(WEB), Peer(block=BLOCK)), ports)) == (
        program.Rule(
            number=0,
            action=Verdict.ALLOW,
            peers=(Predicate("shop", None, WEB), Predicate(None, labelled(team="a"), Selector())),
            blocks=(BLOCK,),
            ports=(PortRange(Protocol.TCP, 80, 90),),
            names=(PortName("dns", Protocol.UDP),),
        ),
    )


def test_no_peers_are_any_peer_and_no_ports_any_port() -> None:
    assert ingress(Rule()) == (program.Rule(0, Verdict.ALLOW, None, (), None, ()),)


def test_peers_that_mean_nobody_are_not_any_peer() -> None:
    (rule,) = ingress(Rule((Peer(),)), Rule((Peer(), Peer(WEB))))
    assert (rule.number, rule.peers, rule.blocks) == (1, (Predicate("shop", None, WEB),), ())
    (rule,) = ingress(Rule((Peer(block=BLOCK),)))
    assert (rule.peers, rule.blocks) == ((), (BLOCK,))


def test_a_name_alone_is_no_number() -> None:
    (rule,) = ingress(Rule((), (Port(Protocol.TCP, "http"),)))
    assert (rule.ports, rule.names) == ((), (PortName("http", Protocol.TCP),))


def test_a_direction_that_is_not_named_has_no_program_and_one_without_rules_an_empty_one() -> None:
    policy = NetworkPolicy("shop", "p", ingress=())
    assert compile_policy(policy, IN) == PolicyProgram(())
    assert compile_policy(policy, OUT) is None


def test_only_what_allows_can_be_lowered() -> None:
    (rule,) = ingress(Rule())
    with pytest.raises(ValueError, match="allow"):
        lower_policy(PolicyProgram((rule._replace(action=Verdict.DENY),)), IN)


def test_a_selected_pod_is_judged_and_denied_unless_allowed_even_while_no_policy_is_enforced() -> None:
    engine = Engine("here")
    policy = NetworkPolicy("shop", "p", WEB, ingress=(Rule(),))
    engine.apply(upsert(pod("web", "10.0.0.1"), policy), 0.0, most=0)
    found = engine.program.pods[PodId(IN, Key("shop", "web"))]
    assert engine.waiting == 1
    assert (found.tiers, found.default) == ((Tier("NetworkPolicy", ()),), Verdict.DENY)
    assert engine.program.policies == {}
    engine.apply((), 0.0)
    found = engine.program.pods[PodId(IN, Key("shop", "web"))]
    assert (found.tiers, found.default) == ((Tier("NetworkPolicy", (policy.key,)),), Verdict.DENY)
    assert engine.program.policies == {PolicyId(IN, policy.key): compile_policy(policy, IN)}
    assert PodId(OUT, Key("shop", "web")) not in engine.program.pods
