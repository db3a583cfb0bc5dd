"""5: what the agent gives the kernel fails, in every way, while others' changes have to go on."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.net import Family
from tests.chaos import kernel
from tests.chaos.commands import Commands, Fails
from tests.chaos.judge import Expected
from tests.chaos.probe import Lane, Probe
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.chaos.stage import OTHER_PORT, PORT, SPECS, Stage, pod_manifest, policy_manifest
from tests.lab.beside import Beside
from tests.lab.cluster import http_get, wait_until
from tests.lab.node import Layout, Mode
from tests.lab.place import LabError

_REVOKED = 1.0
"""Seconds after which what was taken away is closed, whatever fails."""
_RETRIED = 35.0
"""Seconds after the end of a fault within which all is as it should be: the longest pause, and the work."""
_LOCKED_SECONDS = 30.0

_JOB_NOWHERE: Mapping[str, Any] = {**SPECS["job"], "egress": []}
_WEB_MORE: Mapping[str, Any] = {
    **SPECS["web"],
    "ingress": [
        *SPECS["web"]["ingress"],
        {"from": SPECS["web"]["ingress"][0]["from"], "ports": [{"protocol": "UDP", "port": OTHER_PORT}]},
    ],
}


def _lane(source: str, destination: str, port: int) -> Callable[[Lane], bool]:
    return lambda lane: (lane.source.name, lane.destination.name, lane.port) == (source, destination, port)


_IN, _MORE, _OUT = (
    _lane("client", "web", PORT),
    _lane("client", "web", OTHER_PORT),
    _lane("job", "store", PORT),
)


def _change_all(stage: Stage, probe: Probe, length: Length, *, closes: bool) -> None:
    """Change policies and labels while a fault is there: what is taken away is so within a second.

    What is given may wait. A policy whose rules cannot be written may close its pods meanwhile. ``closes``:
    what is taken away can be; else it may wait, too.
    """
    taken = Expected.DENIED if closes else Expected.EITHER
    # In nft mode the first is written by a command that has waited since before the fault.
    probe.expect(Expected.EITHER, _MORE)
    stage.say("web", [policy_manifest("web", _WEB_MORE)])
    time.sleep(1)
    probe.expect(Expected.EITHER, _OUT)
    stage.say("job", [policy_manifest("job", _JOB_NOWHERE)])
    time.sleep(length.within(_REVOKED))
    probe.expect(taken, _OUT)
    # Another pod's revocation, which needs no rule: the client leaves the set of peers.
    probe.expect(Expected.EITHER, _IN)
    _label(stage, client="other")
    time.sleep(length.within(_REVOKED))
    probe.expect(taken, lambda lane: _IN(lane) or _MORE(lane))


def _label(stage: Stage, **labels: str) -> None:
    """Have pods other labels than their names."""
    stage.say(
        "pods", [pod_manifest(pod, {"app": labels.get(name, name)}) for name, pod in stage.pods.items()]
    )


def _as_at_first(stage: Stage, probe: Probe) -> None:
    probe.expect(Expected.EITHER, lambda lane: _IN(lane) or _MORE(lane) or _OUT(lane))
    _label(stage)
    for name, spec in SPECS.items():
        stage.say(name, [policy_manifest(name, spec)])


def _unready(stage: Stage) -> str:
    """Return what keeps the agent from being ready. One that begins anew does not answer for a moment."""
    try:
        status, text = http_get(stage.node, "/readyz")
    except OSError as error:
        return f"no answer: {error}"
    return "" if status == 200 else text


def refused(
    layout: Layout,
    mode: Mode,
    fault: Callable[[Stage, Commands], contextlib.AbstractContextManager[None]],
    seconds: float,
    told: str,
    length: Length,
    *,
    closes: bool = True,
    module: Callable[[Stage], tuple[str, ...]] = lambda _: ("agent",),
) -> Outcome:
    """Have a fault for so long, with changes in it: what packets meet, what is told, and how it ends.

    ``closes``: what is taken away meanwhile is closed at once. ``module``: what is run as the agent, which
    has to be one process from the beginning to the end.
    """
    with Stage(layout, mode) as stage:
        commands = Commands(stage.node)
        first = kernel.settled(stage.start(module=module(stage)))
        with Probe(stage.lanes) as probe:
            time.sleep(0.5)
            began = time.monotonic()
            with fault(stage, commands):
                _change_all(stage, probe, length, closes=closes)
                if told:
                    wait_until(lambda: told in _unready(stage), 30)
                time.sleep(max(0.0, began + seconds - time.monotonic()))
            ended = time.monotonic()
            wait_until(lambda: not _unready(stage), length.within(_RETRIED))
            took = time.monotonic() - ended
            _as_at_first(stage, probe)
            kernel.wait_for(stage.node, first, length.within(_RETRIED))
            probe.expect(Expected.ALLOWED, lambda lane: _IN(lane) or _OUT(lane))
            probe.expect(Expected.DENIED, _MORE)
            time.sleep(0.5)
        assert stage.agent.process.poll() is None, f"the agent has ended: {stage.agent.tail()}"
        repair = stage.agent.status()["kernel"]["drift"]["last_repair"]
    broken = () if repair is None else (f"what nobody changed is told as changed by others: {repair}",)
    note = (
        f"{seconds:.0f} s of it, all is written {took:.1f} s after its end; {probe.report.rate:.0f} flows/s"
    )
    return Outcome.of(probe.report, note=note, broken=broken)


@contextlib.contextmanager
def _locked(stage: Stage, _: Commands) -> Iterator[None]:
    """Hold the lock of the legacy tables."""
    with Path(stage.node.netns.environment["XTABLES_LOCKFILE"]).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _busy(stage: Stage, _: Commands) -> Iterator[None]:
    """Have another program commit transactions of nf_tables without a pause, 2,000 each time."""
    text = "add table ip theirs\n" + "add chain ip theirs a\ndelete chain ip theirs a\n" * 500

    def write() -> None:
        stage.node.run("nft", "-i", stdin=text, check=False)

    try:
        with Beside(write, lambda: 0.0, "another program's writing"):
            yield
    finally:
        stage.node.run("nft", "delete table ip theirs", check=False)


@contextlib.contextmanager
def _without_processes(stage: Stage, _: Commands) -> Iterator[None]:
    """Have the kernel give the agent no more processes and threads (the pids controller of cgroups)."""
    root = Path("/sys/fs/cgroup/pids")
    if not root.is_dir():
        root = Path("/sys/fs/cgroup")
        with contextlib.suppress(OSError):
            (root / "cgroup.subtree_control").write_text("+pids")
    group = root / f"netpol-agent-lab-{stage.agent.process.pid}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(stage.agent.process.pid))
        if not (group / "pids.max").exists():
            raise LabError("this machine has no pids controller of cgroups")
        (group / "pids.max").write_text("1")
        yield
        (group / "pids.max").write_text("max")
        (root / "cgroup.procs").write_text(str(stage.agent.process.pid))
    finally:
        _emptied(group, root)


def _emptied(group: Path, root: Path) -> None:
    for pid in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):
            (root / "cgroup.procs").write_text(pid)
    wait_until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def _of_commands(
    how: Fails, action: str = "restore"
) -> Callable[[Stage, Commands], contextlib.AbstractContextManager[None]]:
    return lambda _, commands: commands.failing(how, action)


_PEERS: Mapping[str, Any] = {
    "podSelector": {"matchLabels": {"app": "web"}},
    "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "out-there"}}}]}],
}


def set_of_another_type(length: Length) -> Outcome:
    """A set that the agent has to make is there already, of another type, and a rule of others holds it."""
    with Stage() as stage:
        first = kernel.settled(stage.start())
        stage.say("peers", [policy_manifest("peers", _PEERS)])

        def new() -> list[str]:
            found = kernel.held(stage.node).keys() - first.keys()
            return [name.removeprefix("set ") for name in found if name.startswith("set KUBE-SRC-4-")]

        wait_until(lambda: new() != [], _RETRIED)
        (name,) = new()
        stage.unsay("peers")
        kernel.wait_for(stage.node, first)
        stage.node.run("ipset", "create", name, "hash:net")
        theirs = ("-m", "set", "--match-set", name, "src", "-j", "DROP")
        stage.node.iptables(Family.V4, "-A", "INPUT", *theirs)
        with Probe(stage.lanes) as probe:
            stage.say("peers", [policy_manifest("peers", _PEERS)])
            wait_until(lambda: name in _unready(stage), 30)
            probe.expect(Expected.EITHER, _OUT)
            stage.say("job", [policy_manifest("job", _JOB_NOWHERE)])
            time.sleep(length.within(_REVOKED))
            probe.expect(Expected.DENIED, _OUT)
            time.sleep(2)
            stage.node.iptables(Family.V4, "-D", "INPUT", *theirs)
            began = time.monotonic()
            wait_until(lambda: not _unready(stage), length.within(_RETRIED))
            took = time.monotonic() - began
            probe.expect(Expected.EITHER, _OUT)
            stage.unsay("peers")
            stage.say("job", [policy_manifest("job", SPECS["job"])])
            kernel.wait_for(stage.node, first, length.within(_RETRIED))
    return Outcome.of(probe.report, note=f"{name} was made {took:.1f} s after the other one was let go of")


def full_set(length: Length) -> Outcome:
    """A set of peers has room for one member only, and gets a second one."""
    with Stage() as stage:
        first = kernel.settled(stage.start())
        (name, *_) = (found for found in first if found.startswith("set KUBE-SRC-4-"))
        name = name.removeprefix("set ")
        listed = stage.node.run("ipset", "save", name).splitlines()
        members = [line.split()[2] for line in listed if line.startswith("add ")]
        stage.node.run("ipset", "create", "SMALL", "hash:ip", "maxelem", "1", "hashsize", "64")
        for member in members:
            stage.node.run("ipset", "add", "SMALL", member)
        stage.node.run("ipset", "swap", "SMALL", name)
        with Probe(stage.lanes) as probe:
            _label(stage, store="client")
            # The way from the job to the store ends: it is no store any more.
            probe.expect(Expected.EITHER, _OUT)
            time.sleep(length.within(_REVOKED))
            probe.expect(Expected.DENIED, _OUT)
            began = time.monotonic()
            store = stage.pods["store"].v4

            def there() -> bool:
                return f" {store}" in stage.node.run("ipset", "save", name)

            wait_until(there, length.within(_RETRIED))
            took = time.monotonic() - began
            wait_until(lambda: not _unready(stage), length.within(_RETRIED))
            probe.expect(Expected.EITHER, _OUT)
            _label(stage)
            kernel.wait_for(stage.node, first, length.within(_RETRIED))
        stage.node.run("ipset", "destroy", "SMALL", check=False)
    return Outcome.of(probe.report, note=f"the second member was in it {took + _REVOKED:.1f} s after it came")


def overrun(length: Length) -> Outcome:
    """More happens while the agent cannot listen than the kernel's messages have room for."""
    links = "link add o0 type veth peer name o1\n" + "link set o0 mtu 1400\nlink set o0 mtu 1500\n" * 1000
    rules = "add table ip theirs\n" + "add chain ip theirs a\ndelete chain ip theirs a\n" * 500
    with Stage() as stage:
        first = kernel.settled(stage.start("--drift-interval", "600"))
        with Probe(stage.lanes) as probe:
            stage.agent.process.send_signal(signal.SIGSTOP)
            stage.node.run("ip", "-batch", "-", stdin=links)
            stage.node.run("nft", "-i", stdin=rules)
            overruns = _overruns(stage)
            probe.allow(length.within(2.0))
            stage.node.iptables(Family.V4, "-F", "KUBE-NETPOL-FORWARD")
            stage.agent.process.send_signal(signal.SIGCONT)
            kernel.wait_for(stage.node, first, length.within(3.0))
            wait_until(lambda: not _unready(stage))
            stage.node.run("nft", "delete table ip theirs")
            # It hears again.
            time.sleep(1)
            probe.allow(length.within(1.0))
            stage.node.iptables(Family.V6, "-F", "KUBE-NETPOL-FORWARD")
            kernel.wait_for(stage.node, first, length.within(3.0))
    assert overruns >= 2, f"only {overruns} sockets were overrun"
    return Outcome.of(probe.report, note=f"{overruns} sockets overrun")


