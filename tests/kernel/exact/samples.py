"""Random clusters by the thousand, as the property tests have them, on addresses of the arena."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from agent.kube.model import Object
from tests.kernel.exact.relabel import relabelled
from tests.property.choices import Seeded
from tests.property.clusters import cluster


def samples(start: int) -> Iterator[tuple[Object, ...]]:
    """Give clusters without end; the same start gives the same."""
    choices = Seeded(Random(start))
    while True:
        yield relabelled(cluster(choices).objects)
