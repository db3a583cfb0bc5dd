"""A rule says of itself what its text says; read back from the kernel as text, it says the same."""

from __future__ import annotations

import shlex
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names, parse
from agent.dataplane.iptables.rules.draft import Draft
from agent.dataplane.iptables.rules.node import NodeFacts
from agent.dataplane.iptables.rules.rule import (
    Chains,
    Guard,
    InSet,
    Leaf,
    PolicyRule,
    described,
    goto,
    in_set,
    jump,
    sets_in,
)
from agent.dataplane.iptables.rules.set_names import SetNames
from agent.kube.model import Key
from agent.net import Direction, Family
from agent.policy.engine import Engine
from agent.policy.program import PodId, PolicyId
from tests.build import upsert
from tests.property.clusters import RandomCluster, clusters
from tests.property.words import HERE

OPTIONS = (Options(), Options(accept=True, reject=True))


def rendered(cluster: RandomCluster, options: Options) -> tuple[Engine, dict[Family, Chains]]:
    engine = Engine(HERE, allow_nodes=True)
    engine.apply(upsert(*cluster.objects), 0.0)
    set_names = SetNames(
        {family: names.cache("nft", family) for family in Family},
        {family: names.transit_set(family) for family in Family},
        {family: names.untracked_set("nft", family) for family in Family},
        {(d, f): names.closed_set(d, f) for d in Direction for f in Family},
    )
    return engine, Draft(Family, NodeFacts(options)).render_all(engine.lowered, set_names)


@given(clusters(), st.sampled_from(OPTIONS))
def test_a_rule_that_was_read_back_leads_where_the_rule_that_was_written_does(
    cluster: RandomCluster, options: Options
) -> None:
    for chains in rendered(cluster, options)[1].values():
        for rule in (rule for rules in chains.values() for rule in rules):
            read = parse.ours(str(rule))
            assert read == rule
            assert (read.target, read.goto, read.in_sets) == (rule.target, rule.goto, rule.in_sets)
            assert isinstance(read.about, Leaf) is isinstance(rule.about, Leaf)
            if isinstance(rule.about, Leaf) and isinstance(read.about, Leaf):
                address, pod = rule.about
                assert read.about.address == address
                assert read.about.pod.direction is pod.direction
                assert str(read.about.pod.pod) == names.shortened(pod.pod, names.COMMENT_MAX - len("pod "))


@given(clusters())
def test_what_allows_or_denies_says_whom_it_serves(cluster: RandomCluster) -> None:
    engine, families = rendered(cluster, OPTIONS[0])
    for family, chains in families.items():
        for policy, program in engine.lowered.policies.items():
            numbers = {rule.number for rule in program.rules(family)}
            for rule in chains[names.policy_chain(policy)]:
                if rule.target == names.allow(policy.direction):
                    assert isinstance(rule.about, PolicyRule)
                    assert rule.about.policy == policy
                    assert rule.about.number in numbers
        for pod in engine.lowered.pods:
            rules = chains.get(names.pod_chain(pod), ())
            assert all(rule.about == pod for rule in rules if rule.target == names.DENY)
        for rule in chains[names.BRIDGED]:
            assert isinstance(rule.about, Guard) is (rule.target == "DROP")


def test_only_the_chains_whose_text_is_another_one_are_taken_apart() -> None:
    held: Chains = {"A": (jump("RETURN", "-i lo", about=Guard.NODES),), "B": (jump("DROP"),)}
    found = parse.known({"A": ("-i lo -j RETURN",), "B": ("-j DROP", "-g A"), "C": ()}, held)
    assert found["A"] is held["A"]
    assert [(rule.target, rule.goto, rule.about) for rule in found["B"]] == [
        ("DROP", False, None),
        ("A", True, None),
    ]
    assert found["C"] == ()


@pytest.mark.parametrize("text", ["", "-i lo", '-m comment --comment "-j X"', "[nft 7 ?] by other means"])
def test_what_leads_nowhere_that_is_known_is_kept_as_it_is(text: str) -> None:
    read = parse.ours(text)
    assert read == text
    assert not read.target.startswith("KUBE-")
    assert read.in_sets == ()


def test_a_rule_is_frozen_and_does_without_a_set() -> None:
    rule = goto("X", "-i lo", in_set("A", "src"), about=Guard.CLOSED)
    with pytest.raises(AttributeError, match="frozen"):
        rule.target = "Y"
    (match,) = rule.in_sets
    without, other = rule.without(match), rule.without(match, InSet("B", "src"))
    assert (without, without.in_sets, without.about) == ("-i lo -g X", (), Guard.CLOSED)
    assert other == "-i lo -m set --match-set B src -g X"
    assert sets_in((rule, without, other)) == {"A", "B"}
    assert jump("X", in_set("A", "dst", negated=True)) == "-m set ! --match-set A dst -j X"


def test_a_chain_is_described_by_the_first_rule_that_serves_something() -> None:
    policy, pod = PolicyId(Direction.INGRESS, Key("ns", "p")), PodId(Direction.EGRESS, Key("ns", "a"))
    for about, text in (
        (PolicyRule(policy, 2), "rule 2 ingress of ns/p"),
        (policy, "ingress policy ns/p"),
        (pod, "egress of pod ns/a"),
        (Leaf(bytes(4), pod), "egress of pod ns/a"),
        (Guard.CLOSED, str(Guard.CLOSED)),
        (None, "no pod or policy in particular"),
    ):
        assert described((jump("RETURN"), jump("DROP", about=about))) == text


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("-s 10.0.0.0/8 -j DOCKER-USER", ("DOCKER-USER", False)),
        ("-g cali-FORWARD", ("cali-FORWARD", True)),
        ('-m comment --comment "-j DROP" -j ACCEPT', ("ACCEPT", False)),
        ('-m string --string "-j" --algo bm --to 65535 -j DROP', ("DROP", False)),
        ('-j LOG --log-prefix "-g"', ("LOG", False)),
        ('-m string --string "-j" --algo bm --to 65535', (None, False)),
        ("-i eth0", (None, False)),
        ("-j", (None, False)),
        ("-m string --string \"' -j ACCEPT", ("ACCEPT", False)),
    ],
)
def test_a_rule_of_others_leads_where_it_says_whatever_it_looks_for(
    text: str, target: tuple[str | None, bool]
) -> None:
    read = parse.foreign(text)
    assert (read.target, read.goto) == target


def test_a_rule_is_split_into_words_as_a_shell_splits_it() -> None:
    random = Random(7)
    simple = 0
    for _ in range(10_000):
        text = "".join(random.choices(' ab-"\'\\é\t#!"  "', k=random.randint(0, 9)))
        try:
            words = shlex.split(text)
        except ValueError:
            with pytest.raises(ValueError, match=r"No closing quotation|No escaped character"):
                parse.split(text)
            continue
        assert parse.split(text) == words
        simple += '"' in text
    assert simple > 500
