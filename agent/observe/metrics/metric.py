"""One metric: its name, what it means, how many series it can have, and where its values come from."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import NamedTuple

from agent.histogram import Distribution
from agent.observe.metrics.figures import Figures

PREFIX = "netpol_agent_"

Value = float | Distribution


class Sample(NamedTuple):
    """One series: the values of its labels, in the metric's order, and its value now."""

    labels: tuple[str, ...]
    value: Value


class Type(enum.StrEnum):
    """The types of metric, by Prometheus's words."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """One row of :data:`agent.observe.metrics.definitions.METRICS`.

    ``name`` is without the prefix; a counter's ends in ``_total``. ``series`` says in words how many series
    there can be on a node. ``read`` takes the values out of the figures.
    """

    name: str
    type: Type
    labels: tuple[str, ...]
    help: str
    series: str
    read: Callable[[Figures], Iterable[Sample]]

    @property
    def full_name(self) -> str:
        """The name that is scraped; a histogram's series add ``_bucket``, ``_count`` or ``_sum``."""
        return PREFIX + self.name
