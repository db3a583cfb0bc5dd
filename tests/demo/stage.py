"""The demo's stage: a node with pods and hosts as network namespaces, and the agent on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from agent.net import Family, Protocol
from tests.demo.examples import Destination, Examples
from tests.demo.show import Seen, Way
from tests.lab.lab import Lab
from tests.lab.node import Layout, Mode, Node
from tests.lab.place import Place
from tests.lab.probe import Flow, Verdict

NODE = "demo"
_ROOT = Path(__file__).parents[2]
_READY_SECONDS = 30.0
_STOP_SECONDS = 10.0
_PORT = 20245


class StageError(Exception):
    """The demo cannot go on; the text says why, and ends with the agent's last words where it has any."""


class Stage:
    """Pods, hosts and the ports they serve."""

    def __init__(self, lab: Lab, examples: Examples, layout: Layout, mode: Mode) -> None:
        self.lab = lab
        self._examples = examples
        self.node = lab.node(NODE, layout, mode)
        self._places: dict[str, Place] = {host: lab.host(host) for host in examples.hosts}
        for pod in examples.pods:
            self._places[pod.name] = lab.pod(self.node, pod.name, (pod.v4, pod.v6))
        for destination in examples.destinations:
            lab.serve(
                self._places[destination.at],
                tcp=[destination.port] if destination.protocol is Protocol.TCP else (),
                udp=[destination.port] if destination.protocol is Protocol.UDP else (),
            )

    def look(self) -> Seen:
        """Try every way with a fresh connection."""
        flows = {
            Way(source, destination.name, family): self.flow(source, destination, family)
            for source in self._examples.sources
            for destination in self._examples.destinations
            for family in Family
            if self._examples.tried(source, destination)
        }
        verdicts = self.lab.probe(list(flows.values()))
        return {way: verdict is Verdict.ALLOWED for way, verdict in zip(flows, verdicts, strict=True)}

    def flow(self, source: str, destination: Destination, family: Family) -> Flow:
        """Return one way as a flow to probe."""
        address = self._places[destination.at].address(family)
        return Flow(self._places[source], address, destination.protocol, destination.port)

    def look_until(self, wanted: Seen, timeout: float) -> tuple[Seen, float]:
        """Try until all is as wanted, then once more; return what was seen last, and the seconds it took."""
        begin = time.monotonic()
        while (seen := self.look()) != wanted and time.monotonic() - begin < timeout:
            pass
        took = time.monotonic() - begin
        return (self.look() if seen == wanted else seen), took


class Agent:
    """The agent on the stage's node, reading a directory of manifests of its own."""

    def __init__(self, process: subprocess.Popen[bytes], node: Node, manifests: Path, log: Path) -> None:
        self._process = process
        self._node = node
        self.manifests = manifests
        self.log = log

    def wait_until_ready(self) -> None:
        """Return when it says that it is ready; raises StageError when it ends or takes too long."""
        deadline = time.monotonic() + _READY_SECONDS
        answer = "it does not answer"
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise StageError(
                    f"the agent has ended with code {self._process.returncode}:\n{self._words()}"
                )
            ready, answer = self._ask()
            if ready:
                return
            time.sleep(0.05)
        raise StageError(f"the agent is not ready after {_READY_SECONDS:.0f} s:\n{answer}\n{self._words()}")

    def add(self, manifest: Path) -> None:
        """Give it one more file, whole at once."""
        part = self.manifests / f".{manifest.name}.part"
        shutil.copyfile(manifest, part)
        part.rename(self.manifests / manifest.name)

    def remove(self, manifest: Path) -> None:
        """Take a file away."""
        (self.manifests / manifest.name).unlink()

    def _ask(self) -> tuple[bool, str]:
        try:
            with (
                self._node.netns.entered(),
                urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/readyz", timeout=5) as answer,
            ):
                return True, answer.read().decode()
        except urllib.error.HTTPError as error:
            return False, error.read().decode()
        except OSError as error:
            return False, str(error)

    def _words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


@contextlib.contextmanager
def agent(stage: Stage, directory: Path, first: Path, mode: str) -> Iterator[Agent]:
    """Run the agent, on one manifest to begin with; it is stopped at the end, whatever happens."""
    manifests = directory / "manifests"
    manifests.mkdir()
    shutil.copyfile(first, manifests / first.name)
    log = directory / "agent.log"
    command = [sys.executable, "-m", "agent", "run", "--manifests", str(manifests), "--node-name", NODE]
    command += ["--state-dir", str(directory / "state"), "--iptables-mode", mode, "--health-port", str(_PORT)]
    with log.open("wb") as output:
        # What a person has set for agents of their own has no say here.
        environment = {name: "" for name in os.environ if name.startswith("NETPOL_AGENT_")}
        environment |= {"PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"}
        process = stage.node.popen(command, output=output, environment=environment)
    try:
        yield Agent(process, stage.node, manifests, log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
