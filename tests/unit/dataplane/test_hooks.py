"""Where built-in chains lead to ours, and when that place is not good enough."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables import hooks
from agent.dataplane.iptables.tables.hooks import hook_rule, misplaced, needed, place, remove, unneeded

OURS = hook_rule("FORWARD")
OUTPUT = (hook_rule("OUTPUT"),)


def table(*forward: str, **chains: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {"FORWARD": forward, "OUTPUT": OUTPUT, "KUBE-NETPOL-FORWARD": (), **chains}


def reason(*forward: str, **chains: tuple[str, ...]) -> str | None:
    found = misplaced(table(*forward, **chains))
    assert found.keys() <= {"FORWARD"}
    return found.get("FORWARD")


def test_first_place_is_good() -> None:
    assert reason(OURS, "-j ACCEPT") is None


def test_a_missing_hook_is_told_for_each_built_in_chain() -> None:
    assert misplaced({}).keys() == {"FORWARD", "OUTPUT"}
    assert reason("-j ACCEPT") == "its rule is missing"


def test_input_leads_to_ours_only_where_there_is_something_to_lead_to() -> None:
    with_input = table(OURS, **{names.INPUT: (), "INPUT": ("-j ACCEPT",)})
    assert misplaced(with_input).keys() == {"INPUT"}
    assert misplaced(with_input, garbage={names.INPUT}) == {}
    assert needed(with_input) == ["INPUT", "FORWARD", "OUTPUT"]
    assert needed(table(OURS)) == ["FORWARD", "OUTPUT"]


def test_a_hook_that_leads_to_garbage_is_taken_out() -> None:
    hooked = table(OURS, **{names.INPUT: (), "INPUT": (hook_rule("INPUT"), "-j ACCEPT")})
    assert unneeded(hooked, {names.INPUT}) == [f"-D INPUT {hook_rule('INPUT')}"]
    assert unneeded(hooked, ()) == unneeded(table(OURS), {names.INPUT}) == []


def test_a_hook_that_is_there_twice_is_put_right() -> None:
    assert reason(OURS, OURS) is not None


def test_the_hook_of_an_earlier_version_is_replaced() -> None:
    old = f'-m comment --comment "netpol-agent enforces NetworkPolicy" {OURS}'
    assert reason(old) == "its rule is missing"
    assert reason(OURS, old) is not None
    for rules in ((old,), (OURS, old)):
        lines = place(table(*rules), {"FORWARD": ""})
        assert lines == [*(f"-D FORWARD {rule}" for rule in rules), f"-I FORWARD 1 {OURS}"]


@pytest.mark.parametrize(
    "rule",
    [
        "-j ACCEPT",
        "-i eth0 -m comment --comment fine -j ACCEPT",
        "-j NFQUEUE --queue-num 0",
        "! -i lo -j ACCEPT",
        "-j RETURN",
        "-s 10.0.0.0/8 -j RETURN",
        '-m comment --comment "-i lo" -j ACCEPT',
        "-m comment --comment -i -j ACCEPT",
        "-m comment --comment -j -j ACCEPT",
        "-m comment --comment --comment -j ACCEPT",
        '-m comment --comment "it\\"s -j DROP" -j ACCEPT',
        '-m comment --comment "never closed -j ACCEPT',
    ],
)
def test_a_rule_before_ours_that_lets_packets_pass_displaces_it(rule: str) -> None:
    assert reason(rule, OURS) is not None


@pytest.mark.parametrize(
    "rule",
    [
        "-j DROP",
        "-j REJECT --reject-with icmp-port-unreachable",
        "-m conntrack --ctstate INVALID -j DROP",
        "-j MARK --set-xmark 0x1/0x1",
        "-j LOG",
        "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        "-i lo -j ACCEPT",
        "-o lo -j ACCEPT",
        "-m comment --comment ACCEPT -j DROP",
        "-m comment --comment -i",
        "",
        "-j GONE",
    ],
)
def test_a_rule_before_ours_that_lets_nothing_pass_may_stay(rule: str) -> None:
    assert reason(rule, OURS) is None


def test_a_chain_that_accepts_somewhere_below_displaces() -> None:
    assert reason("-j A", OURS, A=("-s 10.0.0.1/32 -j B",), B=("-j DROP", "-j ACCEPT")) is not None
    assert reason("-j A", OURS, A=("-j B",), B=("-j RETURN", "-j DROP")) is None


def test_a_chain_that_only_drops_may_stay_even_where_chains_run_in_circles() -> None:
    assert reason("-j A", OURS, A=("-j B",), B=("-j A", "-j DROP")) is None


def test_a_goto_from_a_built_in_chain_never_comes_back() -> None:
    # What a chain reached by goto does not decide, the built-in chain's policy does, not the rules after it.
    assert reason("-g A", OURS, A=("-j DROP",)) is not None
    assert reason("-j A", OURS, A=("-g B",), B=("-j RETURN",)) is None


def test_putting_in_front_takes_every_old_one_out_first() -> None:
    assert place(table("-j ACCEPT", OURS, OURS), {"FORWARD": ""}) == [
        f"-D FORWARD {OURS}",
        f"-D FORWARD {OURS}",
        f"-I FORWARD 1 {OURS}",
    ]
    assert place(table(), {"FORWARD": ""}) == [f"-I FORWARD 1 {OURS}"]


def test_every_rule_of_somebody_else_that_leads_to_ours_is_taken_out() -> None:
    found = table(OURS, "-j ACCEPT", USER=("-s 10.0.0.1/32 -g KUBE-NETPOL-DENY", "-j DROP"))
    assert remove(found) == [
        f"-D FORWARD {OURS}",
        f"-D OUTPUT {OUTPUT[0]}",
        "-D USER -s 10.0.0.1/32 -g KUBE-NETPOL-DENY",
    ]


def test_hooks_lead_to_chains_of_ours() -> None:
    assert all(names.is_ours(chain) for chain in hooks.HOOKS.values())
