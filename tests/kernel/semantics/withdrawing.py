"""The whole agent but for the API server, on a real kernel, whose loop a test turns.

Results of network plugins are real files.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from agent.clock import SYSTEM
from agent.dataplane.backend import Backend
from agent.dataplane.iptables.options import Options
from agent.host.check import HostState
from agent.kube.events import Event, Room, Sink, Synced, Upsert, enough
from agent.kube.model import Kind, Namespace, Pod
from agent.net import Family
from agent.runtime.backends import ModeChoice
from agent.runtime.loop import Agent, World
from agent.settings import resolve
from agent.sources.cni.source import CniSource
from agent.sources.source import SyncState
from tests.kernel.semantics.stage import Stage
from tests.lab.node import Mode
from tests.patience import PATIENCE

_LINK = "vgone"
"""An interface of the node that does not exist: the pod's network has been taken away."""
CLOSED = ("a -> t: tcp/80", "t -> a b: tcp/80")
CLOSED_SETS = "KUBE-CLOSED"


class _Watch:
    """Tells what a test has it tell."""

    def __init__(self) -> None:
        self.sink: Sink = lambda _: None

    def start(self, sink: Sink, room: Room = enough) -> None:
        del room
        self.sink = sink

    def stop(self) -> None:
        """It has nothing to stop."""

    def states(self) -> Mapping[Kind, SyncState]:
        return {kind: SyncState(True, 0, 0.0, time.time()) for kind in Kind}

    def threads(self) -> Mapping[str, bool]:
        return {}


class _Idle:
    """A thread that does nothing, and is not waited for."""

    def is_alive(self) -> bool:
        return True

    def join(self, timeout: float) -> None:
        pass


def _no_thread(_name: str, _target: Callable[[], None]) -> _Idle:
    return _Idle()


class Node:
    """The agent of the stage's node ``near``; no pod has the addresses of ``t``. A test turns its loop."""

    def __init__(self, stage: Stage, results: Path, *, closing: bool) -> None:
        """``closing``: what no pod is known to have is closed."""
        self._stage = stage
        self._results = results
        self._watch = _Watch()
        networks = f"{stage.near.cidr4},{stage.near.cidr6}"
        given = {"node_name": "near", "history_size": "0"}
        given |= {"new_pods": "deny", "pod_networks": networks} if closing else {}
        host = HostState((), frozenset(Family), False, False)
        self._source = CniSource(self._watch, "near", [results], None)
        world = World(SYSTEM, _no_thread, lambda *_: host)
        choice = ModeChoice("legacy" if stage.mode is Mode.LEGACY else "nft", "chosen")
        self.agent = Agent(resolve(given, {}), choice, host, self._source, self._backend, world=world)

    def _backend(self, _families: tuple[Family, ...]) -> Backend:
        return self._stage.kind.make(Options(), patience=0.1)

    def start(self) -> None:
        self.agent.start()
        cast = [Upsert(Kind.POD, self._stage.pod(name)) for name in self._stage.pods if name != "t"]
        named = [Upsert(Kind.NAMESPACE, Namespace(name, {"team": name})) for name in ("x", "y")]
        self.tell(*cast, *named, *map(Synced, Kind))
        self._until(lambda: self.agent.views.health().applied, self.agent.turn)
        self.settle()

    def tell(self, *events: Event) -> None:
        """Have the watch tell something."""
        self._watch.sink(events)

    def nothing_differs(self) -> bool:
        """Whether the kernel holds what it is to hold, and no address is closed that was withdrawn."""
        backend, program = self.agent._calls.backend, self.agent.views.engine.lowered
        found = self._stage.near.run("ipset", "list", *("-output", "save"))
        return not backend.audit(program) and f"add {CLOSED_SETS}" not in found

    def is_busy(self) -> bool:
        """Whether a command is waited for."""
        return self.agent._calls.backend.busy

    def settle(self) -> None:
        """Turn the loop until all that was told is in the kernel."""
        self._until(self.agent._reconcile.quiet, self.agent.turn)

    def until_idle(self) -> None:
        """Turn the loop until no command is waited for."""
        self._until(lambda: not self.is_busy(), self.agent.turn)

    def _until(self, what: Callable[[], bool], otherwise: Callable[[], object]) -> None:
        limit = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < limit, "it took too long"
            otherwise()

    def has(self, pod: Pod, stage: Stage, *, told: bool = True) -> None:
        """Have a network plugin give a pod the addresses of ``t``; wait until the source has taken it.

        ``told``: it then tells of it, since it knows the pod.
        """
        addresses = (stage.pods["t"].v4, stage.pods["t"].v6)
        args = {"K8S_POD_NAMESPACE": pod.namespace, "K8S_POD_NAME": pod.name, "K8S_POD_UID": pod.uid}
        found = {
            "kind": "cniCacheV1",
            "containerId": f"c{pod.uid}",
            "ifName": "eth0",
            "cniArgs": list(args.items()),
            "result": {"interfaces": [{"name": _LINK}], "ips": [{"address": f"{a}/32"} for a in addresses]},
        }
        file = self._results / f"net-c{pod.uid}-eth0"
        self._until_taken(lambda: file.write_text(json.dumps(found)), 1, told=told)

    def loses(self, pod: Pod, *, told: bool = True) -> None:
        """Have the network of a pod be taken away, and wait as in :meth:`has`."""
        file = self._results / f"net-c{pod.uid}-eth0"
        self._until_taken(file.unlink, 0, told=told)

    def _until_taken(self, change: Callable[[], object], results: int, *, told: bool) -> None:
        number = self.agent.inbox.told + told
        change()

        def is_taken() -> bool:
            return self._source.state().results == results and self.agent.inbox.told >= number

        self._until(is_taken, lambda: time.sleep(0.002))


@contextlib.contextmanager
def running(stage: Stage, results: Path, *, closing: bool) -> Iterator[Node]:
    stage.given()
    stage.prove_open(*CLOSED)
    assert stage.backend is not None
    stage.backend.close()
    stage.backend = None
    with contextlib.ExitStack() as stack:
        stack.callback(stage.given)
        stack.enter_context(stage.kernel())
        made = Node(stage, results, closing=closing)
        stack.callback(made.agent.end)
        made.start()
        yield made
