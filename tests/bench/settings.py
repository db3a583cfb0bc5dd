"""What whoever runs the benchmark chooses, apart from how large the clusters are."""

from __future__ import annotations

import msgspec

from tests.lab.node import Layout, Mode


class Settings(msgspec.Struct, frozen=True):
    """Choices that hold for every section.

    ``rounds``: how often each change is made. ``churn``: how many events stand for an hour of them, 0 for
    none. ``quick``: shorter streams of events, for a look and for the test.
    """

    rounds: int = 50
    mode: Mode = Mode.NFT
    layout: Layout = Layout.BRIDGE
    churn: int = 180_000
    quick: bool = False
