"""What iptables-save -c prints of the agent's rules, and what is made of it.

That the kernel's own output is read so is shown with real packets, in tests/kernel/test_counters.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from agent.dataplane.iptables.counters import counts
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.lists import FEW
from agent.dataplane.iptables.rules.render import pod_chain, policy_chains
from agent.dataplane.traffic import Subject, Told
from agent.kube.model import Key
from agent.net import Direction, Family, Network, NetworkMember
from agent.policy.lower.lowered import LoweredRule
from agent.policy.program import PodId, PodProgram, PolicyId, network_policies

POD = PodId(Direction.INGRESS, Key("shop", "db-0"))
ADDRESS = b"\n\0\0\5"


def lines(chains: Mapping[str, tuple[str, ...]], packets: int = 1) -> list[str]:
    """Print chains as iptables-save -c does, each rule with its own count: 1, 2, 3 … times ``packets``."""
    printed = ["*filter", ":FORWARD ACCEPT [0:0]"]
    rules = [(chain, rule) for chain, rules in chains.items() for rule in rules]
    printed += [f"[{n * packets}:{60 * n * packets}] -A {c} {r}" for n, (c, r) in enumerate(rules, 1)]
    return [*printed, "COMMIT"]


def total(
    chains: Mapping[str, tuple[str, ...]], *, policies: bool = False, packets: int = 1
) -> dict[Subject, int]:
    found: Counter[Subject] = Counter()
    for one in counts(Family.V4, lines(chains, packets), policies=policies):
        found[one.subject] += one.amount.packets
        assert one.amount.bytes == 60 * one.amount.packets
    return dict(found)


def test_a_pods_chain_says_what_it_denied_and_allowed() -> None:
    policies = (Key("shop", "a"), Key("shop", "b"))
    chains = pod_chain(POD, PodProgram((ADDRESS,), network_policies(policies)), Family.V4, Options())
    (rules,) = chains.values()
    allowing = [n for n, rule in enumerate(rules, 1) if rule.endswith("RETURN") or "ALLOW-INGRESS" in rule]
    assert total(chains) == {
        Subject(Told.DENIED, "ingress", "shop"): len(rules),
        Subject(Told.ALLOWED, "ingress", "shop"): sum(allowing),
    }
    assert len(allowing) == 3


def test_so_does_one_of_more_policies_than_it_names_itself() -> None:
    policies = tuple(Key("shop", f"p{n}") for n in range(FEW + 5))
    chains = pod_chain(POD, PodProgram((ADDRESS,), network_policies(policies)), Family.V4, Options())
    assert total(chains)[Subject(Told.ALLOWED, "ingress", "shop")] > 0


def test_a_pod_that_was_never_denied_has_a_count_all_the_same() -> None:
    chains = pod_chain(POD, PodProgram((ADDRESS,), network_policies(())), Family.V4, Options())
    assert total(chains, packets=0) == {
        Subject(Told.DENIED, "ingress", "shop"): 0,
    }


def test_a_policys_rules_are_counted_together_where_that_is_wanted() -> None:
    policy = PolicyId(Direction.EGRESS, Key("shop", "to-bank"))
    some = (NetworkMember(Network(b"\n\1\0\0", 16)), NetworkMember(Network(b"\n\2\0\0", 16)))
    rules = (LoweredRule(0, blocks=some, ports=None, peers=()), LoweredRule(1, peers=None, ports=None))
    chains = policy_chains(policy, rules, str)
    assert total(chains) == {}
    assert total(chains, policies=True) == {Subject(Told.BY_POLICY, "egress", "shop", "to-bank"): 1 + 2 + 3}


def test_what_is_denied_because_of_its_address_has_no_namespace() -> None:
    judge = names.judge(Direction.EGRESS)
    chains = {judge: (f'-m comment --comment "isolated for egress and no pod" -g {names.DENY}',)}
    assert total(chains) == {Subject(Told.DENIED, "egress", ""): 1}


def test_what_comes_by_another_pods_link_is_counted_for_that_pods_namespace() -> None:
    about = names.about("not an address of pod", Key("shop", "web-1"))
    chains = {names.link_chain("one", Direction.EGRESS, Family.V4, "veth1"): (f"{about} -g {names.DENY}",)}
    assert total(chains) == {Subject(Told.WRONG_LINK, "", "shop"): 1}


def test_what_others_have_there_counts_nothing() -> None:
    about = names.about("no ingress policy allows it: pod", Key("shop", "db-0"))
    assert total({"KUBE-POD-FW-ABCDEFGHIJKLMNOP": (f"{about} -g {names.DENY}",)}) == {}
