"""Programs of Debian packages that are unpacked for a lab, and not installed.

A firewall service that was installed would start, and take the machine's own firewall.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.lab.debian import run
from tests.lab.kube_build import cache_directory

_OVERLAID = ("usr", "etc")


def unpacked(*packages: str) -> Path:
    """Return the directory with packages, and with what they depend on that this machine lacks.

    They come from the archives that apt has here, once; later calls find them in the cache. Raises LabError.
    """
    target = cache_directory() / f"unpacked-{'-'.join(packages)}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _unpack(packages, target)
    return target


def _unpack(packages: Sequence[str], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        archives, root = Path(directory, "archives"), Path(directory, "root")
        (archives / "partial").mkdir(parents=True)
        root.mkdir()
        options = ["--yes", "--download-only", "--no-install-recommends", "--reinstall"]
        run(["apt-get", "install", *options, "-o", f"Dir::Cache::archives={archives}", *packages])
        for found in sorted(archives.glob("*.deb")):
            run(["dpkg-deb", "--extract", str(found), str(root)])
        for part in _OVERLAID:
            (root / part).mkdir(exist_ok=True)
        shutil.move(root, target)


def overlaid(root: Path, command: Sequence[str], *, over: Path, writable: Sequence[str] = ()) -> list[str]:
    """Return a command that runs another one where unpacked packages seem to be installed.

    It has to be started in a mount namespace of its own, which it changes. ``over``: a directory of the
    caller's whose ``etc`` and ``usr`` come before those of the packages. ``writable``: directories that are
    empty and can be written to, such as those of a program's state.
    """
    for directory in [*(f"/{part}" for part in _OVERLAID), *writable]:
        if directory.startswith(tuple(f"/{part}" for part in _OVERLAID)):
            (over / directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
    mounts = [
        f"mount -t overlay overlay -o lowerdir={over}/{part}:{root}/{part}:/{part} /{part}"
        for part in _OVERLAID
    ]
    mounts += [f"mount -t tmpfs tmpfs {directory}" for directory in writable]
    return ["sh", "-c", " && ".join([*mounts, 'exec "$0" "$@"']), *command]


def ended(process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    """End a process that was started so, and wait until it has, however long it would take."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
