"""Histograms: which bucket a value is in."""

from __future__ import annotations

from agent.histogram import Distribution, Histogram


def test_a_value_is_in_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.100001, 1.0, 7.0):
        histogram.observe(value)
    assert histogram.read() == Distribution((0.1, 1.0), (2, 2, 1), 0.05 + 0.1 + 0.100001 + 1.0 + 7.0)


def test_one_observation_can_stand_for_many_and_what_was_read_stays() -> None:
    histogram = Histogram((1.0,))
    before = histogram.read()
    histogram.observe(0.5, 4)
    assert histogram.read() == Distribution((1.0,), (4, 0), 2.0)
    assert before.counts == (0, 0)
