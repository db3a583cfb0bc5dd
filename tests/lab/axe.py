"""axe-core, which finds what a page keeps from people who cannot see or point: from its npm package."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.lab.kube_build import cache_directory
from tests.lab.place import LabError
from tests.patience import PATIENCE

VERSION = "4.14.1"
SHA512 = (
    "1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b73"
    "4f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5"
)
"""Of the package as npm packs it."""


def axe_script() -> str:
    """Return the text of axe-core, fetching it when it is not in the cache. Raises LabError.

    Safe to call from several processes at once.
    """
    cached = cache_directory() / f"axe-core-{VERSION}.tgz"
    cached.parent.mkdir(parents=True, exist_ok=True)
    with cached.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not cached.exists():
            _fetch(cached)
    if hashlib.sha512(cached.read_bytes()).hexdigest() != SHA512:
        cached.unlink()
        raise LabError(f"axe-core {VERSION} is not the one that is pinned; it was removed from the cache")
    with tarfile.open(cached) as tar:
        member = tar.extractfile("package/axe.min.js")
        if member is None:
            raise LabError("axe-core has no axe.min.js")
        return member.read().decode()


def _fetch(cached: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise LabError("npm is not installed (Debian package npm)")
    with tempfile.TemporaryDirectory(dir=cached.parent) as directory:
        done = subprocess.run(
            [npm, "pack", "--silent", f"axe-core@{VERSION}"],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        packed = Path(directory) / f"axe-core-{VERSION}.tgz"
        if done.returncode or not packed.exists():
            raise LabError(f"npm cannot fetch axe-core {VERSION}: {done.stderr.strip()}")
        packed.rename(cached)
