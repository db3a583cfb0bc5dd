"""What is measured: each function yields results as it has them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.text import render_text
from agent.dataplane.mode import Mode
from agent.kube.events import Delete, Event, Upsert
from agent.kube.model import Family, Kind
from agent.policy.engine import Engine
from tests.bench.cluster import NODE, Size, events, pod, policy
from tests.demo.examples import read
from tests.demo.stage import Agent, Stage, agent
from tests.lab import node
from tests.lab.lab import Lab
from tests.lab.netns import Netns
from tests.lab.probe import Flow, Verdict

_BOTH = (Family.V4, Family.V6)


class Result(NamedTuple):
    """One measurement: what, the median in milliseconds, the slowest, and over how many times."""

    name: str
    median: float
    slowest: float
    times: int


def compiling(size: Size, times: int) -> Iterator[Result]:
    """Events to program: everything at once, then one event at a time."""
    found = events(size)
    yield _result("compile: first sync", [_timed(lambda: _engine(found)) for _ in range(min(times, 5))])
    engine = _engine(found)
    for name, changes in _changes(size, times).items():
        yield _result(f"compile: {name}", [_timed(partial(engine.apply, [e], 0.0)) for e in changes])


def rendering(size: Size, times: int) -> Iterator[Result]:
    """Program to text, both families."""
    program = _engine(events(size)).program
    yield _result(
        "render: whole node", [_timed(lambda: render_text(program, Options())) for _ in range(min(times, 5))]
    )


def applying(size: Size, times: int, mode: Mode) -> Iterator[Result]:
    """Program to kernel, in a namespace of its own, until the call returns; compiling not counted."""
    engine = _engine(events(size))
    netns = Netns("bench")
    with netns.entered():
        backend = IptablesBackend(mode, _BOTH, Options())
        backend.adopt()
        yield _result(f"kernel ({mode}): first sync", [_timed(lambda: backend.sync(engine.program))])
        for name, changes in _changes(size, times).items():
            taken = []
            for event in changes:
                delta = engine.apply([event], 0.0)
                taken.append(_timed(partial(backend.apply, engine.program, delta)))
                backend.tidy(engine.program)
            yield _result(f"kernel ({mode}): {name}", taken)
        backend.close()
    netns.close()


def packets(times: int, mode: Mode) -> Iterator[Result]:
    """From a manifest's rename into place to the first packet treated the new way, through the whole agent.

    The source waits for a change to settle, which is part of it; looking costs a few milliseconds.
    """
    examples = read(Path(__file__).parents[2] / "examples")
    denying = examples.steps[0].path
    with Lab() as lab:
        stage = Stage(lab, examples, node.Layout.BRIDGE, node.Mode(mode))
        with agent(stage, lab.directory, examples.cluster, mode) as running:
            running.wait_until_ready()
            destination = next(d for d in examples.destinations if d.name == "db")
            flow = stage.flow("visitor", destination, Family.V4)
            added, removed = [], []
            for _ in range(times):
                added.append(_until(stage, running, flow, lambda: running.add(denying), Verdict.DENIED))
                removed.append(_until(stage, running, flow, lambda: running.remove(denying), Verdict.ALLOWED))
    yield _result(f"packet ({mode}): policy added", added)
    yield _result(f"packet ({mode}): policy removed", removed)


def _until(stage: Stage, running: Agent, flow: Flow, change: Callable[[], None], wanted: Verdict) -> float:
    time.sleep(0.2)
    begin = time.perf_counter()
    change()
    while stage.lab.probe([flow], grace=0.001) != [wanted]:
        if time.perf_counter() - begin > 10:
            raise TimeoutError(f"{flow} is not {wanted} after 10 s; the agent's log: {running.log}")
    return (time.perf_counter() - begin) * 1000


def _engine(found: list[Event]) -> Engine:
    engine = Engine(NODE)
    engine.apply(found, 0.0)
    return engine


def _changes(size: Size, times: int) -> dict[str, list[Event]]:
    """Return events of each kind; each pair leaves the cluster as it was."""
    remote = [size.local + number * 7 % (size.pods - size.local) for number in range(times)]
    labels: list[Event] = []
    for number in remote:
        labels.append(Upsert(Kind.POD, pod(number, size, app="app-1")))
        labels.append(Upsert(Kind.POD, pod(number, size)))
    added: list[Event] = [Upsert(Kind.POLICY, policy(number, "new")) for number in range(times)]
    return {
        "remote pod's label": labels,
        "policy added": added,
        "policy removed": [
            Delete(Kind.POLICY, event.object.key) for event in added if isinstance(event, Upsert)
        ],
    }


def _timed(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return (time.perf_counter() - begin) * 1000


def _result(name: str, taken: list[float]) -> Result:
    return Result(name, statistics.median(taken), max(taken), len(taken))
