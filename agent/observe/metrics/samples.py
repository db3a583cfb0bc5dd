"""How values are taken out of the figures, and in which words the number of series is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from agent.dataplane.traffic import Amount, Told
from agent.observe.metrics.figures import Figures
from agent.observe.metrics.metric import Sample, Type, Value
from agent.sources.source import SyncState

GAUGE, COUNTER, HISTOGRAM = Type

ONE = "1"
PER_KIND = "3, with `--allow-nodes` or `--new-pods deny` 4: one for each kind of object"
PER_FAMILY = "2"
PER_DIRECTION = "2"
PER_NAMESPACE = "2 for each namespace with isolated pods on this node"
PER_POLICY = "1 for each direction of each policy that selects pods of this node"

Read = Callable[[Figures], Iterator[Sample]]


def one(read: Callable[[Figures], Value]) -> Read:
    """Read one value, of a metric without labels."""

    def samples(figures: Figures) -> Iterator[Sample]:
        yield Sample((), read(figures))

    return samples


def each(read: Callable[[Figures], Mapping[str, Value] | Mapping[int, Value] | Mapping[str, int]]) -> Read:
    """Read a value for each label of a mapping."""

    def samples(figures: Figures) -> Iterator[Sample]:
        for label, value in sorted(read(figures).items()):
            yield Sample((str(label),), value)

    return samples


def of_cache(read: Callable[[SyncState], float]) -> Read:
    """Read a value for the cache of each kind of object."""

    def samples(figures: Figures) -> Iterator[Sample]:
        for kind, state in sorted(figures.states.items()):
            yield Sample((kind.value,), read(state))

    return samples


def of_traffic(told: Told, read: Callable[[Amount], int], *labels: str) -> Read:
    """Read an amount for each subject that rules say this of; ``labels`` are fields of the subject."""

    def samples(figures: Figures) -> Iterator[Sample]:
        for subject, amount in sorted(figures.traffic.totals.items(), key=lambda item: item[0][1:]):
            if subject.told is told:
                # An empty label is none to Prometheus, which might put another in its place.
                yield Sample(tuple(getattr(subject, label) or "-" for label in labels), read(amount))

    return samples
