"""1: with ``--new-pods deny``, pods that no agent knows are closed, and nothing else is."""

from __future__ import annotations

import functools
import signal
import time

from tests.chaos.judge import Expected
from tests.chaos.probe import Lane, Probe, both_families
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.chaos.stage import OTHER_PORT, PORT, Stage, killed_at, pod_manifest, policy_manifest
from tests.lab.cluster import wait_until
from tests.lab.cni import ContainerRuntime
from tests.lab.node import Layout, Node, Pod

_NAME = "late"
_ONLY_CLIENT = {
    "podSelector": {"matchLabels": {"app": _NAME}},
    "ingress": [
        {
            "from": [{"podSelector": {"matchLabels": {"app": "client"}}}],
            "ports": [{"protocol": "UDP", "port": PORT}],
        }
    ],
}


def networks(node: Node) -> tuple[str, ...]:
    """Return the arguments that close new pods in the networks of a node's pods."""
    return "--new-pods", "deny", "--pod-networks", f"{node.cidr4},{node.cidr6}"


def _lanes(stage: Stage, late: Pod, expected: Expected) -> tuple[Lane, ...]:
    """Return flows to and from a pod that is not known, and between it and its node, which always pass."""
    client, store, node = stage.pods["client"], stage.pods["store"], stage.node
    return (
        *both_families(client, late, PORT, expected),
        *both_families(stage.out, late, PORT, expected),
        *both_families(late, store, PORT, expected),
        *both_families(late, stage.out, PORT, expected),
        *both_families(node, late, OTHER_PORT, Expected.ALLOWED),
    )


def _of(pod: Pod, lane: Lane) -> bool:
    return pod in (lane.source, lane.destination) and lane.port == PORT


def _stops(probe: Probe, lane: Lane) -> bool:
    return not probe.passes(lane)


def started_meanwhile(length: Length, layout: Layout = Layout.ROUTED) -> Outcome:
    """A pod starts while no agent runs, is known to the next one, and goes; agents are killed in between."""
    quiet = 3.0 if length is Length.LONG else 0.5
    with Stage(layout) as stage:
        arguments = networks(stage.node)
        stage.start(*arguments)
        stage.stop(signal.SIGKILL)
        late = stage.lab.pod(stage.node, _NAME)
        lanes = _lanes(stage, late, Expected.DENIED)
        with Probe((*stage.lanes, *lanes)) as probe:
            time.sleep(quiet)
            stage.start(*arguments)
            time.sleep(quiet)
            for _ in range(3 if length is Length.LONG else 1):
                probe.expect(Expected.EITHER, lambda lane: _of(late, lane))
                stage.say(_NAME, [pod_manifest(late)])
                for lane in lanes:
                    wait_until(functools.partial(probe.passes, lane), 20)
                probe.expect(Expected.ALLOWED, lambda lane: _of(late, lane))
                stage.stop(signal.SIGKILL)
                time.sleep(quiet)
                stage.start(*arguments)
                probe.expect(Expected.EITHER, lambda lane: _of(late, lane))
                stage.unsay(_NAME)
                for lane in filter(functools.partial(_of, late), lanes):
                    wait_until(functools.partial(_stops, probe, lane), 20)
                probe.expect(Expected.DENIED, lambda lane: _of(late, lane))
                time.sleep(quiet)
    return Outcome.of(probe.report, note="a pod started without an agent, known, gone, and agents killed")


def never_in_between(length: Length) -> Outcome:
    """A pod with a policy comes and goes: what its policy denies never passes, known or not."""
    times = 40 if length is Length.LONG else 4
    with Stage() as stage:
        stage.start(*networks(stage.node))
        late = stage.lab.pod(stage.node, _NAME)
        stage.say("late-policy", [policy_manifest("late", _ONLY_CLIENT)])
        client, job = stage.pods["client"], stage.pods["job"]
        allowed = both_families(client, late, PORT, Expected.EITHER)
        lanes = (
            *allowed,
            *both_families(client, late, OTHER_PORT, Expected.DENIED),
            *both_families(stage.out, late, PORT, Expected.DENIED),
            *both_families(job, late, PORT, Expected.DENIED),
        )
        with Probe((*stage.lanes, *lanes)) as probe:
            for _ in range(times):
                stage.say(_NAME, [pod_manifest(late)])
                wait_until(lambda: probe.passes(allowed[0]), 20)
                stage.unsay(_NAME)
                wait_until(lambda: not probe.passes(allowed[0]), 20)
    return Outcome.of(probe.report, note=f"known and unknown again {times} times")


def other_starts(length: Length) -> Outcome:
    """It is switched on over pods that run, is taken over by the other iptables, and survives kills."""
    with Stage() as stage:
        stage.start()
        late = stage.lab.pod(stage.node, _NAME)
        lanes = _lanes(stage, late, Expected.EITHER)
        with Probe((*stage.lanes, *lanes)) as probe:
            stage.stop(signal.SIGTERM)
            stage.start(*networks(stage.node))
            for lane in filter(functools.partial(_of, late), lanes):
                wait_until(functools.partial(_stops, probe, lane), 20)
            probe.expect(Expected.DENIED, lambda lane: _of(late, lane))
            starts: list[tuple[tuple[str, ...], str]] = [
                ((), "sync:rules:1"),
                (("--iptables-mode", "legacy"), ""),
                ((), ""),
            ]
            for arguments, step in starts if length is Length.LONG else starts[:1]:
                stage.stop(signal.SIGKILL)
                stage.start(*networks(stage.node), *arguments, ready=not step, module=killed_at(step))
                if step:
                    time.sleep(2)
    return Outcome.of(probe.report, note="switched on, killed in a sync, and in both modes of iptables")


def first_instructions(length: Length) -> Outcome:
    """Pods of real network plugins start while no agent runs: what they try first comes to nothing."""
    layouts = list(Layout) if length is Length.LONG else [Layout.BRIDGE]
    reached = [line for layout in layouts for line in _reached(layout, 10 if length is Length.LONG else 2)]
    return Outcome(note=f"by network plugins, {' and '.join(layouts)}", broken=tuple(reached))


def _reached(layout: Layout, times: int) -> list[str]:
    """Return what containers have reached in their first instruction."""
    with Stage(layout) as stage:
        store = stage.pods["store"]
        stage.lab.serve(store, tcp=[80])
        stage.start(*networks(stage.node))
        stage.stop(signal.SIGKILL)
        wanted = [f"{store.v4}:80", f"[{store.v6}]:80"]
        found = []
        with ContainerRuntime(stage.node) as runtime:
            for number in range(times):
                started = runtime.start(f"a/pod-{number}", f"uid-{number}", dial=wanted, patience=0.3)
                found += [f"pod-{number} has reached {d.address}" for d in started.dials if not d.error]
        return found


SCENARIOS = (
    Scenario(
        promise="1.6",
        name="a pod starts without an agent",
        run=started_meanwhile,
        seconds=35,
        short=True,
        also=("1.8",),
    ),
    Scenario(
        promise="1.6", name="the first instruction without an agent", run=first_instructions, seconds=20
    ),
    Scenario(promise="1.7", name="never open in between", run=never_in_between, seconds=30),
    Scenario(promise="1.9", name="switched on, and other starts", run=other_starts, seconds=20),
)
