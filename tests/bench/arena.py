"""What is measured on: one API server with a generated cluster, one node with the agent, and the probed pods.

Packets go from a client, a pod of another node on which no agent runs, to a target on the agent's node. Of
the generated pods no more than objects exist.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.cluster import (
    NODE,
    SAMPLE,
    Template,
    encode,
    fields,
    namespace,
    namespace_count,
    pod_key,
    pod_of,
    policy,
)
from tests.bench.result import Size
from tests.bench.settings import Settings
from tests.lab.apiserver import ApiServer
from tests.lab.children import dies_with_us
from tests.lab.client import Client
from tests.lab.cluster import ROOT, AgentProcess, http_get, wait_until
from tests.lab.etcd import Etcd
from tests.lab.lab import UNDERLAY4, Lab
from tests.lab.node import Pod
from tests.lab.place import LabError
from tests.lab.service import install_kube_proxy

HERE, THERE = "bench-here", "bench-there"
"""The namespaces of the target and of the client."""

Say = Callable[[str], None]

_LOADED_SECONDS = 600.0
_READY_SECONDS = 300.0


class Arena:
    """A cluster of one size; a context manager that leaves nothing behind."""

    def __init__(self, size: Size, settings: Settings, say: Say) -> None:
        self.size = size
        self.settings = settings
        self.say = say
        self._agent: AgentProcess | None = None
        with contextlib.ExitStack() as stack:
            self.lab = stack.enter_context(Lab())
            self.api = stack.enter_context(
                ApiServer(self.lab.underlay, UNDERLAY4, self.lab.directory / "api")
            )
            self.template = self.lab.directory / "pod.encoded"
            """A pod as the API server stores one: see :class:`tests.bench.cluster.Template`."""
            self._fill()
            self.node = self.lab.node(NODE, settings.layout, settings.mode)
            install_kube_proxy(self.node)
            far = self.lab.node("bench-far", settings.layout, settings.mode)
            self.target = self.lab.pod(self.node, f"{HERE}/target")
            self.fresh = self.lab.pod(self.node, f"{HERE}/fresh")
            self.client_pod = self.lab.pod(far, f"{THERE}/client")
            self._make_objects()
            stack.callback(self.stop_agent, signal.SIGKILL)
            self._stack = stack.pop_all()

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def client(self) -> Client:
        return self.api.client

    def _fill(self) -> None:
        """Have the cluster there: namespaces and policies through the API, pods straight into etcd.

        The API server is away meanwhile, and then reads them as one that starts.
        """
        begin = time.monotonic()
        self.say(f"writing {self.size.pods:,} pods and {self.size.policies:,} policies")
        for number in range(namespace_count(self.size)):
            self.client.post("/api/v1/namespaces", namespace(number, self.size))
        for number in range(self.size.policies):
            made = policy(number, self.size)
            self.client.post(_policies(made["metadata"]["namespace"]), made)
        self.template.write_bytes(self._encoded_sample())
        template = Template(self.template.read_bytes())
        self.api.stop()
        own = (fields(number, self.size) for number in range(self.size.pods))
        with self.etcd() as etcd:
            etcd.fill((pod_key(one), template.pod(one)) for one in own)
        self.say(f"written after {time.monotonic() - begin:.0f} s; the API server reads them")
        self.api.start(_LOADED_SECONDS)
        wait_until(lambda: self._served("/api/v1/pods") >= self.size.pods, _LOADED_SECONDS, 0.5)
        self._check_served()
        self.say(f"served after {time.monotonic() - begin:.0f} s")

    def _check_served(self) -> None:
        """See that the last pod reads as it was meant. Raises LabError."""
        own = fields(self.size.pods - 1, self.size)
        served = self.client.get(f"/api/v1/namespaces/{own.namespace}/pods/{own.name}")
        wanted = pod_of(own)
        for part in ("spec", "status"):
            # The API server adds defaults.
            served[part] = {key: served[part].get(key) for key in wanted[part] if key != "containers"}
            wanted[part].pop("containers", None)
        if any(served[part] != wanted[part] for part in ("spec", "status")) or (
            served["metadata"]["labels"] != wanted["metadata"]["labels"]
        ):
            raise LabError(f"the API server serves {own} as {served}")

    def _encoded_sample(self) -> bytes:
        """Return a pod as the API server stores its own: in Kubernetes' protobuf, which it reads quickly."""
        path = f"/api/v1/namespaces/{SAMPLE.namespace}/pods/{SAMPLE.name}"
        with self.etcd() as etcd:
            etcd.put([(pod_key(SAMPLE), encode(pod_of(SAMPLE)))])
        encoded = self.client.encoded(path, "application/vnd.kubernetes.protobuf")
        self.client.delete(path)
        return encoded

    def _served(self, path: str) -> int:
        """Return how many objects the API server has of a kind."""
        page = self.client.get(f"{path}?limit=1")
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))

    def _make_objects(self) -> None:
        for name in (HERE, THERE):
            self.client.create_namespace(name, {"of": "bench"})
        self.create(self.target, {"app": "target"})
        self.create(self.client_pod, {"app": "client"})

    def create(self, pod: Pod, labels: dict[str, str]) -> None:
        """Create a probed pod's object, and report it running."""
        namespace, name = pod.name.split("/")
        self.client.create_pod(
            namespace, name, node=pod.node.name, addresses=[pod.v4, pod.v6], labels=labels, ports=_PORTS
        )

    def client_object(self, labels: dict[str, str]) -> tuple[str, bytes]:
        """Return the client's object as etcd holds it, but with these labels, and its key."""
        namespace, name = self.client_pod.name.split("/")
        made = self.client.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        del made["metadata"]["resourceVersion"]
        made["metadata"]["labels"] = {"app": "client", **labels}
        return f"/registry/pods/{self.client_pod.name}", encode(made)

    def etcd(self) -> Etcd:
        """Return a connection to the API server's etcd."""
        with self.lab.underlay.entered():
            return Etcd()

    # The agent

    @property
    def agent(self) -> AgentProcess:
        """The agent that runs. Raises LabError when there is none."""
        if self._agent is None or self._agent.process.poll() is not None:
            tail = "" if self._agent is None else self._agent.tail()
            raise LabError(f"no agent runs on the node; its log ends with:\n{tail}")
        return self._agent

    def start_agent(self) -> int:
        """Start the agent; return when, in nanoseconds of the monotonic clock."""
        kubeconfig = str(self.api.kubeconfig("agent"))
        begin = time.monotonic_ns()
        self._agent = AgentProcess(self.node, "--kubeconfig", kubeconfig)
        return begin

    def stop_agent(self, number: int = signal.SIGTERM) -> None:
        """End the agent; what it put in the kernel stays."""
        if self._agent is not None:
            self._agent.stop(number)

    def ensure_agent(self) -> AgentProcess:
        """Have an agent running that is ready, and return it."""
        if self._agent is None or self._agent.process.poll() is not None:
            self.start_agent()
        self.agent.wait_ready(_READY_SECONDS)
        return self.agent

    def is_ready(self) -> bool:
        """Whether the agent says so."""
        try:
            return http_get(self.node, "/readyz")[0] == 200
        except OSError:
            return False

    def clean_kernel(self) -> None:
        """Remove from the node what the agent has put there. The agent must not run. Raises LabError."""
        log = self.lab.directory / "cleanup.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "agent", "cleanup"]
            process = self.node.popen(command, output=output, environment={"PYTHONPATH": str(ROOT)})
            if process.wait() != 0:
                raise LabError(f"the kernel cannot be cleaned: {log.read_text(errors='replace')}")

    @contextlib.contextmanager
    def policy(self, name: str, spec: dict[str, Any]) -> Iterator[None]:
        """Have a policy on the target's namespace for a while."""
        self.client.create_policy(HERE, name, spec)
        try:
            yield
        finally:
            self.client.delete_policy(HERE, name)


