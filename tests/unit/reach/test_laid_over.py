"""Sets of parts laid over each other, few and thousands, held against the same for each part alone."""

from __future__ import annotations

from random import Random

import pytest

from agent.net import Protocol
from agent.reach.admits import laid_over
from agent.reach.known import bits
from agent.reach.ports import NONE, Ports, ports
from tests.work import work


def sets(count: int, parts: int, random: Random) -> list[tuple[Ports, int]]:
    """Return so many sets, most of them with one or two parts, some with half of all."""
    found = []
    for number in range(count):
        few = sum({1 << random.randrange(parts) for _ in range(random.randint(1, 2))})
        found.append(
            (ports(Protocol.TCP, number, number), random.getrandbits(parts) if number % 40 == 7 else few)
        )
    return found


@pytest.mark.parametrize(("count", "parts"), [(3, 5), (60, 90), (200, 300), (300, 40), (0, 4)])
def test_each_part_is_allowed_what_any_of_its_sets_allows(count: int, parts: int) -> None:
    found = [*sets(count, parts, Random(count)), (NONE, 1)]
    shares = laid_over(found, (1 << parts) - 1)
    allowed = {part: each for mask, each in shares for part in bits(mask)}
    assert sum(mask.bit_count() for mask, _ in shares) == len(allowed)
    assert len({each for _, each in shares}) == len(shares)
    for part in range(parts):
        wanted = NONE
        for each, mask in found:
            wanted = wanted | each if mask >> part & 1 else wanted
        assert allowed.get(part, NONE) == wanted


def test_rules_about_a_part_each_cost_what_there_are_of_them() -> None:
    def apart(count: int) -> int:
        found = [(ports(Protocol.TCP, number, number), 1 << number) for number in range(count)]
        return work(lambda: laid_over(found, (1 << count) - 1))

    assert apart(1600) < 4.6 * apart(400)
