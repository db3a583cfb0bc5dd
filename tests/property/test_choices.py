"""What is found by seeds is made small choice by choice."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from tests.property.choices import Choices, drawn, tried


def numbers(choices: Choices) -> list[int]:
    return choices.several(lambda choices: choices.integer(0, 100), 0, 8)


def test_a_failure_is_raised_for_the_smallest_that_fails() -> None:
    failed: list[tuple[list[int], bool]] = []

    @tried(drawn(numbers), st.booleans())
    def check(found: list[int], flag: bool) -> None:
        if len(found) > 2 and sum(found) > 100:
            failed.append((found, flag))
            raise AssertionError(f"{sorted(found)} {flag}")

    with pytest.raises(AssertionError, match=r"\[0, 1, 100\] False"):
        check()
    assert sum(failed[0][0]) > 101


def test_a_failure_that_does_not_come_again_is_raised_as_well() -> None:
    calls: list[int] = []

    @tried(drawn(numbers), max_examples=20)
    def check(_: list[int]) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise ValueError("once")

    with pytest.raises(Flaky):
        check()


def test_so_many_examples_are_tried_and_most_are_unlike() -> None:
    met: list[tuple[int, ...]] = []

    @tried(drawn(numbers), max_examples=80, seed=3)
    def check(found: list[int]) -> None:
        met.append(tuple(found))

    check()
    assert len(met) == 80
    assert len(set(met)) > 60


@pytest.fixture
def lent() -> str:
    return "lent"


@tried(drawn(numbers), max_examples=5)
def test_fixtures_are_given_as_well(lent: str, found: list[int]) -> None:
    assert lent == "lent"
    assert isinstance(found, list)
