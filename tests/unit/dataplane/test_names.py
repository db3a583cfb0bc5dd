"""Names and comments fit the kernel and tell what is ours."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.render import node_name
from agent.dataplane.iptables.rules.tree import Prefix
from agent.kernel.ipset import NAME_LENGTH, spare_name
from agent.kube.model import Key
from agent.net import Direction, Family
from agent.policy.lower.lowered import SetId, SetKind
from agent.policy.program import PodId, PolicyId

CHAIN_LENGTH = 28
LONGEST = Key("n" * 63, "p" * 253)
HASHED = re.compile(r"KUBE-[A-Z0-9-]+-[a-z2-7]{16}")

keys = st.builds(Key, st.text(min_size=1, max_size=63), st.text(min_size=1, max_size=253))


def chains(key: Key) -> list[str]:
    found = []
    for direction in Direction:
        policy = PolicyId(direction, key)
        found += [names.policy_chain(policy), names.pod_chain(PodId(direction, key))]
        found += [names.rule_chain(policy, number) for number in (0, 1, 11)]
    return found


def sets(meaning: str) -> list[str]:
    return [
        names.peer_set(SetId(kind, direction, family, meaning))
        for kind in SetKind
        for direction in Direction
        for family in Family
    ]


@given(keys)
def test_hashed_chains_fit_and_are_lower_case(key: Key) -> None:
    for chain in chains(key):
        assert len(chain) <= CHAIN_LENGTH
        assert HASHED.fullmatch(chain)
        assert names.is_ours(chain)


@given(keys)
def test_chains_of_audits_are_known_for_theirs_by_versions_that_audit_nothing(key: Key) -> None:
    """Otherwise an older agent would keep them, and could not remove the policies that they lead to."""
    fixed = re.compile(r"KUBE-NETPOL-[A-Z-]+")
    made = {names.audit_pod_chain(PodId(d, key)) for d in Direction}
    made |= {
        names.audit_tree_chain(d, f, where) for d in Direction for f in Family for where in ("", str(key))
    }
    assert len(made) == len(Direction) * (1 + 2 * len(Family))
    for chain in (*made, names.AUDIT, names.AUDIT_IN):
        assert len(chain) <= CHAIN_LENGTH
        assert fixed.fullmatch(chain)
        assert names.is_ours(chain)


def test_fixed_chains_and_tree_nodes_fit_and_are_ours() -> None:
    fixed = [names.FORWARD, names.OUTPUT, names.BRIDGED, names.DENY]
    fixed += [f(d) for d in Direction for f in (names.judge, names.allow)]
    nodes = [node_name(d, Family.V6, Prefix(1 << 127, length)) for d in Direction for length in (0, 1, 128)]
    for chain in fixed + nodes:
        assert len(chain) <= CHAIN_LENGTH
        assert names.is_ours(chain)


@given(st.text(max_size=300))
def test_sets_fit_under_every_name_that_they_pass_through(meaning: str) -> None:
    found = sets(meaning)
    found += [names.isolated_set(d, f) for d in Direction for f in Family]
    found += [names.nodes_set(f) for f in Family]
    for name in found:
        forms = [name, names.alternate(name), spare_name(name), spare_name(names.alternate(name))]
        assert len(set(forms)) == 4
        for form in forms:
            assert len(form) <= NAME_LENGTH
            assert names.is_our_set(form)
        assert names.counterpart(name) == names.alternate(name)
        assert names.counterpart(names.alternate(name)) == name


def test_what_differs_has_another_name() -> None:
    keys = [Key(*parts) for parts in itertools.product(("a", "ab", "a1"), ("b", "bb", "1b"))]
    found = [chain for key in keys for chain in chains(key)]
    found += [name for meaning in ("", "a", "b") for name in sets(meaning)]
    assert len(set(found)) == len(found)


def test_the_parts_of_a_hash_cannot_run_into_each_other() -> None:
    assert names.digest("ab", "c") != names.digest("a", "bc")
    assert names.digest("a", "") != names.digest("a")
    assert names.digest("1:a") != names.digest("1", "a")


def test_names_of_other_programs_are_not_ours() -> None:
    for chain in (
        "KUBE-POD-FW-ABCDEFGHIJKLMNOP",
        "KUBE-NWPLCY-DEFAULT",
        "KUBE-NWPLCY-COMMON",
        "KUBE-ROUTER-FORWARD",
        "KUBE-SVC-ABCDEFGHIJKLMNOP",
        "KUBE-FORWARD",
        "KUBE-SERVICES",
        "FORWARD",
        "KUBE-POD-FW-abcdefghijklmnopq",
    ):
        assert not names.is_ours(chain)
    for name in (
        "KUBE-SRC-ABCDEFGHIJKLMNOP",
        "KUBE-DST-4-ABCDEFGHIJKLMNOP",
        "KUBE-CLUSTER-IP",
        "KUBE-NODE-PORT-TCP",
        "KUBE-ISOLATED",
        "KUBE-SRC-4-abcdefghijklmnop-x",
        "KUBE-SRC-4-abcdefghijklmnop-g-s",
    ):
        assert not names.is_our_set(name)


@given(keys, st.sampled_from(("rule 4294967295 ingress of", "no egress policy allows it: pod", "pod")))
def test_a_comment_fits_begins_with_what_it_says_and_is_one_quoted_word(key: Key, prefix: str) -> None:
    found = names.about(prefix, key)
    assert found.startswith(f'-m comment --comment "{prefix} ')
    assert len(names.comment("")) + names.COMMENT_MAX >= len(found)


def test_the_longest_name_is_shortened_by_us_with_a_hash() -> None:
    found = names.about("rule 12 ingress of", LONGEST, " to itself")
    text = found.split('"')[1]
    assert len(text.encode()) <= 255
    assert re.fullmatch(r"rule 12 ingress of n{63}/p+~[a-z2-7]{8} to itself", text)
    other = names.about("rule 12 ingress of", LONGEST._replace(name="p" * 252 + "q"), " to itself")
    assert other != found


def test_a_name_that_fits_is_written_whole() -> None:
    assert names.shortened(Key("ns", "name"), 100) == "ns/name"
