"""A node on which this machine's systemd is the first process and runs one unit.

Its files are this machine's, read-only, but for an /etc with little in it, and the node's own /run, /tmp and
/var. Its control groups and processes are its own; the network is the node's. It has no console, and what
systemd starts at boot elsewhere is not started, so nothing of this machine is set: the unit, and what the
unit wants, is all. The program is this checkout, on this Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.lab import container
from tests.lab.cluster import ROOT, AgentProcess
from tests.lab.node import Node
from tests.lab.place import LabError

SYSTEMD = Path("/lib/systemd/systemd")
_OF_THIS_MACHINE = (
    *("alternatives", "group", "ld.so.cache", "nsswitch.conf", "passwd", "protocols", "services"),
    "machine-id",
)
_TARGET = "machine.target"

# In a control group of its own; the process namespace takes along all that is in it, however it ends.
_ENTER = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup$0"
echo $$ >"/sys/fs/cgroup$0/cgroup.procs"
umount /sys/fs/cgroup
exec "$@"
"""
_LEAVE = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
tries=100
until find "/sys/fs/cgroup$0" -depth -type d -exec rmdir {} + || [ $tries = 0 ]; do
    tries=$((tries - 1)); sleep 0.05
done 2>/dev/null
"""


class UnitAgent(AgentProcess):
    """The agent of a unit file, on a node. ``process`` is systemd; when it ends, all of it does.

    ``program`` is where the unit says that the agent is, DIRECTORY/bin/NAME, ``defaults`` the text of the
    unit's file in /etc/default, and ``etc`` that node's /etc. Raises LabError where there is no systemd. Make
    it in the main thread: it dies with this process.
    """

    def __init__(self, node: Node, unit: Path, program: str, defaults: str) -> None:
        if not SYSTEMD.exists():
            raise LabError(f"no {SYSTEMD}: .ci/packages python3 image installs it")
        self.node = node
        self.unit = unit.name
        (node.directory / "run").mkdir(exist_ok=True)
        self.log = node.directory / "run/agent.log"
        self.log.touch()
        self.etc = self._etc(unit, defaults)
        self._group = f"{_control_group().rstrip('/')}/netpol-test-{os.getpid()}-{node.name}"
        self.output = node.directory / "systemd.log"
        command = [*("sh", "-euc", _ENTER, self._group), *self._sandbox(Path(program))]
        command += ["sh", "-euc", 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"', "sh"]
        command += [str(SYSTEMD), f"--unit={_TARGET}", "--log-target=null"]
        with self.output.open("ab") as output:
            self.process = node.popen(command, output=output)

    def _sandbox(self, program: Path) -> list[str]:
        command = ["bwrap", "--die-with-parent", "--as-pid-1", "--cap-add", "ALL", "--ro-bind", "/", "/"]
        command += [f"--unshare-{what}" for what in ("cgroup", "ipc", "pid", "uts")]
        command += [
            "--dev",
            "/dev",
            "--proc",
            "/proc",
            "--bind",
            "/run",
            "/run",
            "--bind",
            str(self.etc),
            "/etc",
        ]
        command += ["--tmpfs", "/tmp", "--tmpfs", "/var", "--dir", "/var/lib", "--dir", "/var/tmp"]
        # Where the checkout and its Python are, such as in a home directory, a unit may be kept from seeing.
        place = program.parents[1]
        command += ["--tmpfs", str(place.parent)]
        parts = {
            "python": sys.base_prefix,
            "packages": sysconfig.get_path("purelib"),
            "agent": ROOT / "agent",
        }
        for name, source in parts.items():
            command += ["--ro-bind", str(source), f"{place}/lib/{name}"]
        python = f"{place}/lib/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        script = self.node.directory / "program"
        # A Python that is a shared library would find the system's in its place.
        paths = f"LD_LIBRARY_PATH={place}/lib/python/lib PYTHONPATH={place}/lib:{place}/lib/packages"
        start = f'{paths} exec {python} -m agent "$@"'
        script.write_text(f"#!/bin/sh\n{start}\n")
        script.chmod(0o755)
        command += ["--ro-bind", str(script), str(program), "--clearenv", "--setenv", "container", "lab"]
        return [*command, "--setenv", "PATH", "/usr/sbin:/usr/bin:/sbin:/bin", "--"]

    def _etc(self, unit: Path, defaults: str) -> Path:
        etc = self.node.directory / "etc"
        units = etc / "systemd/system"
        for made in (units / f"{unit.name}.d", etc / "default"):
            made.mkdir(parents=True, exist_ok=True)
        for name in _OF_THIS_MACHINE:
            source = Path("/etc", name)
            if source.is_dir():
                shutil.copytree(source, etc / name, symlinks=True, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, etc / name)
        shutil.copy(unit, units)
        (units / f"{unit.name}.d/log.conf").write_text(
            "[Service]\nStandardOutput=append:/run/agent.log\nStandardError=inherit\n"
        )
        wanted = f"[Unit]\nDefaultDependencies=no\nWants={unit.name}\nAfter={unit.name}\n"
        (units / _TARGET).write_text(wanted)
        (etc / f"default/{unit.stem}").write_text(defaults)
        return etc

    def tail(self) -> str:
        """Return the end of the agent's log, and what systemd has said of itself."""
        return super().tail() + self.output.read_text(errors="replace")

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl there; return what it printed. Raises LabError when it fails."""
        pid = container.main_process(self.process)
        command = ["nsenter", f"--target={pid}", "--mount", "--pid", "--root", "systemctl", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"systemctl {' '.join(arguments)}: {done.stdout}{done.stderr}\n{self.tail()}")
        return done.stdout

    def show(self, name: str, unit: str = "") -> str:
        """Return a property that systemd has of a unit, the agent's unless said otherwise."""
        return self.systemctl("show", "--value", f"--property={name}", unit or self.unit).strip()

    def read(self, path: str) -> str:
        """Return what is in a file, by the names that files and processes have there."""
        pid = container.main_process(self.process)
        command = ["nsenter", f"--target={pid}", "--mount", "--pid", "--root", "cat", path]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def close(self) -> None:
        """End all of it."""
        self.process.kill()
        self.process.wait()
        command = ["unshare", "--mount", "sh", "-c", _LEAVE, self._group]
        subprocess.run(command, check=False)


def _control_group() -> str:
    """Return this process's control group, as the unified hierarchy names it (cgroups(7))."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    found = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    if not found:
        raise LabError("this kernel has no unified hierarchy of control groups, which systemd wants")
    return found[0]
