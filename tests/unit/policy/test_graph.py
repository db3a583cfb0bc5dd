"""Few things, and many, held as distinct ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.policy.graph import FEW, Some, with_one, without_one


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3 * FEW)), max_size=8 * FEW))
def test_some_things_are_a_set_however_few_or_many(history: list[tuple[bool, int]]) -> None:
    some: Some[int] = ()
    expected: set[int] = set()
    for adding, number in history:
        some = with_one(some, number) if adding else without_one(some, number)
        (expected.add if adding else expected.discard)(number)
        assert set(some) == expected
        assert len(some) == len(expected)
        assert bool(some) is bool(expected)
