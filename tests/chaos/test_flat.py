"""What a soak says of memory, descriptors and threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.chaos.flat import Sample, growth, sample


def samples(memory: Callable[[int], float], count: int = 40) -> list[Sample]:
    return [Sample(5.0 * n, memory(n), 20 + n % 2, 11) for n in range(count)]


def test_what_stays_is_flat() -> None:
    found = growth(samples(lambda n: 60 + n % 3 / 10))
    assert [figure.name for figure in found] == ["memory MB", "descriptors", "threads"]
    assert all(figure.flat for figure in found)
    assert str(found[2]) == "threads 11.0 to 11.0"


def test_warming_up_does_not_count() -> None:
    assert growth(samples(lambda n: min(60.0, 30 + 5 * n)))[0].flat


def test_a_leak_is_seen() -> None:
    memory = growth(samples(lambda n: 60 + n / 5))[0]
    assert not memory.flat
    assert memory.after - memory.before == pytest.approx(4)


def test_a_peak_is_no_leak() -> None:
    assert growth(samples(lambda n: 90 if n == 35 else 60))[0].flat


def test_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match="8 are needed"):
        growth(samples(lambda _: 60, 7))


def test_a_process_is_looked_at() -> None:
    found = sample(os.getpid(), time.monotonic())
    assert found.memory > 5
    assert found.descriptors > 2
    assert found.threads >= 1