class Usage:
    """What a process and its children that have ended have used of processors and memory."""

    def __init__(self, pid: int) -> None:
        self._directory = Path("/proc", str(pid))

    def cpu_seconds(self) -> float:
        """Return processor time, that of its ended children too (proc(5): stat, fields 14 to 17)."""
        fields = (self._directory / "stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> tuple[float, float]:
        """Return resident memory now and at its peak, in millions of bytes."""
        text = (self._directory / "status").read_text()
        found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE))
        return int(found["VmRSS"]) * 1024 / 1e6, int(found["VmHWM"]) * 1024 / 1e6


@contextlib.contextmanager
def load(arena: Arena, kind: str, rate: float, count: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Write remote pod events in another process; see :mod:`tests.bench.load`. Call from the main thread."""
    size = arena.size
    cluster = f"{size.pods}/{size.local}/{size.policies}"
    with beside(
        arena, "tests.bench.load", cluster, str(arena.template), kind, str(rate), str(count)
    ) as process:
        yield process


@contextlib.contextmanager
def beside(arena: Arena, module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Have a module run where etcd is, in a process of its own. Call from the main thread."""
    with arena.lab.underlay.entered():
        process = subprocess.Popen(
            dies_with_us([sys.executable, "-m", module, *arguments]),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def _policies(namespace: str) -> str:
    return f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"


_PORTS = [("http", "TCP", 8080)]
