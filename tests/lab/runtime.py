"""The image of a pod's container, run on a node by crun from what kubelet and containerd would tell it.

The configuration is of the OCI runtime specification. What is in it beside the pod's own says what containerd
says by default: which parts of /proc and /sys are masked or read-only, the devices, and, for the seccomp
profile RuntimeDefault, the list of system calls that the container tools of Debian ship and containerd's is
a sibling of. Control groups are left out: limits are no part of what a pod may do.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import IO, Any

from tests.lab.client import Json
from tests.lab.container import ACCOUNT_DIRECTORY, Kubelet, environment, volume_source
from tests.lab.node import Node
from tests.lab.place import LabError

_SECCOMP = Path("/usr/share/containers/seccomp.json")
_ARCHITECTURES = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")}
_KNOWN_SECURITY = {
    *("allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem"),
    *("runAsUser", "runAsGroup", "seccompProfile"),
}
_MASKED = [
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats"),
    *("/sys/devices/virtual/powercap", "/sys/firmware"),
]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def start(
    node: Node, pod: Json, container: Json, kubelet: Kubelet, output: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a container of a pod's spec on a node; it is the child of the only child of what is returned.

    crun, that child, hands signals on. Call it from the main thread: all dies with this process. Raises
    LabError for what cannot be done here.
    """
    bundle = node.directory / "bundle"
    bundle.mkdir(exist_ok=True)
    config = configuration(node, pod, container, kubelet)
    (bundle / "config.json").write_text(json.dumps(config))
    # The process namespace around crun takes the container along however this process ends.
    around = "mount -t tmpfs none /sys/fs/cgroup && exec unshare --pid --fork --kill-child"
    crun = 'crun --root "$0/state" --cgroup-manager=disabled run --bundle "$0" agent'
    return node.popen(["sh", "-c", f"{around} {crun}", str(bundle)], output=output)


def configuration(node: Node, pod: Json, container: Json, kubelet: Kubelet) -> Json:
    """Return the OCI runtime configuration of a pod's container. Raises LabError."""
    image = kubelet.image
    if image is None:
        raise LabError("a container is of an image: Kubelet.image says which")
    security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    if unknown := security.keys() - _KNOWN_SECURITY:
        raise LabError(f"not known here, so it would not be what runs: {', '.join(sorted(unknown))}")
    if not pod.get("hostNetwork"):
        raise LabError("only pods on the host's network can be run here")
    if security.get("capabilities", {}).get("drop") != ["ALL"]:
        raise LabError(
            "a container keeps a runtime's default capabilities unless it drops ALL: not done here"
        )
    capabilities = [f"CAP_{name}" for name in security["capabilities"].get("add", ())]
    variables = environment(container, node, kubelet)
    linux: Json = {
        "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "mount"}],
        "maskedPaths": _MASKED,
        "readonlyPaths": _READ_ONLY,
    }
    if security.get("seccompProfile", {}).get("type") == "RuntimeDefault":
        linux["seccomp"] = seccomp(capabilities)
    arguments = container.get("args") or image.config.get("Cmd") or []
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": security.get("runAsUser", 0), "gid": security.get("runAsGroup", 0)},
            "args": [*(container.get("command") or image.config["Entrypoint"]), *arguments],
            "env": [f"{name}={text}" for name, text in variables.items()],
            "cwd": image.config.get("WorkingDir") or "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "noNewPrivileges": not security.get("allowPrivilegeEscalation", True),
        },
        "root": {"path": str(image.files), "readonly": bool(security.get("readOnlyRootFilesystem"))},
        "mounts": [*_usual_mounts(), *_mounts(node, pod, container, kubelet)],
        "linux": linux,
    }


def _usual_mounts() -> list[Json]:
    def mount(place: str, kind: str, *options: str) -> Json:
        return {"destination": place, "type": kind, "source": kind, "options": ["nosuid", *options]}

    return [
        mount("/proc", "proc", "noexec", "nodev"),
        mount("/dev", "tmpfs", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("/dev/shm", "tmpfs", "noexec", "nodev", "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", "noexec", "nodev"),
        mount("/sys", "sysfs", "noexec", "nodev", "ro"),
    ]


def _mounts(node: Node, pod: Json, container: Json, kubelet: Kubelet) -> list[Json]:
    volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
    binds: list[Json] = []

    def bind(source: Path, place: str, access: str) -> None:
        options = ["rbind", "rprivate", access]
        binds.append({"destination": place, "type": "bind", "source": str(source), "options": options})

    for mount in container.get("volumeMounts", ()):
        source = volume_source(node, volumes[mount["name"]])
        bind(source, mount["mountPath"], "ro" if mount.get("readOnly") else "rw")
    if pod.get("automountServiceAccountToken"):
        bind(kubelet.account, ACCOUNT_DIRECTORY, "ro")
    return binds


def seccomp(capabilities: list[str]) -> Json:
    """Return the default profile of system calls for a container with these capabilities. Raises LabError."""
    try:
        profile = json.loads(_SECCOMP.read_text())
    except OSError:
        raise LabError(f"no {_SECCOMP}: .ci/packages python3 image installs it") from None
    name, architecture = _ARCHITECTURES[platform.machine()]
    kernel = [int(part) for part in os.uname().release.split(".")[:2] if part.isdigit()]

    def holds(condition: Json) -> bool:
        """Whether every part of a condition, which is never empty, is met."""
        least = [int(part) for part in str(condition.get("minKernel", "0")).split(".")]
        return (
            ("arches" not in condition or name in condition["arches"])
            and ("caps" not in condition or set(condition["caps"]) <= set(capabilities))
            and least <= kernel
        )

    calls: list[dict[str, Any]] = []
    for rule in profile["syscalls"]:
        excludes = rule.get("excludes") or {}
        if not holds(rule.get("includes") or {}) or (excludes and holds(excludes)):
            continue
        call = {"names": rule["names"], "action": rule["action"], "args": rule.get("args") or []}
        if rule["action"] == "SCMP_ACT_ERRNO":
            call["errnoRet"] = rule["errnoRet"]
        calls.append(call)
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [architecture],
        "syscalls": calls,
    }
