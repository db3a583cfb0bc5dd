"""A cluster: the API server, nodes with an agent each, and pods that exist in both at once."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.lab.apiserver import ApiServer
from tests.lab.client import Json
from tests.lab.forking import Process
from tests.lab.lab import UNDERLAY4, Lab
from tests.lab.node import Layout, Mode, Node, Pod
from tests.lab.place import LabError
from tests.lab.service import install_kube_proxy
from tests.patience import PATIENCE

HEALTH_PORT = 20245
ROOT = Path(__file__).parents[2]


def http_get(node: Node, path: str, port: int = HEALTH_PORT, timeout: float = PATIENCE) -> tuple[int, str]:
    """Ask an agent's HTTP server from its own node; return the status and the body. Raises OSError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with node.netns.entered():
        connection.connect()
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def python_of(code: Path) -> dict[str, str]:
    """Return the environment in which Python imports the agent from a checkout, from any directory."""
    return {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}


class AgentProcess:
    """An agent running on a node. Its log is ``agent.log`` in the node's directory, kept over restarts.

    ``code`` is the checkout whose agent it is, ``module`` what is run of it. ``forked``: it begins as a fork
    of a process that has imported it already; what its start takes is not what it takes on a node.
    """

    def __init__(
        self,
        node: Node,
        *arguments: str,
        code: Path = ROOT,
        module: Sequence[str] = ("agent",),
        forked: bool = False,
    ) -> None:
        self.node = node
        self.log = node.directory / "agent.log"
        state = node.directory / "state"
        command = [
            *(*module, "run", "--node-name", node.name),
            *("--iptables-mode", node.mode, "--health-port", str(HEALTH_PORT)),
            *("--state-dir", str(state), "--log-format", "console"),
            *arguments,
        ]
        with self.log.open("ab") as log:
            self.process: Process = (
                node.fork(*command, output=log)
                if forked
                else node.popen([sys.executable, "-m", *command], output=log, environment=python_of(code))
            )

    def wait_ready(self, timeout: float = PATIENCE) -> None:
        """Wait until /readyz says 200. Raises LabError, with the log's end, when it does not."""
        last = "it does not answer"

        def ready() -> bool:
            nonlocal last
            if self.process.poll() is not None:
                raise LabError(f"the agent on {self.node.name} ended: {self.tail()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, last = http_get(self.node, "/readyz")
                return status == 200
            return False

        try:
            wait_until(ready, timeout)
        except TimeoutError:
            text = f"the agent on {self.node.name} is not ready: {last}\n{self.tail()}"
            raise LabError(text) from None

    def status(self) -> Json:
        """Return /status."""
        status: Json = json.loads(http_get(self.node, "/status")[1])
        return status

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-4000:]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and wait for the end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def wait_until(condition: Callable[[], object], timeout: float = PATIENCE, interval: float = 0.02) -> float:
    """Wait until a condition holds; return the seconds it took. Raises TimeoutError.

    ``timeout``: long enough for a busy machine, where nothing is promised of how long it takes. The last look
    begins when it is over: on such a machine that of one look may be most of it.
    """
    begin = time.monotonic()
    while True:
        over = time.monotonic() - begin > timeout
        if condition():
            return time.monotonic() - begin
        if over:
            raise TimeoutError(f"not within {timeout} s")
        time.sleep(interval)


