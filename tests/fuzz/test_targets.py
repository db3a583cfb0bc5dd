"""A short run of each decoder; ``python -m tests.fuzz`` runs it for as long as one likes, led by coverage."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Target

INPUTS = 60
"""For each decoder. The long run is done by hand: this one holds what it found, and finds what is coarse."""


@st.composite
def spoiled(draw: st.DrawFn, target: Target) -> bytes:
    """Bytes of no meaning, or an example of which some parts are cut out, doubled or replaced."""
    data = draw(st.sampled_from([b"", *target.examples]))
    for _ in range(draw(st.integers(0, 4))):
        begin, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        middle = draw(st.sampled_from([b"", data[begin:end] * 2]) | st.binary(max_size=8))
        data = data[:begin] + middle + data[end:]
    return data


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_it_answers_or_refuses_in_its_own_words(target: Target) -> None:
    for example in target.examples:
        target.try_on(example)

    @settings(max_examples=INPUTS)
    @given(spoiled(target))
    def run(data: bytes) -> None:
        target.try_on(data)

    run()
