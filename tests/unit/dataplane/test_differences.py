"""How differences are compared, and told."""

from __future__ import annotations

import pytest

from agent.dataplane.differences import Difference, What
from agent.net import Family

TOLD = {
    Difference(What.REFUSED): "kube-router's firewall writes here",
    Difference(
        What.RULES_UNREAD, Family.V6, detail="no {answer}"
    ): "IPv6: the rules cannot be read: no {answer}",
    Difference(What.CHAIN_GONE, Family.V4, "X"): "IPv4: chain X is gone",
    Difference(What.CHAIN_CHANGED, Family.V6, "X"): "IPv6: chain X is not as it was left",
    Difference(What.HOOK, Family.V4, "FORWARD", "its rule is missing"): "IPv4: FORWARD: its rule is missing",
    Difference(What.SET_SIZE, name="s", detail="1 member, not 2"): "set s has 1 member, not 2",
    Difference(What.KERNEL_UNREAD, detail="why"): "the kernel cannot be read: why",
    Difference(What.FRAMES, detail="table netdev t is gone"): "table netdev t is gone",
}


@pytest.mark.parametrize("difference", TOLD, ids=lambda difference: difference.what.name)
def test_each_is_told_in_a_sentence(difference: Difference) -> None:
    assert str(difference) == TOLD[difference]


def test_everything_has_a_sentence() -> None:
    assert all(str(Difference(what, detail="detail")) for what in What)


def test_what_is_the_same_is_equal_and_another_detail_is_another_difference() -> None:
    assert Difference(What.SET_GONE, name="s") in frozenset({Difference(What.SET_GONE, name="s")})
    one, two = (Difference(What.SET_SIZE, name="s", detail=f"{n} members, not 3") for n in (1, 2))
    assert one != two
