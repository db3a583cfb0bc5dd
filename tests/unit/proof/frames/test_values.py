"""A value for each way in which comparisons may turn out, against all values that there are."""

from __future__ import annotations

from random import Random

import pytest

from agent.proof.frames.values import TooManyError, values


@pytest.mark.parametrize("seed", range(60))
def test_each_way_in_which_comparisons_may_turn_out_has_a_value(seed: int) -> None:
    random = Random(seed)
    masks = [random.choice((0xF0, 0x0F, 0xC0, 0x81, 0x18)) for _ in range(random.randrange(5))]
    compared = [(mask, random.randrange(256) & mask) for mask in masks]
    known = set(random.sample(range(256), random.randrange(6)))

    def turned_out(value: int) -> tuple[bool, ...]:
        return tuple(value & mask == wanted for mask, wanted in compared)

    found = list(values(8, compared, known, ()))
    assert not known & set(found)
    assert {turned_out(value) for value in found} == {turned_out(v) for v in range(256) if v not in known}


def test_what_is_taken_is_not_given_and_where_all_is_that_is_told() -> None:
    assert not set(values(32, [(0xFF000000, 0x0A000000)], (), {0, 0x0A000000})) & {0, 0x0A000000}
    with pytest.raises(TooManyError):
        list(values(32, [(0xFFFFFFFE, 4)], (), {4, 5}))
    assert list(values(8, [(0xFE, 4)], {4, 5}, ())) == [0]
