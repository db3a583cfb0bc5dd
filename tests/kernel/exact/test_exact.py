"""Kernel against evaluator: random clusters in a real kernel, asked with real packets.

CLUSTERS=2000 tries that many in each layout, SEED=7 others than SEED=0 does. For more at once, with progress
and a summary: ``python -m tests.kernel.exact``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Measured
from tests.kernel.exact.arena import Arena
from tests.kernel.exact.contest import contest
from tests.lab.node import Layout

CLUSTERS = int(os.environ.get("CLUSTERS", "160"))
SEED = int(os.environ.get("SEED", "0"))


def test_the_kernel_treats_every_packet_as_the_specification_says(arena: Arena, measured: Measured) -> None:
    """Some through the legacy tables; at the end of each stretch nothing but the last cluster is left in the
    kernel, and when that is deleted nothing at all."""
    tally = contest(arena, CLUSTERS, start=2 * SEED + list(Layout).index(arena.layout))
    measured(f"{arena.layout}: {tally.text(tally.seconds)}")
    assert tally.clusters == CLUSTERS
    assert tally.probes >= 150 * CLUSTERS
    # Both verdicts are common, and an allowed packet that fails to arrive is not.
    assert 0.1 < tally.passed / tally.probes < 0.9
    assert tally.lost <= tally.probes // 1000
    # Half of the clusters log, and each reason was that of the specification.
    assert tally.reasons >= 10 * CLUSTERS


@pytest.mark.xdist_group("exact-bridge")
def test_by_hand_it_ends_with_a_summary_and_an_exit_code() -> None:
    command = [sys.executable, "-m", "tests.kernel.exact", "--clusters", "3", "--arenas", "2", "--seed", "5"]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["clusters"], summary["wrong"]) == (3, [])
    assert [arena["layout"] for arena in summary["arenas"]] == ["bridge", "routed"]
    assert "3 clusters" in done.stderr
