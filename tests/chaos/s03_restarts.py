"""3: an agent that is ended at any moment, in any way, while objects change and packets flow."""

from __future__ import annotations

import contextlib
import functools
import signal
import subprocess
import time
from random import Random

from tests.chaos import churn as churning
from tests.chaos import kernel
from tests.chaos.clustered import Clustered
from tests.chaos.probe import Probe
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.chaos.stage import Stage, killed_at
from tests.lab.node import Layout, Mode

STEPS = (
    "start:begin:1",
    *(f"sync:{write}:1" for write in ("begin", "read", "rules", "ruled", "made", "changed")),
    *(f"sync:{write}:2" for write in ("read", "changed")),
    *(f"apply:{write}:{n}" for write in ("begin", "rules", "ruled", "made", "changed") for n in (1, 3)),
    *(f"tidy:{write}:{n}" for write in ("begin", "rules", "ruled", "destroyed") for n in (1, 2)),
)
"""Where an agent ends itself, as :mod:`tests.chaos.killed` reads it."""
_AT_MOST_SECONDS = 15.0
"""After so long an agent that has not met its step is killed where it is."""


def _random_moment(stage: Stage, random: Random, until: float) -> None:
    """Start an agent, and kill it at any moment of its start or soon after: ``until`` seconds at most."""
    agent = stage.start(ready=False)
    time.sleep(random.uniform(0.05, until))
    agent.stop(signal.SIGKILL)


def _step(stage: Stage, step: str) -> bool:
    """Start an agent that ends itself at a step; return whether it came there."""
    agent = stage.start(ready=False, module=killed_at(step))
    with contextlib.suppress(subprocess.TimeoutExpired):
        agent.process.wait(_AT_MOST_SECONDS)
        return True
    agent.stop(signal.SIGKILL)
    return False


def killed(layout: Layout, mode: Mode, share: int, length: Length) -> Outcome:
    """Kill agents one after another; ``share``: which quarter of the named steps is tried here."""
    steps = [step for number, step in enumerate(STEPS) if number % 4 == share]
    at_random = 50 - len(steps)
    if length is Length.SHORT:
        steps, at_random = steps[::3], 2
    random = Random(share)
    reached = 0
    with Stage(layout, mode) as stage:
        began = time.monotonic()
        agent = stage.start()
        until = max(1.5, 2 * (time.monotonic() - began))
        first = kernel.settled(agent)
        stage.stop()
        with Probe(stage.lanes) as probe:
            with churning.of_manifests(stage, seed=share) as churn:
                for step in steps:
                    reached += _step(stage, step)
                for _ in range(at_random):
                    _random_moment(stage, random, until)
            stage.start()
            kernel.wait_for(stage.node, first)
    note = (
        f"{at_random} killed at random, {reached} of {len(steps)} at a named step, {churn.changes} changes, "
        f"{probe.report.rate:.0f} flows/s"
    )
    return Outcome.of(probe.report, note=note)


def killed_on_a_cluster(length: Length) -> Outcome:
    """Kill agents that read a real API server, at any moment of a start and of what follows."""
    times = 30 if length is Length.LONG else 3
    random = Random(5)
    with Clustered([("node", Layout.ROUTED, Mode.NFT)]) as stage:
        node = stage.nodes["node"]
        first = kernel.settled(stage.cluster.start_agent(node))
        with Probe(stage.lanes) as probe:
            with churning.of_cluster(stage, seed=5) as churn:
                for _ in range(times):
                    stage.cluster.agents["node"].stop(signal.SIGKILL)
                    stage.cluster.start_agent(node)
                    time.sleep(random.uniform(0.05, 2.5))
            stage.cluster.wait_ready()
            kernel.wait_for(node, first)
    return Outcome.of(probe.report, note=f"{times} killed at random, {churn.changes} changes")


SCENARIOS = (
    *(
        Scenario(
            promise="3.1",
            also=("3.2",),
            name=f"killed while objects change, {layout.value}, {mode.value}",
            run=functools.partial(killed, layout, mode, share),
            seconds=140,
            short=(layout, mode) == (Layout.BRIDGE, Mode.NFT),
        )
        for share, (layout, mode) in enumerate((layout, mode) for layout in Layout for mode in Mode)
    ),
    Scenario(
        promise="3.1",
        also=("3.2",),
        name="killed while objects change, an API server",
        run=killed_on_a_cluster,
        seconds=60,
    ),
)