class Cluster:
    """An API server on a lab's underlay, and nodes that run the agent; a context manager.

    Nodes can be of different layouts and modes, and come and go. Objects of tests live in a
    :class:`Workspace` each. ``forked``: see :class:`AgentProcess`.
    """

    def __init__(self, *, forked: bool = False) -> None:
        self._forked = forked
        with contextlib.ExitStack() as stack:
            self.lab = stack.enter_context(Lab())
            self.api = stack.enter_context(
                ApiServer(self.lab.underlay, UNDERLAY4, self.lab.directory / "api")
            )
            self.agents: dict[str, AgentProcess] = {}
            stack.callback(self._stop_agents)
            self._stack = stack.pop_all()
        self.client = self.api.client
        self._workspaces = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every agent and server, and let go of the lab."""
        self._stack.close()

    def _stop_agents(self) -> None:
        for agent in self.agents.values():
            agent.stop(signal.SIGKILL)

    def node(self, name: str, layout: Layout, mode: Mode, *arguments: str) -> Node:
        """Add a node that forwards as kube-proxy sets it up, known to the API server, and start its agent.

        ``arguments`` are the agent's; call :meth:`wait_ready` when all nodes are there.
        """
        node = self.bare_node(name, layout, mode)
        self.start_agent(node, *arguments)
        return node

    def bare_node(self, name: str, layout: Layout, mode: Mode) -> Node:
        """Add such a node with no agent on it."""
        node = self.lab.node(name, layout, mode)
        install_kube_proxy(node)
        self.client.create_node(name, [node.v4, node.v6], [node.cidr4, node.cidr6])
        return node

    def start_agent(self, node: Node, *arguments: str) -> AgentProcess:
        """Start a node's agent, which must not run."""
        kubeconfig = str(self.api.kubeconfig("agent"))
        # One test wants a set of more members than a kernel gives by default: more than a policy may have.
        budget = ("--policy-budget", "networks=100000")
        agent = AgentProcess(node, "--kubeconfig", kubeconfig, *budget, *arguments, forked=self._forked)
        self.agents[node.name] = agent
        return agent

    def remove_node(self, node: Node) -> None:
        """Stop its agent, if it has one, and remove a node."""
        agent = self.agents.pop(node.name, None)
        if agent is not None:
            agent.stop()
        self.client.delete_node(node.name)
        self.lab.remove_node(node)

    def wait_ready(self) -> None:
        """Wait until every agent is ready."""
        for agent in self.agents.values():
            agent.wait_ready()

    def settle(self, timeout: float = PATIENCE) -> None:
        """Wait until every agent has seen all that was written through ``client``, and has applied it.

        Raises LabError with what an agent has not seen.
        """
        for agent in self.agents.values():
            try:
                wait_until(lambda a=agent: not self._missing(a), timeout)  # type: ignore[misc]
            except TimeoutError as error:
                text = f"the agent on {agent.node.name} has not settled ({error}): {self._missing(agent)}"
                raise LabError(text) from None

    def _missing(self, agent: AgentProcess) -> str:
        sources = {s["kind"]: int(s["resource_version"] or 0) for s in agent.status()["sources"]}
        for kind, version in self.client.written.items():
            if sources.get(kind, version) < version:
                return f"{kind} {version} was written, {sources[kind]} was the last that it has been told"
        # This answer comes after every event that had been told before the question.
        return "it is to try again" if agent.status()["kernel"]["retry_pending"] else ""

    def workspace(self) -> Workspace:
        """Return a place for one test's objects, whose names no other test uses."""
        return Workspace(self, f"t{os.getpid()}-{next(self._workspaces)}")


@dataclass
class Workspace:
    """One test's namespaces, policies and pods; a context manager that removes them."""

    cluster: Cluster
    prefix: str
    namespaces: list[str] = field(default_factory=list)
    pods: dict[str, tuple[str, Pod]] = field(default_factory=dict)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        for _namespace, pod in self.pods.values():
            if pod.node.pods.get(pod.name) is pod:
                self.cluster.lab.remove(pod)
        for namespace in self.namespaces:
            self.cluster.client.delete_namespace(namespace)

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """Create a namespace; return its full name."""
        full = f"{self.prefix}-{name}"
        self.namespaces.append(full)
        self.cluster.client.create_namespace(full, labels)
        return full

    def pod(
        self,
        node: Node,
        namespace: str,
        name: str,
        labels: Mapping[str, str] | None = None,
        *,
        ports: Sequence[tuple[str, str, int]] = (),
        tcp: Iterable[int] = (80,),
        udp: Iterable[int] = (),
        sctp: Iterable[int] = (),
        addresses: tuple[str, str] | None = None,
    ) -> Pod:
        """Create a pod in the lab and in the API. ``ports`` are its named ports: (name, protocol, number).

        As a network plugin does, the lab's pod comes first: the address is reported when it can be used.
        """
        lab = self.cluster.lab
        pod = lab.pod(node, f"{namespace}/{name}", addresses)
        self.pods[pod.name] = namespace, pod
        lab.serve(pod, tcp=tcp, udp=udp, sctp=sctp)
        self.cluster.client.create_pod(
            namespace, name, node=node.name, addresses=[pod.v4, pod.v6], labels=labels, ports=ports
        )
        return pod

    def delete_pod(self, pod: Pod) -> None:
        """Delete a pod from the lab, then from the API, as kubelet does."""
        namespace, _ = self.pods.pop(pod.name)
        if pod.node.pods.get(pod.name) is pod:
            self.cluster.lab.remove(pod)
        self.cluster.client.delete_pod(namespace, pod.name.split("/")[1])

    def label(self, pod: Pod, labels: Mapping[str, str | None]) -> None:
        """Set a pod's labels; None removes one."""
        namespace, name = pod.name.split("/")
        self.cluster.client.label_pod(namespace, name, labels)

    def policy(self, namespace: str, name: str, selector: Json | None = None, **spec: Any) -> None:
        """Create a policy on the pods of a selector (all pods without one)."""
        self.cluster.client.create_policy(namespace, name, {"podSelector": selector or {}, **spec})

    def replace_policy(self, namespace: str, name: str, selector: Json | None = None, **spec: Any) -> None:
        """Give a policy another spec."""
        self.cluster.client.replace_policy(namespace, name, {"podSelector": selector or {}, **spec})

    def delete_policy(self, namespace: str, name: str) -> None:
        self.cluster.client.delete_policy(namespace, name)
