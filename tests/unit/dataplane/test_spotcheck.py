"""Which sets are looked at, and when."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from agent.dataplane.iptables.ipset.members import SECONDS, SpotCheck
from agent.kernel.ipset_errors import SetError
from agent.net import Member


class Kernel:
    """Sets whose reading takes time."""

    def __init__(self, sets: Iterable[str], cost: float) -> None:
        self.sets: dict[str, set[Member]] = {name: {b"\0\0\0\1"} for name in sets}
        self.cost = cost
        self.now = 0.0
        self.read: list[str] = []

    def clock(self) -> float:
        return self.now

    def members(self, name: str) -> set[Member]:
        self.now += self.cost
        self.read.append(name)
        if name not in self.sets:
            raise SetError(name, "gone", code=errno.ENOENT)
        return self.sets[name]

    def wanted(self, *sets: str) -> dict[str, Callable[[], Iterable[Member]]]:
        return {name: lambda: {b"\0\0\0\1"} for name in sets}


def test_every_set_has_its_turn_and_each_look_is_short() -> None:
    kernel = Kernel("abcdefgh", SECONDS / 3.5)
    check = SpotCheck(kernel.members, kernel.clock)
    for _ in range(2):
        kernel.read.clear()
        for _ in range(4):
            before = kernel.now
            assert check.compare({}, kernel.wanted(*"abcdefgh")) == []
            assert kernel.now - before < 2 * SECONDS
        assert set(kernel.read) == set("abcdefgh")


def test_one_is_looked_at_however_long_it_takes_and_some_always() -> None:
    kernel = Kernel("abcx", 10 * SECONDS)
    check = SpotCheck(kernel.members, kernel.clock)
    for _ in range(4):
        check.compare(kernel.wanted("x"), kernel.wanted(*"abc"))
    assert kernel.read == ["x", "a", "x", "b", "x", "c", "x", "a"]


def test_what_is_lacking_and_what_is_too_much_is_told_and_one_that_is_gone_is_not() -> None:
    kernel = Kernel("ab", 0.0)
    kernel.sets["b"] = {b"\0\0\0\2", b"\0\0\0\3"}
    check = SpotCheck(kernel.members, kernel.clock)
    (difference,) = check.compare({}, kernel.wanted("a", "b", "c"))
    told = str(difference)
    assert told.startswith("set b lacks 1 member (")
    assert " and has 2 members too many (0.0.0.2, 0.0.0.3)" in told
