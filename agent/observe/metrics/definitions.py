"""Every metric of the agent, once: what is scraped and docs/metrics.md are both made of this table.

Names and units follow Prometheus's conventions: base units, ``_total`` on counters, and times as seconds
since 1970, so that an age is ``time() - …``. Each metric has a bounded number of series; none has a pod's
name or an address.
"""

from __future__ import annotations

from agent.observe.metrics.changes import CHANGES
from agent.observe.metrics.metric import Metric
from agent.observe.metrics.packets import PACKETS
from agent.observe.metrics.sources import SOURCES
from agent.observe.metrics.state import STATE

METRICS: tuple[Metric, ...] = (*STATE, *SOURCES, *CHANGES, *PACKETS)
