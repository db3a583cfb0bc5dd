"""Rules as they are read: what they ask, what they do, and what is not known of them."""

from __future__ import annotations

import pytest

from agent.proof.lines import Condition, line


def test_a_rule_is_what_it_asks_and_what_it_does() -> None:
    found = line(
        "! -s 10.0.0.0/8 -p tcp -m tcp --dport 80:90 -m set ! --match-set KUBE-DST-4-a dst,dst "
        '-m comment --comment "rule 0 ingress of a/b -j ACCEPT \\" -p udp" -g KUBE-NETPOL-ALLOW-INGRESS'
    )
    assert found.conditions == (
        Condition("-s", "10.0.0.0/8", negated=True),
        Condition("-p", "tcp"),
        Condition("--dport", "80:90"),
        Condition("--match-set", "KUBE-DST-4-a", "dst,dst", True),
    )
    assert (found.target, found.goto, found.unread, found.special) == (
        "KUBE-NETPOL-ALLOW-INGRESS",
        True,
        "",
        False,
    )


def test_marks_and_sets_that_are_added_to_are_read() -> None:
    assert line("-j MARK --set-xmark 0x10000/0x30000").xmark == (0x10000, 0x30000)
    assert line("-j SET --add-set KUBE-CACHE-nft-4 src,dst,dst --timeout 10").adds == "KUBE-CACHE-nft-4"


@pytest.mark.parametrize(
    ("text", "special"),
    [
        ("-p icmp -m icmp --icmp-type 5 -j DROP", True),
        ("-p icmp -m icmp ! --icmp-type 5 -j DROP", False),
        ("-m connmark --mark 0x40/0x40 -g KUBE-NETPOL-CUT", True),
        ("-m mark --mark 0x40/0x40 -j RETURN", False),
    ],
)
def test_packets_of_a_kind_that_no_policy_knows_are_told_apart(text: str, special: bool) -> None:
    assert line(text).special is special
    assert line(text).unread == ""


@pytest.mark.parametrize(
    "text",
    [
        "-m ttl --ttl-eq 7 -j RETURN",
        "-m string --string x --algo bm -j ACCEPT",
        "-s 10.0.0.0/8 --what -j ACCEPT",
        "-j MARK",
        "-j MARK --set-xmark nothing",
        "-m set --match-set KUBE-SRC-4-a",
        "[nft 12 ?]",
    ],
)
def test_what_is_not_known_is_never_passed_over(text: str) -> None:
    assert line(text).unread
