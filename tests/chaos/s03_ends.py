"""3: an agent that is ended, stopped or out of memory, and what it finds when it starts again."""

from __future__ import annotations

import functools
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.chaos import churn as churning
from tests.chaos import kernel
from tests.chaos.judge import Expected
from tests.chaos.memory import limited
from tests.chaos.probe import Lane, Probe
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.chaos.stage import PORT, SPECS, Stage, policy_manifest
from tests.lab.cluster import wait_until
from tests.lab.node import Layout, Mode
from tests.patience import PATIENCE

_STOPPED_SECONDS = 20.0
_MANY = 20_000


def ended_orderly(length: Length) -> Outcome:
    """SIGTERM, as kubelet and systemd send it, again and again while objects change."""
    times = 12 if length is Length.LONG else 2
    with Stage() as stage:
        first = kernel.settled(stage.start())
        with Probe(stage.lanes) as probe:
            with churning.of_manifests(stage) as churn:
                for _ in range(times):
                    stage.stop(signal.SIGTERM)
                    stage.start()
            kernel.wait_for(stage.node, first)
    return Outcome.of(probe.report, note=f"ended {times} times by SIGTERM, {churn.changes} changes")


def out_of_memory(length: Length) -> Outcome:
    """The kernel kills the agent in the middle of its work, since its cgroup has no more memory."""
    del length
    with Stage() as stage:
        first = kernel.settled(stage.start())
        with Probe(stage.lanes) as probe:
            with limited(stage.agent.process.pid):
                stage.say("many", [_pod(number) for number in range(_MANY)])
                number = stage.agent.process.wait(PATIENCE)
                assert number == -signal.SIGKILL, f"the agent has ended by itself: {number}"
            stage.unsay("many")
            stage.start()
            kernel.wait_for(stage.node, first)
    return Outcome.of(probe.report, note=f"killed by the kernel while it read {_MANY:,} pods")


def _pod(number: int) -> dict[str, object]:
    address = f"10.{100 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"many-{number}", "labels": {"app": "client"}},
        "spec": {"nodeName": "elsewhere"},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    }


def _to_web(lane: Lane) -> bool:
    return lane.source.name == "client" and lane.destination.name == "web" and lane.port == PORT


def stopped(length: Length) -> Outcome:
    """SIGSTOP, a change, and SIGCONT: the change does not hold before, and soon after."""
    with Stage() as stage:
        stage.start()
        lane = next(filter(_to_web, stage.lanes))
        closed = {**SPECS["web"], "ingress": []}
        with Probe(stage.lanes) as probe:
            stage.agent.process.send_signal(signal.SIGSTOP)
            stage.say("web", [policy_manifest("web", closed)])
            time.sleep(_STOPPED_SECONDS)
            assert probe.passes(lane), "what held before the agent was stopped holds no more"
            probe.expect(Expected.EITHER, _to_web)
            began = time.monotonic()
            stage.agent.process.send_signal(signal.SIGCONT)
            wait_until(lambda: not probe.passes(lane), length.within(5.0))
            took = time.monotonic() - began
            probe.expect(Expected.DENIED, _to_web)
            time.sleep(1)
    note = f"stopped for {_STOPPED_SECONDS:.0f} s; a policy made meanwhile held {took:.2f} s after SIGCONT"
    return Outcome.of(probe.report, note=note)


def _truncated(state: Path) -> None:
    for path in _files(state):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _garbage(state: Path) -> None:
    for path in _files(state):
        path.write_bytes(b"\0\xff{[" * 99)


def _emptied(state: Path) -> None:
    for path in _files(state):
        path.write_bytes(b"")


def _gone(state: Path) -> None:
    shutil.rmtree(state)


def _directories(state: Path) -> None:
    """Where a file should be, there is a directory."""
    for path in _files(state):
        path.unlink()
        path.mkdir()


def _a_file(state: Path) -> None:
    """Where the directory should be, there is a file."""
    shutil.rmtree(state)
    state.write_text("")


def _dangling(state: Path) -> None:
    shutil.rmtree(state)
    state.symlink_to("/nowhere/at/all")


def _files(state: Path) -> list[Path]:
    return [path for path in state.rglob("*") if path.is_file()]


SPOILS: Mapping[str, Callable[[Path], None]] = {
    "half of each file": _truncated,
    "garbage": _garbage,
    "empty files": _emptied,
    "no directory": _gone,
    "directories for files": _directories,
    "a file for the directory": _a_file,
    "a link to nowhere": _dangling,
}


def spoiled_state(length: Length) -> Outcome:
    """Kill the agent, spoil its state directory in some way, and start it."""
    chosen = dict(SPOILS) if length is Length.LONG else {"garbage": _garbage}
    with Stage() as stage:
        first = kernel.settled(stage.start())
        state = stage.node.directory / "state"
        with Probe(stage.lanes) as probe:
            for name, spoil in chosen.items():
                stage.stop(signal.SIGKILL)
                assert _files(state), f"before {name!r} there was nothing to spoil"
                spoil(state)
                stage.start()
                kernel.wait_for(stage.node, first)
                stage.stop(signal.SIGKILL)
                _removed(state)
                stage.start()
    return Outcome.of(probe.report, note=f"started with {', '.join(chosen)}")


def _removed(state: Path) -> None:
    if state.is_symlink() or state.is_file():
        state.unlink()
    else:
        shutil.rmtree(state, ignore_errors=True)


OTHERWISE: tuple[tuple[str, ...], ...] = (
    ("--iptables-mode", "legacy"),
    (),
    ("--denied-packets", "reject"),
    ("--allowed-packets", "accept"),
    ("--iptables-mode", "legacy", "--cache-allowed", "0"),
    ("--mark-ingress", "0x100000", "--mark-egress", "0x200000"),
    # What `auto` takes where the kernel holds nothing; else it stays with the bits that are in use.
    ("--mark-ingress", "0x20000", "--mark-egress", "0x10000"),
)
"""Settings that are changed from one start to the next."""


def other_settings(length: Length, layout: Layout) -> Outcome:
    """Start the agent with other settings on what one before it has left, the other iptables among them."""
    chosen = OTHERWISE if length is Length.LONG else OTHERWISE[:2]
    with Stage(layout) as stage:
        first = kernel.settled(stage.start())
        with Probe(stage.lanes) as probe:
            for arguments in chosen:
                stage.stop(signal.SIGTERM)
                stage.start(*arguments)
                mode = Mode.LEGACY if "legacy" in arguments else Mode.NFT
                other = Mode.NFT if mode is Mode.LEGACY else Mode.LEGACY
                wait_until(lambda o=other: not _chains(stage, o), 60)  # type: ignore[misc]
                assert _chains(stage, mode)
            kernel.wait_for(stage.node, first)
    return Outcome.of(
        probe.report, note=f"{len(chosen)} starts, each with other settings than the one before"
    )


def _chains(stage: Stage, mode: Mode) -> bool:
    return any(what.startswith("IPv") for what in kernel.held(stage.node, mode))


SCENARIOS = (
    Scenario(promise="3.3", name="ended in order", run=ended_orderly, seconds=50),
    Scenario(promise="3.3", name="out of memory", run=out_of_memory, seconds=40),
    Scenario(promise="3.4", name="stopped and continued", run=stopped, seconds=30),
    Scenario(promise="3.5", name="a spoiled state directory", run=spoiled_state, seconds=35),
    *(
        Scenario(
            promise="3.6",
            name=f"other settings, {layout.value}",
            run=functools.partial(other_settings, layout=layout),
            seconds=65,
        )
        for layout in Layout
    ),
)
