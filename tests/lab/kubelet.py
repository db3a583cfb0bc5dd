"""Stands in for kubelets where tests create pods with kubectl alone: the API's pods become the lab's."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.lab.beside import Beside
from tests.lab.client import ApiError, Json
from tests.lab.cluster import Cluster
from tests.lab.netns import Netns
from tests.lab.place import LabError

INTERVAL = 0.1


class Kubelets:
    """Makes each pod that is bound to a node of the lab, runs its command there, and reports it running.

    A context manager. A pod's only container runs by this machine's Python, not from its image: what is run
    has to begin with ``python3``. Namespaces that are being deleted are finished. No probes, no logs, no
    exec by the API server: :meth:`execute` runs a command where ``kubectl exec`` would. For other processes
    ``directory`` has a file for each pod, ``NAMESPACE_NAME``, with the path of its network namespace.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._client = cluster.client.another()
        self.directory = cluster.lab.directory / "pods"
        self.directory.mkdir()
        self._places: dict[tuple[str, str], Netns] = {}
        self._running: dict[str, tuple[tuple[str, str], subprocess.Popen[bytes]]] = {}
        self._beside = Beside(self._look, lambda: INTERVAL, "making of pods")

    def __enter__(self) -> Self:
        self._beside.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._beside.close()
        finally:
            for uid in list(self._running):
                self._remove(uid)
            self._client.close()

    def execute(self, namespace: str, name: str, *command: str) -> str:
        """Run a command, which begins with ``python3``, in a pod; return what it printed."""
        return self._places[namespace, name].run(_by_our_python(list(command)))

    def _look(self) -> None:
        for namespace in self._client.get("/api/v1/namespaces")["items"]:
            if namespace["status"]["phase"] == "Terminating":
                self._client.delete_namespace(namespace["metadata"]["name"])
        pods = {pod["metadata"]["uid"]: pod for pod in self._client.get("/api/v1/pods")["items"]}
        for uid in self._running.keys() - pods.keys():
            self._remove(uid)
        for uid, pod in pods.items():
            if uid not in self._running and pod["spec"].get("nodeName") in self._cluster.lab.nodes:
                self._start(uid, pod)

    def _start(self, uid: str, pod: Json) -> None:
        namespace, name = key = pod["metadata"]["namespace"], pod["metadata"]["name"]
        node = self._cluster.lab.nodes[pod["spec"]["nodeName"]]
        if pod["spec"].get("hostNetwork"):
            netns, addresses = node.netns, [node.v4, node.v6]
        else:
            made = self._cluster.lab.pod(node, f"{namespace}/{name}")
            netns, addresses = made.netns, [made.v4, made.v6]
        (container,) = pod["spec"]["containers"]
        with netns.entered():
            process = subprocess.Popen(_by_our_python(container["command"]), start_new_session=True)
        (self.directory / "_".join(key)).write_text(netns.path)
        self._places[key] = netns
        self._running[uid] = key, process
        status = {
            "phase": "Running",
            "podIP": addresses[0],
            "podIPs": [{"ip": address} for address in addresses],
            "startTime": pod["metadata"]["creationTimestamp"],
        }
        with contextlib.suppress(ApiError):  # deleted meanwhile
            self._client.set_pod_status(namespace, name, status)

    def _remove(self, uid: str) -> None:
        key, process = self._running.pop(uid)
        process.kill()
        process.wait()
        (self.directory / "_".join(key)).unlink()
        del self._places[key]
        for node in self._cluster.lab.nodes.values():
            if made := node.pods.get("/".join(key)):
                self._cluster.lab.remove(made)


def _by_our_python(command: list[str]) -> list[str]:
    if Path(command[0]).name != "python3":
        raise LabError(f"only Python is run here, not {command[0]}")
    return [sys.executable, *command[1:]]
