"""Tells Prometheus: the text of a scrape, by prometheus_client.

The package is loaded when somebody scrapes for the first time (10 ms, 1 MB): an agent that nobody scrapes
never pays for it, and none is slower to start.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from agent.histogram import Distribution
from agent.observe.metrics.definitions import METRICS
from agent.observe.metrics.figures import Figures
from agent.observe.metrics.metric import Metric, Type
from agent.observe.routes import Request, Response

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Series


class Exposition:
    """Answers scrapes. ``ask`` gives the figures of now; it is called once for each scrape, on its thread."""

    def __init__(self, ask: Callable[[], Figures]) -> None:
        self._ask = ask

    def answer(self, request: Request) -> Response:
        """Answer a scrape in the format that it accepts: Prometheus's text, or OpenMetrics."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(request.accept)
        return Response(200, content_type, encode(self._registry))

    @cached_property
    def _registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry, ProcessCollector

        registry = CollectorRegistry()
        registry.register(_Collector(self._ask))
        ProcessCollector(registry=registry)
        return registry


class _Collector:
    """What a registry of prometheus_client asks."""

    def __init__(self, ask: Callable[[], Figures]) -> None:
        self._ask = ask

    def describe(self) -> Iterable[Series]:
        """Say nothing, so that nothing is collected when this is registered."""
        return ()

    def collect(self) -> Iterable[Series]:
        """Return every metric as it is now."""
        figures = self._ask()
        return (_series(metric, figures) for metric in METRICS)


def _series(metric: Metric, figures: Figures) -> Series:
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    name, about, labels = metric.full_name, metric.help.replace("`", ""), metric.labels
    if metric.type is Type.HISTOGRAM:
        histogram = HistogramMetricFamily(name, about, labels=labels)
        for sample in metric.read(figures):
            if isinstance(sample.value, Distribution):
                histogram.add_metric(sample.labels, _buckets(sample.value), sample.value.total)
        return histogram
    plain: CounterMetricFamily | GaugeMetricFamily
    if metric.type is Type.COUNTER:
        plain = CounterMetricFamily(name, about, labels=labels)
    else:
        plain = GaugeMetricFamily(name, about, labels=labels)
    for sample in metric.read(figures):
        if not isinstance(sample.value, Distribution):
            plain.add_metric(sample.labels, float(sample.value))
    return plain


def _buckets(found: Distribution) -> list[tuple[str, float]]:
    """Return the buckets cumulated, as Prometheus has them: each with all that does not exceed its bound."""
    bounds = [*map(str, found.bounds), "+Inf"]
    return list(zip(bounds, map(float, itertools.accumulate(found.counts)), strict=True))
