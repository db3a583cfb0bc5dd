"""5: the system has no memory left for the agent, for its commands, or for what it asks the kernel."""

from __future__ import annotations

import contextlib
import functools
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos import churn as churning
from tests.chaos import kernel
from tests.chaos.commands import Commands
from tests.chaos.killed import WITHOUT_MEMORY
from tests.chaos.probe import Probe
from tests.chaos.s05_the_kernel_refuses import refused
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.chaos.stage import Stage
from tests.chaos.starved import Want
from tests.lab.cluster import wait_until
from tests.lab.node import Layout, Mode

_RETRIED = 35.0
_BEGINS_ANEW = "no memory to go on"
"""What the agent logs when it begins anew."""
_STEPS = (
    "apply:begin:2",
    "apply:changed:8",
    "apply:rules:6",
    "sync:made:3",
    "apply:ruled:9",
    "tidy:destroyed:4",
)
"""Where an agent has no memory to go on, as :mod:`tests.chaos.killed` reads it."""
_KEPT_BACK = 24 << 20
"""Bytes: more than the agent keeps for a step."""


def _file(stage: Stage) -> Path:
    return stage.node.directory / "want"


def _starved(stage: Stage) -> tuple[str, ...]:
    return "tests.chaos.starved", str(_file(stage))


@contextlib.contextmanager
def _wanting(want: Want, stage: Stage, _: Commands) -> Iterator[None]:
    """Have system calls of the agent and of its commands fail for want of memory."""
    part = stage.node.directory / "part-of-want"
    part.write_text(want.value)
    part.rename(_file(stage))
    try:
        yield
    finally:
        _file(stage).unlink()


@contextlib.contextmanager
def _limited(less: int, stage: Stage, _: Commands) -> Iterator[None]:
    """Give the agent no more address space than it has, less some of that (RLIMIT_AS, prlimit(2))."""
    pid = stage.agent.process.pid
    (pages, *_rest) = Path(f"/proc/{pid}/statm").read_text().split()
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    limit = int(pages) * resource.getpagesize() - less
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, before)


def begun_anew(layout: Layout, mode: Mode, length: Length) -> Outcome:
    """Have no memory to go on in the middle of writes: the agent begins anew, in the same process."""
    steps = _STEPS if length is Length.LONG else _STEPS[:2]
    module = ("tests.chaos.killed", WITHOUT_MEMORY + ",".join(steps))
    with Stage(layout, mode) as stage:
        agent = stage.start("--guard-frames", module=module)
        first = kernel.settled(agent)

        def failed() -> int:
            return agent.log.read_text(errors="replace").count(_BEGINS_ANEW)

        with Probe(stage.lanes) as probe:
            with churning.of_manifests(stage) as churn:
                wait_until(lambda: failed() == len(steps) or agent.process.poll() is not None, 120)
            began = time.monotonic()
            kernel.wait_for(stage.node, first, length.within(_RETRIED))
            took = time.monotonic() - began
        assert agent.process.poll() is None, f"the agent has ended: {agent.tail()}"
        # What belonged to the agent before belongs to the one that runs now.
        agent.wait_ready(length.within(_RETRIED))
    note = f"begun anew {len(steps)} times, {churn.changes} changes, all is written {took:.1f} s later"
    return Outcome.of(probe.report, note=note)


SCENARIOS = (
    *(
        Scenario(
            promise="5.1",
            also=("5.2", "5.3"),
            name=f"no memory for processes, {layout.value}, {mode.value}",
            run=functools.partial(
                refused, layout, mode, functools.partial(_wanting, Want.PROCESSES), 8.0, told, module=_starved
            ),
            seconds=35,
        )
        for layout, mode, told in (
            (Layout.ROUTED, Mode.NFT, "default/job"),
            (Layout.BRIDGE, Mode.LEGACY, "default/job"),
        )
    ),
    *(
        Scenario(
            promise="5.1",
            also=("5.3",),
            name=f"no memory for each third message of netlink, {layout.value}, {mode.value}",
            run=functools.partial(
                refused,
                layout,
                mode,
                functools.partial(_wanting, Want.NETLINK),
                10.0,
                "default/job",
                closes=False,
                module=_starved,
            ),
            seconds=45,
        )
        for layout, mode in ((Layout.BRIDGE, Mode.NFT), (Layout.ROUTED, Mode.LEGACY))
    ),
    *(
        Scenario(
            promise="5.5",
            also=("5.1",),
            name=f"{name}, {layout.value}, {mode.value}",
            run=functools.partial(
                refused, layout, mode, functools.partial(_limited, less), 12.0, told, closes=False
            ),
            seconds=45,
        )
        for name, less, told, layout, mode in (
            ("no more memory than it has", 0, "", Layout.ROUTED, Mode.NFT),
            ("less memory than it has", _KEPT_BACK, "no more memory", Layout.BRIDGE, Mode.NFT),
            ("less memory than it has", _KEPT_BACK, "no more memory", Layout.ROUTED, Mode.LEGACY),
        )
    ),
    Scenario(
        promise="5.5",
        name="no memory in the middle of a write, routed, nft",
        run=functools.partial(begun_anew, Layout.ROUTED, Mode.NFT),
        seconds=60,
    ),
)