def _overruns(stage: Stage) -> int:
    """Return how many netlink sockets of the agent's have lost messages (``/proc/net/netlink``, Drops)."""
    lines = [line.split() for line in stage.node.run("cat", "/proc/net/netlink").splitlines()[1:]]
    return sum(line[8] != "0" for line in lines)


SCENARIOS = (
    *(
        Scenario(
            promise="5.1",
            also=("5.2", "5.3"),
            name=f"commands fail {how.name.lower().replace('_', ' ')}, {layout.value}, {mode.value}",
            run=functools.partial(refused, layout, mode, _of_commands(how), seconds, told),
            seconds=seconds + 25,
        )
        for how, told, seconds, layout, mode in (
            (Fails.AT_ONCE, "default/job", 6.0, Layout.ROUTED, Mode.NFT),
            (Fails.AT_ONCE, "default/job", 6.0, Layout.BRIDGE, Mode.LEGACY),
            (Fails.WITHOUT_END, "default/job", 20.0, Layout.BRIDGE, Mode.NFT),
            (Fails.KILLED, "default/job", 6.0, Layout.ROUTED, Mode.NFT),
            (Fails.KILLED_AFTER_WRITING, "", 6.0, Layout.BRIDGE, Mode.NFT),
            (Fails.KILLED_AFTER_WRITING, "", 6.0, Layout.ROUTED, Mode.LEGACY),
        )
    ),
    Scenario(
        promise="5.1",
        also=("5.2",),
        name="the lock is held for 30 s, routed, legacy",
        run=functools.partial(refused, Layout.ROUTED, Mode.LEGACY, _locked, _LOCKED_SECONDS, "default/job"),
        seconds=60,
    ),
    Scenario(
        promise="5.1",
        name="another program writes without a pause for 10 s, routed, nft",
        run=functools.partial(refused, Layout.ROUTED, Mode.NFT, _busy, 10.0, ""),
        seconds=35,
    ),
    Scenario(
        promise="5.1",
        name="rules cannot be read, bridge, nft",
        run=functools.partial(
            refused, Layout.BRIDGE, Mode.NFT, _of_commands(Fails.WITHOUT_END, "save"), 10.0, ""
        ),
        seconds=35,
    ),
    Scenario(
        promise="5.1",
        also=("5.2",),
        name="no more processes, routed, nft",
        run=functools.partial(refused, Layout.ROUTED, Mode.NFT, _without_processes, 8.0, "default/job"),
        seconds=35,
    ),
    Scenario(
        promise="5.1",
        also=("5.2",),
        name="a set of another type is in the way",
        run=set_of_another_type,
        seconds=35,
    ),
    Scenario(promise="5.1", name="a set is full", run=full_set, seconds=25),
    Scenario(promise="5.4", name="netlink overrun", run=overrun, seconds=15),
)
