"""A container of a pod on the host's network, run on a node as kubelet and a container runtime run it.

bubblewrap makes it, of this machine's system and Python and this checkout: a root in which nothing can be
written unless the pod says so; the pod's volumes and no other file of the node; a process namespace of its
own, whose first process the command is; the capabilities that the pod names and no others, also for what it
starts; no way to gain privileges. As runtimes do, /proc/sys and /sys are read-only. What kubelet would fill
in is filled in: the environment, its ConfigMaps and fields, and the service account's token. It starts as
fast as the command does, where :mod:`tests.lab.runtime` needs the image built, and filters no system calls.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from tests.lab.client import Json
from tests.lab.forking import Process
from tests.lab.node import Node
from tests.lab.place import LabError
from tests.patience import PATIENCE

ACCOUNT_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"

_ROOT = Path(__file__).parents[2]
_SYSTEM = ("bin", "etc", "lib", "lib32", "lib64", "sbin", "usr")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "PYTHONPATH": str(_ROOT),
}
_ENTRYPOINT = [sys.executable, "-m", "agent"]


class Image(Protocol):
    """What containers are made of: files, and the configuration of the OCI image specification."""

    @property
    def files(self) -> Path: ...

    @property
    def config(self) -> Json: ...


class Kubelet(NamedTuple):
    """What a kubelet knows beside the pod: ConfigMaps by name, and the API server's address as pods have it.

    ``account`` is a directory with the service account's ``token`` and ``ca.crt``. ``image`` is for
    :mod:`tests.lab.runtime`: the containers here are of this machine's system and Python, and this checkout.
    """

    configmaps: Mapping[str, Mapping[str, str]]
    service_host: str
    service_port: int
    account: Path
    image: Image | None = None


def start(
    node: Node, pod: Json, container: Json, kubelet: Kubelet, output: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a container of a pod's spec on a node; its process is :func:`main_process` of what is returned.

    Call it from the main thread: it dies with this process. Raises LabError for what cannot be done here.
    """
    command = container.get("command") or _ENTRYPOINT
    arguments = [*_sandbox(node, pod, container, kubelet), *command, *container.get("args", [])]
    return node.popen(arguments, output=output)


def main_process(started: Process) -> int:
    """Return the process id, as seen from here, of the container's first process; 0 when there is none."""
    try:
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    except OSError:
        return 0
    return int(children[0]) if children else 0


def stop(started: Process, number: int = signal.SIGTERM, timeout: float = PATIENCE) -> int:
    """Send the container's first process a signal, then kill after a time; return its exit code."""
    if started.poll() is None:
        if pid := main_process(started):
            os.kill(pid, number)
        try:
            started.wait(timeout)
        except subprocess.TimeoutExpired:
            started.kill()
    return started.wait()


def environment(container: Json, node: Node, kubelet: Kubelet) -> dict[str, str]:
    """Return the environment of a container. Raises LabError for a reference that leads nowhere."""
    found = dict(_ENVIRONMENT)
    if kubelet.image:
        found = {"HOME": "/root"} | dict(entry.split("=", 1) for entry in kubelet.image.config["Env"])
    found |= {
        "KUBERNETES_SERVICE_HOST": kubelet.service_host,
        "KUBERNETES_SERVICE_PORT": str(kubelet.service_port),
    }
    for source in container.get("envFrom", ()):
        name = source["configMapRef"]["name"]
        if name not in kubelet.configmaps:
            raise LabError(f"there is no ConfigMap {name}: the pod would not start")
        found |= kubelet.configmaps[name]
    fields = {"spec.nodeName": node.name, "status.hostIP": node.v4}
    for entry in container.get("env", ()):
        if "value" in entry:
            found[entry["name"]] = entry["value"]
        else:
            found[entry["name"]] = fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
    return found


def _sandbox(node: Node, pod: Json, container: Json, kubelet: Kubelet) -> list[str]:
    if not pod.get("hostNetwork"):
        raise LabError("only pods on the host's network can be run here")
    security = container.get("securityContext", {})
    # bubblewrap cannot do otherwise, so a pod that asks for otherwise would not be what runs.
    if security.get("allowPrivilegeEscalation", True) or security.get("privileged"):
        raise LabError("only containers that cannot gain privileges can be run here")
    command = ["bwrap", "--die-with-parent", "--unshare-pid", "--as-pid-1", "--clearenv"]
    for name, text in environment(container, node, kubelet).items():
        command += ["--setenv", name, text]
    command += _system()
    command += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
    command += ["--ro-bind", "/sys", "/sys", "--dir", "/tmp"]
    for mount in container.get("volumeMounts", ()):
        command += _mount(node, pod, mount)
    if pod.get("automountServiceAccountToken"):
        command += ["--ro-bind", str(kubelet.account), ACCOUNT_DIRECTORY]
    capabilities = security.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"]:
        raise LabError(
            "a container keeps a runtime's default capabilities unless it drops ALL: not done here"
        )
    command += ["--cap-drop", "ALL"]
    for name in capabilities.get("add", ()):
        command += ["--cap-add", f"CAP_{name}"]
    if security.get("readOnlyRootFilesystem"):
        command += ["--remount-ro", "/"]
    return [*command, "--chdir", "/", "--"]


def _system() -> list[str]:
    command = []
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), f"/{name}"]
        elif path.exists():
            command += ["--ro-bind", str(path), f"/{name}"]
    for place in sorted({str(_ROOT), sys.prefix, sys.base_prefix}):
        if not place.startswith("/usr"):
            command += ["--ro-bind", place, place]
    return command


def _mount(node: Node, pod: Json, mount: Json) -> list[str]:
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == mount["name"])
    if "emptyDir" in volume:
        return ["--tmpfs", mount["mountPath"]]
    source = volume_source(node, volume)
    return ["--ro-bind" if mount.get("readOnly") else "--bind", str(source), mount["mountPath"]]


def volume_source(node: Node, volume: Json) -> Path:
    """Return where a hostPath volume is, made if it is to be. Raises LabError when it is not as it says."""
    source = of_host(node, volume["hostPath"]["path"])
    kind = volume["hostPath"].get("type", "")
    if kind == "DirectoryOrCreate":
        source.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        source.touch()
    elif kind == "Directory" and not source.is_dir():
        raise LabError(f"{source} is no directory: the pod would not start")
    return source


def of_host(node: Node, path: str) -> Path:
    """Return where the file of a node is that its host would have at ``path``."""
    if path == "/run/xtables.lock":
        return Path(node.netns.environment["XTABLES_LOCKFILE"])
    if path.startswith("/proc/"):
        return Path(path)
    return node.directory / path.lstrip("/")
